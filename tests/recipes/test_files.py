"""Recipes: what the built-in ones say, what a file may say, and what is refused."""

import json
from dataclasses import fields

import pytest

from intraq_deploy.errors import UsageError
from intraq_deploy.pipeline.options import OwnRecipe
from intraq_deploy.recipes import BUILTIN, Recipe, builtin, builtin_text, check_recipe, parse, read
from intraq_deploy.recipes.files import SECTIONS
from intraq_deploy.recipes.overrides import Overrides, recipe_for, too_few_images
from intraq_deploy.recipes.sections import BadValue, value_of
from intraq_deploy.synthesis.recipe import SynthesisRecipe

SMALL, LARGE = (3, 32, 32), (3, 224, 224)
COMPLETE = """
[synthesis]
images = 100
iterations = 10
[training]
steps = 5
batch = 4
learning_rate = 1
"""


def quick_with(text, shape=SMALL, classes=10):
    return parse("mine.toml", f'extends = "quick"\n{text}').resolve(shape, classes)


# --- the built-in ones ---------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [10, 100, 1000])
@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["32", "224"])
@pytest.mark.parametrize("name", BUILTIN)
def test_every_built_in_recipe_is_whole(name, shape, classes):
    assert parse(name, builtin_text(name)) == builtin(name)
    assert isinstance(builtin(name).resolve(shape, classes), Recipe)
    assert builtin(name).description


# Of the paper and its released code: lambda_l, lambda_u, epsilon; batch, rate, milestones in epochs of 200 updates.
PAPER = {
    "CIFAR-10": (SMALL, 10, (0.05, 0.8, 0.95), (256, 1e-4, (20, 40, 60))),
    "CIFAR-100": (SMALL, 100, (0.02, 1.0, 0.6), (256, 1e-4, (20, 40, 60))),
    "ImageNet": (LARGE, 1000, (0.3, 0.8, 0.9), (16, 1e-6, (100,))),
}


@pytest.mark.parametrize("data", PAPER)
def test_the_paper_recipe_is_the_papers(data):
    shape, classes, constants, (batch, rate, epochs) = PAPER[data]
    recipe = builtin("paper").resolve(shape, classes)
    s, t = recipe.synthesis, recipe.training
    assert (s.images, s.batch, s.iterations, s.labels) == (5120, 256, 1000, "uniform")
    assert (s.learning_rate, s.schedule) == (0.5, "plateau")
    assert (s.statistics, s.statistics_weight, s.shallow_weight) == ("variance", 1, 1)
    assert (s.soft_inception, s.marginal_distance) == (1, 1)
    assert (s.low_pass, s.swing, s.resolution) == (0, False, 1)
    assert (s.crop_probability, s.smallest_crop) == (0.5, 0.5)
    assert (s.lower, s.upper, s.softest_target) == constants
    assert recipe.quantization.ranges == "min-max"
    assert not recipe.quantization.equalize
    assert not recipe.fitting.correct
    assert t.steps == 147 * 200 == 29_400
    assert (t.batch, t.learning_rate, t.rate_unit) == (batch, rate, "value")
    assert (t.optimizer, t.weight_decay, t.schedule) == ("sgd", 1e-4, "steps")
    assert t.milestones == pytest.approx([epoch / 147 for epoch in epochs])
    assert (t.cross_entropy, t.temperature) == (1, 20)
    assert t.distillation == pytest.approx(20 / classes), "the released code's mean is over images and classes"
    assert (t.centred_logits, t.features, t.least_confidence) == (0, 0, 0)
    assert (t.smallest_crop, t.mixup) == (0.5, False)
    assert (t.average, t.freeze_oscillations) == (0, 0)


def test_the_rate_falls_at_the_papers_epochs():
    """A milestone is a fraction of all steps: it is reached in its epoch's first update, not one before."""
    for shape, classes, _, (_, _, epochs) in PAPER.values():
        training = builtin("paper").resolve(shape, classes).training
        for milestone, epoch in zip(training.milestones, epochs, strict=True):
            assert 200 * epoch / training.steps >= milestone > (200 * epoch - 1) / training.steps


@pytest.mark.parametrize("name", ["quick", "standard"])
@pytest.mark.parametrize(("classes", "constants"), [(30, "CIFAR-10"), (31, "CIFAR-100"), (301, "ImageNet")])
def test_constants_are_those_of_the_nearest_data_set(name, classes, constants):
    synthesis = builtin(name).resolve(LARGE, classes).synthesis
    assert (synthesis.lower, synthesis.upper, synthesis.softest_target) == PAPER[constants][2]


