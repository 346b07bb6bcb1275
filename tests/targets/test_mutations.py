"""The gate is tested by breaking things: every single wrong integer must be found."""

from dataclasses import replace

import pytest
import torch
from support import random_images

from intraq_deploy.evaluation.parity import Parity, TensorParity, compare
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.arithmetic import f32
from intraq_deploy.program.reference import Reference
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.profile import load_profile

LAYERS = ("layer2.conv1", "fc")
"""One in the middle, and the one whose output is not quantized."""


def with_weights(program, layer, **changes):
    weights = replace(program.layers[layer], **changes)
    return replace(program, layers={**program.layers, layer: weights})


def bias(step):
    def mutate(program, layer):
        codes = program.layers[layer].bias_codes.clone()
        codes[3] += step
        return with_weights(program, layer, bias_codes=codes)

    return mutate


def scale(program, layer):
    return with_weights(program, layer, scale=program.layers[layer].scale * 1.001)


def code(step):
    def mutate(program, layer):
        codes = program.layers[layer].codes.clone()
        codes.flatten(1)[5, 2] += step
        return with_weights(program, layer, codes=codes)

    return mutate


def swap(program, layer):
    order = torch.arange(len(program.layers[layer].scale))
    order[[0, 1]] = order[[1, 0]]
    weights = program.layers[layer]
    return with_weights(
        program, layer, codes=weights.codes[order], scale=weights.scale[order], bias_codes=weights.bias_codes[order]
    )


WEIGHT_MUTATIONS = {
    "bias + 1": bias(1),
    "bias - 1": bias(-1),
    "weight scale x 1.001": scale,
    "code + 1": code(1),
    "code - 1": code(-1),
    "two channels swapped": swap,
}


def activation_scale(grid):
    return replace(grid, scale=f32(grid.scale * 1.001))


def bound(grid):
    return replace(grid, code_max=grid.code_max - 1)


GRID_MUTATIONS = {"activation scale x 1.001": activation_scale, "a clip one code too low": bound}


@pytest.fixture(scope="module")
def program(frozen):
    return frozen()[1]


def assert_caught(mutated, program, folder):
    artifact = export(mutated, load_profile("onnxruntime"), folder, {})
    result = validate(artifact, program, random_images(64, seed=3))
    assert not result.passes
    assert result.instrumented_equal, "the runtime itself is sound"
    return result


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("mutate", WEIGHT_MUTATIONS.values(), ids=WEIGHT_MUTATIONS)
def test_a_wrong_weight_is_caught_where_it_is(program, mutate, layer, tmp_path):
    result = assert_caught(mutate(program, layer), program, tmp_path)
    assert [tensor.name for tensor in result.parity.failures] == ([] if layer == "fc" else [layer])
    assert result.parity.logits_pass == (layer != "fc")


@pytest.mark.parametrize("mutate", GRID_MUTATIONS.values(), ids=GRID_MUTATIONS)
def test_a_wrong_grid_is_caught(program, mutate, tmp_path):
    grids = {**program.grids, "layer1.add": mutate(program.grids["layer1.add"])}
    assert_caught(replace(program, grids=grids), program, tmp_path)


def test_without_a_mutation_nothing_is_caught(program, tmp_path):
    artifact = export(program, load_profile("onnxruntime"), tmp_path, {})
    assert validate(artifact, program, random_images(64, seed=3)).passes


def observer(program, change=lambda codes: None):
    """A runtime made of the reference, with a change to its codes."""

    def observed(images):
        codes = {}
        logits = Reference(program).run(images, lambda name, tensor: codes.__setitem__(name, tensor.to(torch.int16)))
        change(codes)
        return logits, codes

    return observed


def test_every_declared_tensor_is_compared(program):
    parity = compare(program, observer(program), random_images(5), batch=2)
    assert [tensor.name for tensor in parity.tensors] == list(program.grids)
    per_image = {name: torch.Size(program.graph[name].shape).numel() for name in program.grids}
    assert {tensor.name: tensor.compared for tensor in parity.tensors} == {k: 5 * v for k, v in per_image.items()}


def test_a_tensor_left_out_is_an_error(program):
    with pytest.raises(KeyError, match="layer1.add"):
        compare(program, observer(program, lambda codes: codes.pop("layer1.add")), random_images(2), batch=2)


def test_another_layout_is_an_error(program):
    def change(codes):
        codes["layer1.add"] = codes["layer1.add"].permute(0, 2, 3, 1)

    with pytest.raises(ValueError, match="shapes"):
        compare(program, observer(program, change), random_images(2), batch=2)


def test_one_integer_in_all_is_counted(program):
    def change(codes):
        codes["conv1"][1, 2, 3, 4] += 1

    parity = compare(program, observer(program, change), random_images(2), batch=2)
    first = parity.failures[0]
    assert (first.name, first.mismatched, first.largest_difference) == ("conv1", 1, 1)
    assert torch.equal(parity.expected, parity.found)


def tensor_parity(**changes):
    values = {
        "name": "t", "compared": 1000, "mismatched": 0, "largest_difference": 0, "tolerance": None, "reason": None,
        "codes_used": 16, "codes_available": 16,
    }  # fmt: skip
    # In ONNX Runtime no order of roundings explains a difference.
    values |= changes
    return TensorParity(**({"beyond_rounding": values["mismatched"]} | values))


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, True),
        ({"mismatched": 1}, False),
        ({"mismatched": 10, "largest_difference": 1, "tolerance": 0.01}, True),
        ({"mismatched": 11, "largest_difference": 1, "tolerance": 0.01}, False),
        ({"mismatched": 1, "largest_difference": 1, "tolerance": 1e-6}, True),
        ({"mismatched": 1, "largest_difference": 2, "tolerance": 0.01}, False),
    ],
)
def test_tolerances(changes, passes):
    tensor = tensor_parity(**changes)
    assert tensor.passes == passes
    assert bool(
        Parity((tensor,), torch.zeros(1, 2), torch.zeros(1, 2), 0.0, None, torch.zeros(1), torch.zeros(1)).failures
    ) == (not passes)


def test_logits_that_are_no_number_never_pass(program):
    def broken(images):
        logits, codes = observer(program)(images)
        return logits * torch.nan, codes

    assert not compare(program, broken, random_images(2), batch=2).logits_pass


@pytest.mark.parametrize(("used", "flagged"), [(16, False), (8, False), (7, True), (1, True)])
def test_tensors_that_use_less_than_half_of_their_codes_are_flagged(used, flagged):
    assert tensor_parity(codes_used=used).underused == flagged
