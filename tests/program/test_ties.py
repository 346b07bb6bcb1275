"""Where another order of float32 arithmetic may give another code: it explains TensorRT's form, and nothing else."""

from dataclasses import replace

import pytest
import torch
from intraq_deploy.targets.tensorrt.arithmetic import TensorRTArithmetic
from support import SMALL_SHAPE, random_images

from intraq_deploy.evaluation.parity import compare
from intraq_deploy.program.arithmetic import f32
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.ties import TieReference

FIRST = "conv1"


@pytest.fixture(scope="module")
def program(frozen):
    return frozen("resnet", weight_bits=8, activation_bits=8)[1]


@pytest.fixture(scope="module")
def tied(program):
    """Every fourth accumulator of the first layer lies in the middle between two codes, up to rounding."""
    scales = torch.full_like(program.layers[FIRST].scale, 0.3)
    layer = replace(program.layers[FIRST], scale=scales)
    step = f32(f32(program.grids["image"].scale) * float(scales[0]))
    grid = replace(program.grids[FIRST], scale=f32(4 * step))
    return replace(program, layers={**program.layers, FIRST: layer}, grids={**program.grids, FIRST: grid})


def differing(program, other, images):
    """By tensor, with `other`'s integers in the place of a runtime's."""

    def observed(part):
        codes = {}

        def keep(name, found):
            codes[name] = found.to(torch.int16)

        return other.run(part, keep), codes

    parity = compare(program, observed, images, 4, own_rounding=True)
    return {tensor.name: tensor for tensor in parity.tensors if tensor.mismatched}


@pytest.mark.parametrize("fused", [False, True])
def test_it_explains_what_tensorrt_rounds_otherwise(tied, fused):
    found = differing(tied, TensorRTArithmetic(tied, fused=fused), random_images(8))
    assert found[FIRST].mismatched > 100
    assert all(tensor.beyond_rounding == 0 and tensor.passes for tensor in found.values())


def test_it_explains_images_on_the_middle_between_two_codes(program):
    scale = torch.tensor(program.grids["image"].scale)
    images = torch.zeros(1, *SMALL_SHAPE)
    images.view(-1)[:200] = ((torch.arange(-100, 100).float() + 0.5) * scale).nextafter(torch.tensor(9.0))
    found = differing(program, TensorRTArithmetic(program, fused=False), images)
    assert found["image"].mismatched > 0
    assert found["image"].beyond_rounding == 0


def test_few_integers_are_near_a_tie(program):
    reference = TieReference(program)
    images = random_images(8)
    assert torch.equal(reference.run(images), Reference(program).run(images))
    near = sum(int(mask.sum()) for mask in reference.near.values())
    assert near < 1e-4 * sum(mask.numel() for mask in reference.near.values())
    computed = {name for name in program.grids if name not in ("flatten",)}
    assert reference.near.keys() <= computed
    assert {"image", FIRST, "avgpool"} <= reference.near.keys()


def moved_bias(program):
    layer = program.layers[FIRST]
    return {**program.layers, FIRST: replace(layer, bias_codes=layer.bias_codes + 1)}


def moved_scale(program):
    layer = program.layers[FIRST]
    return {**program.layers, FIRST: replace(layer, scale=layer.scale * 1.0001)}


def moved_code(program):
    layer = program.layers[FIRST]
    codes = layer.codes.clone()
    codes[0, 0, 1, 1] += 1
    return {**program.layers, FIRST: replace(layer, codes=codes)}


@pytest.mark.parametrize("changed", [moved_bias, moved_scale, moved_code])
def test_it_explains_no_error(program, changed):
    """What a wrong bias, scale or weight changes lies where rounding cannot."""
    wrong = replace(program, layers=changed(program))
    found = differing(program, Reference(wrong), random_images(8))
    assert found[FIRST].beyond_rounding > 0
    assert not found[FIRST].passes
