"""Fine-tuning: it learns, it resumes, it stops when it diverges."""

import copy
from dataclasses import replace

import pytest
import torch
from support import SMALL_SHAPE, random_images, small_network

from intraq_deploy.errors import DivergedError, UsageError
from intraq_deploy.graph.ops import Add
from intraq_deploy.graph.trace import trace
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.blocks import block_outputs
from intraq_deploy.training.checkpoint import load_checkpoint, load_student, save_checkpoint, save_student
from intraq_deploy.training.loop import Trainer
from intraq_deploy.training.losses import distillation
from intraq_deploy.training.optimizer import make_optimizer, schedule
from intraq_deploy.training.oscillations import OscillationFreezer
from intraq_deploy.training.recipe import TrainingRecipe
from intraq_deploy.training.teacher import Teacher

CPU = torch.device("cpu")
RECIPE = TrainingRecipe(steps=12, batch=16, learning_rate=1e-3)


@pytest.fixture(scope="module")
def images():
    return SyntheticSet(random_images(32), torch.arange(32) % 10, torch.ones(32))


def teacher():
    return Teacher(trace(small_network("resnet"), SMALL_SHAPE))


def trainer(student, images, recipe=RECIPE, **options):
    return Trainer(student(**options), teacher(), images, recipe, 0, CPU)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("scheme", ["integer", "paper"])
def test_the_student_comes_nearer_to_its_teacher(student, images, scheme):
    network = small_network("resnet")
    recipe = replace(RECIPE, steps=80, learning_rate=5e-4)
    run = trainer(student, images, recipe, scheme=scheme, weight_bits=3, activation_bits=3)

    def distance():
        with torch.no_grad():
            return float(distillation(run.student(images.images), network(images.images), 1.0))

    before = distance()
    run.run(80)
    assert distance() < {"integer": 0.7, "paper": 0.9}[scheme] * before


def test_what_is_trained_and_what_is_not(student, images):
    run = trainer(student, images)
    before = state(run.student)
    run.run(4)
    changed = {name for name, tensor in run.student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.endswith("weight") for name in changed)
    assert any(name.startswith("_quantizers") for name in changed)
    assert any(name.endswith("quantizer.scale") for name in changed)
    assert any(name.endswith("gamma") for name in changed)
    assert not any(name.endswith(("mean", "deviation")) for name in changed)
    assert "_layers./fc.gamma" not in changed, "a layer without batch norm has none to train"


EVERYTHING = replace(
    RECIPE, rate_unit="step", learning_rate=0.02, features=1.0, cross_entropy=0.5, least_confidence=0.2, average=0.9,
    freeze_oscillations=0.005,
)  # fmt: skip


@pytest.mark.parametrize("recipe", [RECIPE, EVERYTHING], ids=["plain", "everything"])
def test_a_resumed_training_takes_the_same_steps(student, images, tmp_path, recipe):
    whole = trainer(student, images, recipe)
    whole.run(12)
    first = trainer(student, images, recipe)
    first.run(5)
    save_checkpoint(tmp_path / "checkpoint.safetensors", first)
    second = trainer(student, images, recipe)
    load_checkpoint(tmp_path / "checkpoint.safetensors", second)
    assert second.step == 5
    second.run(12)
    assert_same(state(whole.student), state(second.student))


def test_students_survive_storage(student, tmp_path):
    module = student(scheme="ends8")
    save_student(tmp_path / "student.safetensors", module, settled=["a"])
    other = student(scheme="ends8", seed=1)
    assert load_student(tmp_path / "student.safetensors", other) == {"settled": ["a"]}
    assert_same(state(module), state(other))
    assert module.zero_points() == other.zero_points()


def test_scales_move_in_proportion_to_their_size(student):
    module = student()
    groups = make_optimizer(module, RECIPE).param_groups
    rates = {id(group["params"][0]): group["base_lr"] for group in groups}
    for name, parameter in module.named_parameters():
        if name.endswith("scale"):
            size = float(parameter.detach().mean())
            assert rates[id(parameter)] == pytest.approx(RECIPE.learning_rate * RECIPE.scale_rate * size, rel=1e-5)


def test_a_loss_that_is_not_finite_stops(student, images):
    run = trainer(student, images)
    with torch.no_grad():
        run.student.layer("fc").weight[0, 0] = float("nan")
    with pytest.raises(DivergedError, match="the term .* is nan at step 1,"):
        run.run(12)


def test_a_first_loss_that_is_not_finite_is_no_matter_of_the_rate(student, images):
    run = trainer(student, images, replace(RECIPE, distillation=1e39))
    with pytest.raises(DivergedError, match="'distillation' is inf at step 1, before .* lower weights of the losses"):
        run.run(12)


def test_weights_that_are_not_finite_are_named_and_no_healthy_loss(student, images):
    run = trainer(student, images)
    gradient = torch.full_like(run.student.layer("fc").weight, torch.inf)
    run.optimizer.register_step_pre_hook(lambda *_: setattr(run.student.layer("fc").weight, "grad", gradient))
    with pytest.raises(DivergedError, match="diverged: weights or scales are not finite after step 1; use a lower"):
        run.run(12)


