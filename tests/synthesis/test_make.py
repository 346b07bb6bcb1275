"""Making sets: labels, reproducibility, resuming, divergence, quality."""

import io
from dataclasses import replace

import pytest
import torch
from PIL import Image
from support import SMALL_SHAPE, model_of, random_images, small_network

from intraq_deploy.errors import DataError, DivergedError, UsageError
from intraq_deploy.synthesis.batches import batch_sizes, draw_labels
from intraq_deploy.synthesis.contact_sheet import contact_sheet
from intraq_deploy.synthesis.loop import _Rate, pixel_bounds
from intraq_deploy.synthesis.make import make_images, probe_of
from intraq_deploy.synthesis.quality import intra_class_distance, measure_quality
from intraq_deploy.synthesis.recipe import SynthesisRecipe
from intraq_deploy.synthesis.synthetic_set import SyntheticSet

CPU = torch.device("cpu")
RECIPE = SynthesisRecipe(images=24, iterations=12, batch=12, learning_rate=0.1, schedule="cosine")


@pytest.fixture(scope="module")
def model():
    return model_of(small_network("resnet"), SMALL_SHAPE, 10)


@pytest.fixture(scope="module")
def probe(model):
    return probe_of(model, CPU)


def equal(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and torch.equal(a.targets, b.targets)


def test_the_loss_falls_and_images_match_the_statistics():
    network = small_network("resnet")
    network.train()  # statistics of images that noise is not like
    with torch.no_grad():
        network(3 * random_images(32) + 2)
    model = model_of(network.eval(), SMALL_SHAPE, 10)
    probe = probe_of(model, CPU)
    losses = []
    images = make_images(
        model, probe, replace(RECIPE, iterations=60, images=12), 0, report=lambda b, i, loss: losses.append(loss)
    )
    assert losses[-1] < 0.5 * losses[0]
    noise = SyntheticSet(torch.randn_like(images.images), images.labels, images.targets)
    assert measure_quality(probe, images).bn_distance < 0.5 * measure_quality(probe, noise).bn_distance
    assert measure_quality(probe, images).confidence > measure_quality(probe, noise).confidence


def test_the_same_seed_gives_the_same_images_and_another_gives_others(model, probe):
    first = make_images(model, probe, RECIPE, 0)
    assert equal(first, make_images(model, probe, RECIPE, 0))
    assert not torch.equal(first.images, make_images(model, probe, RECIPE, 1).images)


def test_continuing_after_the_first_batch_gives_the_same_set(model, probe):
    kept = []
    whole = make_images(model, probe, RECIPE, 0, finished=lambda batch, part: kept.append(part))
    assert [len(part) for part in kept] == [12, 12]
    again = []
    resumed = make_images(model, probe, RECIPE, 0, done={0: kept[0]}, finished=lambda batch, part: again.append(batch))
    assert again == [1]
    assert equal(whole, resumed)


def test_later_batches_know_the_class_centres_of_earlier_ones(model, probe):
    """With impossible radii the marginal terms push the second batch, and only it, elsewhere."""
    plain = make_images(model, probe, replace(RECIPE, lower=0.0, upper=2.0), 0)
    pushed = make_images(model, probe, replace(RECIPE, lower=1.9, upper=2.0), 0)
    assert torch.equal(plain.images[:12], pushed.images[:12])
    assert not torch.equal(plain.images[12:], pushed.images[12:])


@pytest.mark.parametrize(("images", "batch", "sizes"), [(10, 4, [4, 3, 3]), (8, 4, [4, 4]), (3, 256, [3])])
def test_batches_are_as_equal_as_possible(images, batch, sizes):
    assert batch_sizes(SynthesisRecipe(images, 1, batch)) == sizes


@pytest.mark.parametrize("classes", [2, 10, 100])
def test_stratified_labels_are_even_over_the_whole_set(classes):
    recipe = SynthesisRecipe(200, 1, 64)
    labels = torch.cat([draw_labels(recipe, classes, batch, 5) for batch in range(4)])
    counts = torch.bincount(labels, minlength=classes)
    assert int(counts.max() - counts.min()) <= 1
    assert len(labels) == 200


def test_uniform_labels_are_drawn():
    labels = draw_labels(SynthesisRecipe(5000, 1, 5000, labels="uniform"), 10, 0, 0)
    counts = torch.bincount(labels, minlength=10)
    assert 400 < int(counts.min()) < int(counts.max()) < 600


def test_half_of_the_targets_are_soft(model, probe):
    targets = make_images(model, probe, replace(RECIPE, iterations=1, softest_target=0.6), 0).targets
    assert int((targets == 1).sum()) == 12
    assert float(targets.min()) >= 0.6


def test_the_plateau_schedule_lowers_the_rate_when_nothing_improves():
    rate = _Rate(SynthesisRecipe(1, 1, learning_rate=0.5, schedule="plateau"), CPU)
    for iteration in range(50):
        rate.step(iteration, torch.tensor(1.0))
    assert float(rate.value) == 0.5
    for iteration in range(2):
        rate.step(50 + iteration, torch.tensor(1.0))
    assert float(rate.value) == pytest.approx(0.05)
    for iteration in range(500):
        rate.step(52 + iteration, torch.tensor(1.0))
    assert float(rate.value) == pytest.approx(1e-4)


def test_a_loss_that_is_not_finite_stops_with_its_term():
    network = small_network("resnet")
    network.bn1.running_var[0] = float("nan")
    broken = model_of(network, SMALL_SHAPE, 10)
    with pytest.raises(DivergedError, match=r"term 'mean' is nan at iteration 10"):
        make_images(broken, probe_of(broken, CPU), RECIPE, 0)


def test_a_loss_that_grows_without_bound_stops(model, probe):
    words = r"'variance' is .*e\+\d+ at iteration 10, where the loss began at .* learning_rate or lower weights"
    with pytest.raises(DivergedError, match=words):
        make_images(model, probe, replace(RECIPE, learning_rate=1e3), 0)


@pytest.mark.parametrize("changes", [{}, {"learning_rate": 0.5, "schedule": "plateau"}], ids=["quick", "paper"])
def test_a_rate_that_overshoots_is_no_divergence(model, probe, changes):
    make_images(model, probe, replace(RECIPE, iterations=20, **changes), 0)


def test_iterations_need_a_loss():
    noise = replace(RECIPE, iterations=0, statistics_weight=0.0, soft_inception=0.0, marginal_distance=0.0)
    with pytest.raises(UsageError, match="synthesis has iterations = 5 and no loss: give statistics_weight or another"):
        replace(noise, iterations=5)


def test_sets_survive_storage(model, probe, tmp_path):
    images = make_images(model, probe, replace(RECIPE, iterations=1), 0)
    images.save(tmp_path / "set.safetensors")
    assert equal(images, SyntheticSet.load(tmp_path / "set.safetensors"))
    assert [file.name for file in tmp_path.iterdir()] == ["set.safetensors"]
    (tmp_path / "set.safetensors").write_bytes(b"rubbish")
    with pytest.raises(DataError, match="holds no images to quantize with"):
        SyntheticSet.load(tmp_path / "set.safetensors")


def test_intra_class_distance_is_the_mean_over_pairs():
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 1, 0])
    distances = [
        1 - float(torch.cosine_similarity(features[i], features[j], dim=0))
        for i in range(12)
        for j in range(i)
        if labels[i] == labels[j]
    ]
    assert intra_class_distance(features, labels) == pytest.approx(sum(distances) / len(distances), rel=1e-5)
    assert intra_class_distance(features[:2], torch.tensor([0, 1])) is None


