"""Where another order of float32 arithmetic may give another code: it explains TensorRT's form, and nothing else."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import SMALL_SHAPE, random_images

from intraq_deploy.evaluation.parity import compare
from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import Add, Input, Multiply
from intraq_deploy.program.arithmetic import f32
from intraq_deploy.program.program import Grid, Program
from intraq_deploy.program.reference import Reference
from intraq_deploy.program.ties import TieReference
from intraq_deploy.targets.tensorrt.arithmetic import TensorRTArithmetic

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


@given(
    scales=st.tuples(*[st.floats(2**-8, 2**-4).map(f32)] * 3),
    codes=st.lists(st.tuples(st.integers(-127, 127), st.integers(-127, 127)), min_size=1, max_size=64),
)
@pytest.mark.parametrize("op", [Add(), Multiply()])
def test_what_another_order_gives_is_within_the_bound(op, scales, codes):
    """Each step rounded to float32, in the reference's order and TensorRT's, against the exact value."""
    grids = {name: Grid(scale, 8, -127, 127, -127) for name, scale in zip("aby", scales, strict=True)}
    shape = (len(codes),)
    graph = Graph(
        (Node("a", Input(), (), shape), Node("b", Input(), (), shape), Node("y", op, ("a", "b"), shape)), output="y"
    )
    a, b = (torch.tensor(column, dtype=torch.float32)[None] for column in zip(*codes, strict=True))
    reference = TieReference(Program(graph, grids, {}))
    exact, error = reference._with_error(graph["y"], [a, b])
    real = [codes * torch.tensor(grids[name].scale) for name, codes in (("a", a), ("b", b))]
    together = real[0] + real[1] if isinstance(op, Add) else real[0] * real[1]
    step = torch.tensor(grids["y"].scale)
    for found in (together / step, together * (1 / step)):
        assert ((found.double() - exact).abs() <= error).all()


def test_codes_beyond_the_clip_are_near_no_tie(tied):
    """Clipped, both are the same code."""
    narrow = replace(tied.grids[FIRST], code_min=0, code_max=3)
    program = replace(tied, grids={**tied.grids, FIRST: narrow})
    reference = TieReference(program)
    codes = {}
    reference.run(random_images(2), codes.__setitem__)
    near = reference.near[FIRST]
    assert near.any()
    assert set((reference.other[FIRST] - codes[FIRST])[near].abs().unique().tolist()) == {1.0}
    assert reference.other[FIRST].min() >= 0
    assert reference.other[FIRST].max() <= 3