# --- what a file says ----------------------------------------------------------------------------------


def test_a_file_alone_has_the_defaults():
    recipe = parse("mine.toml", COMPLETE).resolve(LARGE, 10)
    assert recipe.synthesis == SynthesisRecipe(images=100, iterations=10)
    assert type(recipe.training.learning_rate) is float
    assert recipe.quantization.ranges == "scheme"
    assert not recipe.fitting.correct


def test_later_groups_win():
    text = """
    synthesis.images = 40
    [[when]]
    pixels_at_most = 1024
    synthesis.images = 30
    synthesis.batch = 3
    [[when]]
    classes_at_most = 20
    pixels_at_most = 1024
    synthesis.images = 20
    [[when]]
    classes_at_most = 10
    synthesis.images = 10
    """

    def images(shape, classes):
        return quick_with(text, shape, classes).synthesis.images

    assert images(LARGE, 100) == 40
    assert images(SMALL, 100) == 30
    assert images((3, 32, 33), 20) == 40
    assert images(SMALL, 20) == 20
    assert images(SMALL, 10) == 10
    assert images(LARGE, 10) == 10
    assert quick_with(text, SMALL, 10).synthesis.batch == 3


def test_what_extends_wins_over_all_of_what_it_extends():
    """Over its [[when]] groups too."""
    recipe = quick_with("training.steps = 7")
    quick = builtin("quick").resolve(SMALL, 10)
    assert recipe.training.steps == 7
    assert recipe.training.batch == quick.training.batch
    assert recipe.synthesis == quick.synthesis


def test_lists_and_whole_numbers_become_what_the_recipe_holds():
    training = quick_with('training.milestones = [0, 0.5, 1]\ntraining.schedule = "steps"').training
    assert training.milestones == (0.0, 0.5, 1.0)
    assert all(type(milestone) is float for milestone in training.milestones)


@pytest.mark.parametrize("section", SECTIONS)
def test_no_number_is_without_bounds(section):
    """Of 1e300 torch makes an exception, of as many steps a run without end."""
    for field in fields(getattr(builtin("best").resolve(SMALL, 10), section)):
        for value in (10**300, 1e300):
            with pytest.raises(BadValue):
                value_of(section, field.name, [value] if field.name == "milestones" else value)


@pytest.mark.parametrize("name", BUILTIN)
def test_recipes_survive_json(name):
    """As config.json keeps a person's own."""
    file = builtin(name)
    own = OwnRecipe(name="mine.toml", values=dict(file.values))
    kept = OwnRecipe.model_validate_json(own.model_dump_json())
    assert kept == own
    assert kept.values["when"] == file.values["when"]
    for shape, classes in ((SMALL, 10), (LARGE, 1000)):
        assert check_recipe(kept.name, kept.values).resolve(shape, classes) == file.resolve(shape, classes)


def test_the_name_of_a_file_is_its_path(tmp_path):
    (tmp_path / "mine.toml").write_text(f'description = "drei Größen"\n{COMPLETE}', encoding="utf-8")
    file = read(tmp_path / "mine.toml")
    assert (file.name, file.description) == (str(tmp_path / "mine.toml"), "drei Größen")


# --- refusals ------------------------------------------------------------------------------------------

