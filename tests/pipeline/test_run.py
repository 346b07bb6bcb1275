"""A run is what it was given: no question changes it, and what is judged is what is shipped."""

from dataclasses import FrozenInstanceError, replace

import pytest
from support import SMALL_SHAPE, model_of, small_network

from intraq_deploy.pipeline import estimate as estimates
from intraq_deploy.pipeline.inspection import inspect_model
from intraq_deploy.pipeline.options import MixedOptions, ModelOptions, OwnRecipe, make_options
from intraq_deploy.pipeline.progress import Silent
from intraq_deploy.pipeline.report import Bits, MixedRecord
from intraq_deploy.pipeline.run import Run
from intraq_deploy.pipeline.rundir import RunDirectory
from intraq_deploy.pipeline.sensitivity import scheme_at, specs_at
from intraq_deploy.quantization.layers_report import layer_rows
from intraq_deploy.quantization.placement import place

ALL_WIDTHS = (4, 8)


@pytest.fixture
def run_of(tmp_path):
    """A run of a small recipe, with other options."""

    def make(**options):
        recipe = OwnRecipe(name="mine", values={"extends": "quick", "synthesis": {"images": 8, "iterations": 2}})
        chosen = make_options(ModelOptions(source="test"), recipe=recipe, **options)
        return Run(
            chosen, lambda _: RunDirectory(tmp_path), model_of(small_network("resnet"), SMALL_SHAPE, 10), Silent()
        )

    return make


def test_a_run_does_not_change(run_of):
    run = run_of()
    with pytest.raises(FrozenInstanceError):
        run.options = make_options(ModelOptions(source="other"))
    with pytest.raises(FrozenInstanceError):
        run.seconds = {}


def test_an_estimate_does_not_choose_bits(run_of, tmp_path, monkeypatch):
    """The bits that an earlier session chose are looked up, and the run stays as it was."""
    run = run_of(mixed=MixedOptions(average_bits=5))
    layers = dict.fromkeys((node.name for node in run.graph.layers()), 8)
    chosen = MixedRecord(
        asked=run.options.mixed,
        layers=layers,
        average_bits=8,
        stored_bytes=1,
        images=4,
        agreement=100,
        widest_agreement=100,
    )
    before = run.scheme(None)
    asked = []
    monkeypatch.setattr(estimates, "earlier_choice", lambda run: asked.append(run) or chosen)
    estimates.estimate(run)
    assert asked == [run]
    assert run.scheme(None) == before
    assert run.scheme(chosen) == replace(before, layer_bits=layers)


@pytest.mark.parametrize("targets", [("onnxruntime",), ("tensorrt-int8",), ("onnxruntime", "tensorrt-int8")])
@pytest.mark.parametrize("bits", [4, 8])
def test_bits_are_judged_with_the_quantizers_that_are_shipped(run_of, targets, bits):
    """Weights within what the targets ask for, activations of the kind that all of them take."""
    run = run_of(targets=targets, activation_bits=8, mixed=MixedOptions(max_drop=1, widths=ALL_WIDTHS))
    layers = dict.fromkeys((node.name for node in run.graph.layers()), bits)
    shipped = place(run.graph, replace(run.scheme(None), layer_bits=layers))
    assert specs_at(run, ALL_WIDTHS, bits) == {name: layer.weight for name, layer in shipped.layers.items()}
    assert place(run.graph, scheme_at(run, ALL_WIDTHS, bits, 8)).tensors == shipped.tensors


def test_an_inspection_shows_what_the_default_target_gets(run_of):
    run = run_of(weight_bits=8, activation_bits=8)
    shipped = layer_rows(run.graph, place(run.graph, run.scheme(None)))
    assert inspect_model(run.model, "integer", Bits(weights=8, activations=8)).rows == shipped