@pytest.mark.parametrize(("each", "size"), [(1, (342, 70)), (4, (138, 342))])
def test_contact_sheets_have_a_row_for_each_class_with_several_images(each, size):
    """Twenty classes: of one image each ten in a row; of four each the first ten classes, one in a row."""
    labels = torch.arange(20).repeat_interleave(each)
    sheet = contact_sheet(torch.zeros(len(labels), 3, 32, 32), labels, (0.5,) * 3, (0.2,) * 3)
    assert Image.open(io.BytesIO(sheet)).size == tuple(2 * pixels for pixels in size)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_contact_sheets_are_pngs(channels):
    images = SyntheticSet(torch.randn(30, channels, 8, 8), torch.arange(30) % 3, torch.ones(30))
    assert contact_sheet(images.images, images.labels, (0.5,) * channels, (0.2,) * channels)[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"low_pass": 0.3},
        {"swing": True},
        {"statistics": "relative", "statistics_weight": 30.0, "shallow_weight": 0.3},
        {"bounded": True},
        {"crop_probability": 0.0, "soft_inception": 0.0, "marginal_distance": 0.0},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_each_step_makes_other_images_and_the_same_again(model, probe, changes):
    recipe = replace(RECIPE, **changes)
    images = make_images(model, probe, recipe, 0)
    assert not torch.equal(images.images, make_images(model, probe, RECIPE, 0).images)
    assert equal(images, make_images(model, probe, recipe, 0))
    assert bool(images.images.isfinite().all())


def test_low_precision_comes_as_near(model, probe):
    recipe = replace(RECIPE, iterations=40)
    distances = [
        measure_quality(probe, make_images(model, probe, replace(recipe, precision=p), 0)).bn_distance
        for p in ("float32", "bfloat16")
    ]
    assert distances[1] == pytest.approx(distances[0], rel=0.1)


def test_bounded_pixels_are_pixels(model, probe):
    recipe = replace(RECIPE, bounded=True, low_pass=0.3, learning_rate=1.0)
    low, high = pixel_bounds(model)
    images = make_images(model, probe, recipe, 0).images
    assert bool((images >= low - 1e-5).all())
    assert bool((images <= high + 1e-5).all())
    free = make_images(model, probe, replace(recipe, bounded=False), 0).images
    assert bool(((free < low) | (free > high)).any())


def test_no_iterations_leave_noise(model, probe):
    images = make_images(model, probe, replace(RECIPE, iterations=0, images=1000, batch=500), 0).images
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01