REFUSED = {
    "synthesys = 1": ["unknown key synthesys", "did you mean synthesis?"],
    "steps = 5": ["unknown key steps", "it belongs under [training]"],
    "images = 5": ["unknown key images", "it belongs under [synthesis] or [fitting]"],
    "colour = 5": ["unknown key colour", "known are description, extends, when"],
    "synthesis.image = 5": ["unknown key synthesis.image", "did you mean synthesis.images?"],
    "synthesis.steps = 5": ["unknown key synthesis.steps", "it belongs under [training]"],
    "quantization.zzz = 5": ["unknown key quantization.zzz", "known are ranges, equalize"],
    "quantization.correct = true": ["unknown key quantization.correct", "it belongs under [fitting]"],
    'synthesis.images = "5"': ['synthesis.images = "5"', "give a whole number"],
    "synthesis.images = true": ["synthesis.images = true", "give a whole number"],
    "synthesis.images = 5.0": ["synthesis.images = 5.0", "give a whole number"],
    "synthesis.images = {a = 1}": ['synthesis.images = {"a": 1}', "give a whole number"],
    'training.temperature = "4"': ['training.temperature = "4"', "give a number"],
    "training.temperature = true": ["training.temperature = true", "give a number"],
    "training.mixup = 1": ["training.mixup = 1", "give true or false"],
    "synthesis.images = 1": ["synthesis.images = 1", "give at least 2"],
    "training.average = 1.0": ["training.average = 1.0", "give less than 1"],
    "synthesis.softest_target = 0.0": ["synthesis.softest_target = 0.0", "give more than 0"],
    "synthesis.resolution = 0": ["synthesis.resolution = 0", "give more than 0"],
    "synthesis.resolution = 1.5": ["synthesis.resolution = 1.5", "give at most 1"],
    "synthesis.upper = 2.5": ["synthesis.upper = 2.5", "give at most 2"],
    "training.learning_rate = inf": ["training.learning_rate = inf", "give a finite number"],
    "training.learning_rate = nan": ["training.learning_rate = nan", "give a finite number"],
    'synthesis.schedule = "cosin"': ['synthesis.schedule = "cosin"', "give 'plateau' or 'cosine'"],
    "synthesis.schedule = 2020-01-01": ['synthesis.schedule = "2020-01-01"', "give 'plateau' or 'cosine'"],
    "training.milestones = 0.5": ["training.milestones = 0.5", "give a list"],
    "training.milestones = [0.5, 2]": ["training.milestones[1] = 2", "give at most 1"],
    'training.milestones = [0.5, "a"]': ['training.milestones[1] = "a"', "give a number"],
    "synthesis = 5": ["synthesis = 5", "write [synthesis] above its keys"],
    "[[synthesis]]\nimages = 5": ['synthesis = [{"images": 5}]', "write [synthesis] above its keys"],
    'extends = "bets"': ["extends 'bets'", "did you mean best?"],
    'extends = "mine.toml"': ["extends 'mine.toml', which is not built in", "choose one of quick, standard"],
    "extends = 5": ["extends = 5", "text in quotes"],
    "description = true": ["description = true", "text in quotes"],
    "when = 5": ["write [[when]] above each group"],
    "[when]\npixels_at_most = 5": ["write [[when]] above each group"],
    "[[when]]\nsynthesis.images = 5": ["number 1,", "no condition", "add pixels_at_most or classes_at_most"],
    "[[when]]\npixel_at_most = 5": ["unknown key pixel_at_most", "did you mean pixels_at_most?"],
    "[[when]]\nclasses_at_most = true": ["classes_at_most = true", "a whole number from 1 on"],
    "[[when]]\nclasses_at_most = 0": ["classes_at_most = 0", "a whole number from 1 on"],
    "[[when]]\nclasses_at_most = 9\n[[when]]\nclasses_at_most = 1\nsynthesis.images = 0": [
        "in [[when]] number 2, has synthesis.images = 0: give at least 2"
    ],
    "synthesis.images = 1_000_001": ["synthesis.images = 1000001", "give at most 1,000,000."],
    "synthesis.iterations = 10_000_001": ["give at most 10,000,000."],
    "training.steps = 10_000_001": ["give at most 10,000,000."],
    "training.learning_rate = 1e308": ["training.learning_rate = 1e+308", "give at most 1,000,000."],
    "synthesis.low_pass = 1e300": ["synthesis.low_pass = 1e+300", "give at most 10."],
    f"synthesis.images = {'9' * 400}": ["synthesis.images = 999", "...: give at most 1,000,000."],
    f"synthesis.images = {'9' * 5000}": ["a number of thousands of digits", "leave that out."],
    f"synthesis.images = 0x{'f' * 5000}": ["a number of thousands of digits", "leave that out."],
    f"synthesis.images = {'[' * 5000}": ["hundreds of groups in groups", "leave that out."],
    f"synthesis.images{'.a' * 5000} = 1": ["hundreds of groups in groups", "leave that out."],
    "hello world": ["is not TOML (Expected '='", "line 1", "recipes show quick"],
}  # fmt: skip


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:60])
def test_what_no_recipe_says_is_refused(text):
    with pytest.raises(UsageError) as refusal:
        parse("mine.toml", text)
    message = str(refusal.value)
    assert message.startswith("The recipe mine.toml")
    assert message[-1] in ".?"
    assert "\n" not in message
    for words in REFUSED[text]:
        assert words in message


