"""Fine-tuning: it learns, it resumes, it stops when it diverges."""

import copy
from dataclasses import replace

import pytest
import torch
from support import random_images, small_network

from intraq_deploy.errors import DivergedError
from intraq_deploy.synthesis import SyntheticSet
from intraq_deploy.training import Trainer, TrainingRecipe
from intraq_deploy.training.checkpoint import load_checkpoint, load_student, save_checkpoint, save_student
from intraq_deploy.training.loop import _optimizer, _schedule
from intraq_deploy.training.losses import distillation

CPU = torch.device("cpu")
RECIPE = TrainingRecipe(steps=12, batch=16, learning_rate=1e-3)


@pytest.fixture(scope="module")
def images():
    return SyntheticSet(random_images(32), torch.arange(32) % 10, torch.ones(32))


def trainer(student, images, recipe=RECIPE, **options):
    return Trainer(student(**options), small_network("resnet"), images, recipe, 0, CPU)


def state(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


@pytest.mark.parametrize("scheme", ["integer", "paper"])
def test_the_student_comes_nearer_to_its_teacher(student, images, scheme):
    teacher = small_network("resnet")
    recipe = replace(RECIPE, steps=80, learning_rate=5e-4)
    run = trainer(student, images, recipe, scheme=scheme, weight_bits=3, activation_bits=3)

    def distance():
        with torch.no_grad():
            return float(distillation(run.student(images.images), teacher(images.images), 1.0))

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


def test_a_resumed_training_takes_the_same_steps(student, images, tmp_path):
    whole = trainer(student, images)
    whole.run(12)
    first = trainer(student, images)
    first.run(5)
    save_checkpoint(tmp_path / "checkpoint.safetensors", first)
    second = trainer(student, images)
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
    groups = _optimizer(module, RECIPE).param_groups
    rates = {id(group["params"][0]): group["base_lr"] for group in groups}
    for name, parameter in module.named_parameters():
        if name.endswith("scale"):
            size = float(parameter.detach().mean())
            assert rates[id(parameter)] == pytest.approx(RECIPE.learning_rate * RECIPE.scale_rate * size, rel=1e-5)


def test_a_loss_that_is_not_finite_stops(student, images):
    run = trainer(student, images)
    with torch.no_grad():
        run.student.layer("fc").weight[0, 0] = float("nan")
    with pytest.raises(DivergedError, match="the loss is nan at step 10"):
        run.run(12)


def test_schedules():
    cosine = replace(RECIPE, steps=100)
    assert [round(_schedule(cosine, step), 3) for step in (0, 50, 100)] == [1.0, 0.5, 0.0]
    steps = replace(RECIPE, steps=100, schedule="steps", milestones=(0.2, 0.5))
    assert [_schedule(steps, step) for step in (0, 19, 20, 50)] == pytest.approx([1, 1, 0.1, 0.01])


def test_the_teacher_and_the_images_are_left_alone(student, images):
    teacher = small_network("resnet")
    before, pixels = state(teacher), copy.deepcopy(images.images)
    Trainer(student(), teacher, images, RECIPE, 0, CPU).run(2)
    assert_same(before, state(teacher))
    assert torch.equal(pixels, images.images)