@pytest.mark.parametrize("average", [0.0, 0.5])
def test_the_last_step_is_looked_at_too(student, images, average):
    run = trainer(student, images, replace(RECIPE, steps=1, learning_rate=1e6, average=average))
    with pytest.raises(DivergedError, match=r"the term 'centred logits' is .*e\+\d+ at step 1, where the loss began"):
        run.run(1)


def test_schedules():
    cosine = replace(RECIPE, steps=100)
    assert [round(schedule(cosine, step), 3) for step in (0, 50, 100)] == [1.0, 0.5, 0.0]
    steps = replace(RECIPE, steps=100, schedule="steps", milestones=(0.2, 0.5))
    assert [schedule(steps, step) for step in (0, 19, 20, 50)] == pytest.approx([1, 1, 0.1, 0.01])


def test_the_teacher_and_the_images_are_left_alone(student, images):
    network = teacher()
    before, pixels = state(network), copy.deepcopy(images.images)
    Trainer(student(), network, images, RECIPE, 0, CPU).run(2)
    assert_same(before, state(network))
    assert torch.equal(pixels, images.images)


def test_a_loss_that_grows_without_bound_stops(student, images):
    run = trainer(student, images, replace(RECIPE, learning_rate=30.0, steps=400))
    with pytest.raises(
        DivergedError, match=r"the term '.*' is .* at step \d+, where the loss began at .*learning_rate"
    ):
        run.run(400)


def test_a_recipe_without_a_loss_is_refused():
    with pytest.raises(UsageError, match="no loss"):
        replace(RECIPE, distillation=0.0, centred_logits=0.0)


def test_mixed_images_have_no_single_label():
    with pytest.raises(UsageError, match="set mixup = false, or least_confidence"):
        replace(RECIPE, mixup=True, cross_entropy=1.0)
    for given in ({"mixup": False}, {"mixup": True, "least_confidence": 0.9}):
        assert replace(RECIPE, cross_entropy=1.0, **given).cross_entropy == 1.0


def test_rates_in_steps_move_all_layers_codes_alike(student):
    module = student()
    recipe = replace(RECIPE, rate_unit="step", learning_rate=0.01)
    rates = {id(g["params"][0]): g["base_lr"] for g in make_optimizer(module, recipe).param_groups}
    for node in module.graph.layers():
        layer = module.layer(node.name)
        assert rates[id(layer.weight)] == pytest.approx(0.01 * float(layer.quantizer.scale.detach().mean()), rel=1e-5)
    trained = {id(p) for p in module.parameters() if p.requires_grad}
    grouped = [id(p) for g in make_optimizer(module, recipe).param_groups for p in g["params"]]
    assert sorted(grouped) == sorted(trained)


def test_features_are_those_at_the_ends_of_blocks(student):
    module, network = student(), teacher()
    names = block_outputs(module.graph)
    assert names
    assert all(isinstance(module.graph[name].op, Add) for name in names)
    logits, found = module.features(random_images(4), names)
    assert torch.equal(logits, module(random_images(4)))
    _, expected = network.features(random_images(4), names)
    assert [found[name].shape for name in names] == [expected[name].shape for name in names]


def test_the_average_is_what_is_kept(student, images):
    plain, averaged = trainer(student, images), trainer(student, images, replace(RECIPE, average=0.5))
    plain.run(11)
    averaged.run(11)
    assert_same(state(plain.student), state(averaged.student))
    plain.run(12)
    averaged.run(12)
    weight = plain.student.layer("fc").weight
    assert not torch.equal(weight, averaged.student.layer("fc").weight)
    torch.testing.assert_close(weight, averaged.student.layer("fc").weight, atol=0.02, rtol=0)


def test_an_oscillating_weight_is_frozen_at_its_average_code(student):
    module = student()
    layer = module.layer("fc")
    scale = float(layer.quantizer.scale[0].detach())
    layer.weight.data[0, 0] = 2 * scale
    freezer = OscillationFreezer(module, 0.05)
    for step in range(40):
        with torch.no_grad():
            layer.weight[0, 0] = scale * (1.6 if step % 4 else 2.6)  # mostly code 2, sometimes 3
        freezer.step()
    assert freezer.frozen == 1
    with torch.no_grad():
        layer.weight[0, 0] = -5 * scale
    freezer.step()
    assert layer.quantizer.codes(layer.weight)[0, 0] == 2


def test_weights_lie_as_their_gradients_and_in_the_end_as_before(student, images, tmp_path):
    """The fused optimiser reads memory: what it keeps must lie so too, also where a checkpoint kept it otherwise."""

    def weights(run):
        return [p for p in run.student.parameters() if p.dim() == 4 and p.shape[2] > 1 and p.shape[1] > 1]

    run = trainer(student, images)
    run.run(2)
    save_checkpoint(tmp_path / "checkpoint", run)
    resumed = trainer(student, images)
    load_checkpoint(tmp_path / "checkpoint", resumed)
    for each in (run, resumed):
        for weight in weights(each):
            assert weight.is_contiguous(memory_format=torch.channels_last)
            assert each.optimizer.state[weight]["exp_avg"].stride() == weight.stride()
    resumed.run(RECIPE.steps)
    assert weights(resumed)
    assert all(weight.is_contiguous() for weight in weights(resumed))
