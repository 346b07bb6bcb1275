"""Estimates: of what has to run, without touching what is there, and never a reason to stop."""

from dataclasses import replace

import pytest
from support import SMALL_SHAPE, model_of, small_network

from intraq_deploy.pipeline import stages
from intraq_deploy.pipeline.costs import Costs
from intraq_deploy.pipeline.dry_run import dry_run
from intraq_deploy.pipeline.estimate import CHECKS, estimate, faster
from intraq_deploy.pipeline.options import MixedOptions, ModelOptions, OwnRecipe, make_options
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import RunDirectory
from intraq_deploy.pipeline.sensitivity import SENSITIVITY

SMALL = {"synthesis": {"images": 8, "iterations": 2}, "training": {"steps": 2, "batch": 4}}


@pytest.fixture
def run_of(tmp_path):
    """A run in one directory, of a small recipe with changes."""

    def make(synthesis=None, training=None, fitting=None, **options):
        values = {name: SMALL[name] | (more or {}) for name, more in (("synthesis", synthesis), ("training", training))}
        values |= {"fitting": fitting} if fitting else {}
        recipe = OwnRecipe(name="mine", values={"extends": "quick"} | values)
        chosen = make_options(ModelOptions(source="test"), recipe=recipe, **options)
        return Run(
            chosen, lambda _: RunDirectory(tmp_path), model_of(small_network("resnet"), SMALL_SHAPE, 10), Silent()
        )

    return make


def test_what_has_to_run_is_estimated(run_of):
    run = run_of()
    assert set(estimate(run)) == {stages.SYNTHESIS, stages.FITTING, stages.FINE_TUNING}
    assert set(estimate(run, images_only=True)) == {stages.SYNTHESIS}
    assert set(estimate(run_of(synthesis={"iterations": 0}, training={"steps": 0}))) == {stages.FITTING}
    none = {"compensate": False, "correct": False}
    assert set(estimate(run_of(synthesis={"iterations": 0}, fitting=none))) == {stages.FINE_TUNING}
    images, scheme = stages.images_key(run), run.scheme(None)
    for name, key in (
        (stages.SYNTHESIS, images),
        (stages.FITTING, stages.fitted_key(run, scheme, images)),
        (stages.FINE_TUNING, stages.student_key(run, scheme, images)),
    ):
        assert name in estimate(run)
        with run.directory.running(run.directory.stage(name, key)):
            pass
        assert name not in estimate(run)


def test_checks_take_longer_with_labelled_images(run_of):
    run = run_of()
    program = dry_run(run, run.scheme(None))
    without, with_them = (estimate(run, program=program, labelled=count)[CHECKS] for count in (0, 100_000))
    assert 0 < without < with_them


def test_fitting_is_estimated(run_of):
    """Small layers take little, however many images there are."""
    run = run_of()
    assert 0 < Costs(run, run.scheme(None)).fitting < 60


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ({stages.SYNTHESIS: 100, stages.FITTING: 100}, None),
        (
            {stages.SYNTHESIS: 4000, stages.FITTING: 1000},
            "about 83 minutes. Faster: a CUDA device, or fewer --images and",
        ),
        ({stages.FITTING: 3000, stages.FINE_TUNING: 2000}, "Faster: a CUDA device."),
        ({stages.FITTING: 3000, stages.FINE_TUNING: 4000}, "Faster: a CUDA device, or fewer --steps."),
    ],
)
def test_what_would_be_faster_is_what_takes_long(run_of, seconds, said):
    found = faster(replace(run_of(device="cpu"), options=make_options(ModelOptions(source="test"))), seconds)
    assert found is None if said is None else said in found


def test_what_other_options_have_made_is_left_alone(run_of, tmp_path):
    for name in (stages.SYNTHESIS, stages.FINE_TUNING, SENSITIVITY, "mixed-precision"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "stage.json").write_text('{"key": "another", "seconds": 1}')
    before = sorted(tmp_path.rglob("*"))
    estimate(run_of())
    assert set(estimate(run_of(mixed=MixedOptions(average_bits=5)))) > {SENSITIVITY}
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("part", ["synthesis", "training"])
def test_what_diverges_has_none(run_of, part):
    diverging = {"synthesis": {"learning_rate": 1e6}, "training": {"learning_rate": 1e6}}[part]
    left = {"synthesis": stages.FINE_TUNING, "training": stages.SYNTHESIS}[part]
    assert set(estimate(run_of(**{part: diverging}))) == {left, stages.FITTING}