def test_what_is_missing_is_named():
    with pytest.raises(
        UsageError, match=r"mine has no synthesis.iterations, training.batch: add .* extends = \"quick\""
    ):
        parse("mine", COMPLETE.replace("iterations = 10", "").replace("batch = 4", "")).resolve(SMALL, 10)


def test_what_is_given_for_some_networks_is_missing_for_others():
    text = COMPLETE.replace("images = 100", "") + "[[when]]\nclasses_at_most = 10\nsynthesis.images = 20"
    assert parse("mine", text).resolve(SMALL, 10).synthesis.images == 20
    with pytest.raises(UsageError, match=r"has no synthesis.images: add"):
        parse("mine", text).resolve(SMALL, 11)


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe" * 10)
    for path, words in (
        (tmp_path / "absent", "No such file or directory"),
        (tmp_path, "Is a directory"),
        (tmp_path / "binary", "not text"),
    ):
        with pytest.raises(UsageError, match=rf"cannot be read \(.*{words}\): give a TOML file\."):
            read(path)


@pytest.mark.parametrize(("name", "words"), [("bset", "did you mean best?"), ("mine.toml", "choose one of quick")])
def test_an_unknown_built_in_recipe(name, words):
    with pytest.raises(UsageError) as refusal:
        builtin(name)
    assert f"{name!r} is unknown" in str(refusal.value)
    assert words in str(refusal.value)


# --- numbers in place of the recipe's ------------------------------------------------------------------


def test_given_numbers_override():
    plain = recipe_for(builtin("quick"), SMALL, 10)
    assert plain == builtin("quick").resolve(SMALL, 10)
    own = recipe_for(builtin("quick"), SMALL, 10, Overrides(images=2, iterations=1, steps=0))
    assert (own.synthesis.images, own.synthesis.iterations, own.training.steps) == (2, 1, 0)
    assert own.synthesis.batch == plain.synthesis.batch


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"images": 1}, "--images is 1: at least 2 is needed."),
        ({"images": 1_000_001}, "--images is 1000001: at most 1,000,000 are possible."),
        ({"iterations": 10**30}, "at most 10,000,000 are possible."),
        ({"steps": 10**30}, "at most 10,000,000 are possible."),
        ({"steps": 2.5}, "--steps is 2.5: give a whole number."),
        ({"images": "8"}, "--images is '8': give a whole number."),
        ({"steps": False}, "--steps is False: give a whole number."),
    ],
    ids=str,
)
def test_given_numbers_that_cannot_be(given, words):
    with pytest.raises(UsageError) as refusal:
        recipe_for(builtin("quick"), SMALL, 10, Overrides(**given))
    assert str(refusal.value).endswith(words)


@pytest.mark.parametrize(
    ("steps", "reconstruct", "expected"), [(None, False, True), (0, False, False), (0, True, True)]
)
def test_no_steps_are_no_reconstruction_unless_asked_for(steps, reconstruct, expected):
    recipe = recipe_for(builtin("best"), SMALL, 10, Overrides(steps=steps, reconstruct=reconstruct))
    assert recipe.reconstruction.enabled == expected


@pytest.mark.parametrize(
    ("labels", "images", "classes", "words"),
    [
        ("stratified", 64, 1000, "64 images for 1,000 classes: 936 classes have none; give more --images, 1000"),
        ("stratified", 9, 10, "9 images for 10 classes: 1 class has none"),
        ("uniform", 8, 10, "8 images for 10 classes: at least 2 classes have none"),
        ("stratified", 10, 10, None),
    ],
)
def test_fewer_images_than_classes_are_noticed(labels, images, classes, words):
    said = too_few_images(SynthesisRecipe(images, 1, labels=labels), classes)
    assert said is None if words is None else said.startswith(words)


def test_sections_are_plain_values():
    """What `recipes list` shows is what a run resolves to."""
    for name in BUILTIN:
        given, recipe = builtin(name).sections(LARGE, 1000), builtin(name).resolve(LARGE, 1000)
        assert json.loads(json.dumps(given)) == given
        for section in SECTIONS:
            for key, value in given[section].items():
                made = getattr(getattr(recipe, section), key)
                assert (list(made) if isinstance(made, tuple) else made) == value
