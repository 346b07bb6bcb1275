"""The reference computes what the definition says, in whichever float holds its integers."""

import pytest
import torch
from support import random_images

from intraq_deploy.graph.graph import Graph, Node
from intraq_deploy.graph.ops import Conv2d, Flatten, Input, Linear
from intraq_deploy.program.freeze import accumulator_bound
from intraq_deploy.program.program import Grid, IntegerWeights, Program
from intraq_deploy.program.reference import Reference


def wide_program(bits):
    """One convolution whose accumulators exceed 2^24 at 8 bits, and a classifier."""
    generator = torch.Generator().manual_seed(0)
    largest = 2 ** (bits - 1) - 1

    def weights(*shape):
        codes = torch.randint(-largest, largest + 1, shape, generator=generator, dtype=torch.int8)
        scale = 0.001 + 0.01 * torch.rand(shape[0], generator=generator)
        return IntegerWeights(
            codes, scale, torch.randint(-5000, 5000, shape[:1], generator=generator, dtype=torch.int32)
        )

    nodes = (
        Node("image", Input(), (), (256, 4, 4)),
        Node("conv", Conv2d((1, 1), (1, 0, 0, 1), (1, 1), 1), ("image",), (16, 3, 3)),
        Node("flatten", Flatten(), ("conv",), (144,)),
        Node("fc", Linear(), ("flatten",), (5,)),
    )
    out = Grid(float(torch.tensor(0.7)), 8, -128, 127, -128)
    grids = {"image": Grid(float(torch.tensor(0.02)), 8, -128, 127, -128), "conv": out, "flatten": out}
    return Program(Graph(nodes, "fc"), grids, {"conv": weights(16, 256, 3, 3), "fc": weights(5, 144)})


@pytest.mark.parametrize("bits", [4, 8])
def test_it_equals_integer_arithmetic_done_in_int64(bits):
    program = wide_program(bits)
    images = random_images(6, (256, 4, 4)) * 2
    seen = {}
    logits = Reference(program).run(images, lambda name, codes: seen.__setitem__(name, codes))

    codes = (images / torch.tensor(program.grids["image"].scale)).round().clamp(-128, 127).long()
    conv, fc = program.layers["conv"], program.layers["fc"]
    patches = torch.nn.functional.pad(codes, (0, 1, 1, 0)).unfold(2, 3, 1).unfold(3, 3, 1)
    accumulator = torch.einsum("nchwij,ocij->nohw", patches, conv.codes.long()) + conv.bias_codes.long()[:, None, None]
    bound = int(accumulator_bound(conv, program.grids["image"]).max())
    assert (bound >= 1 << 24) == (bits == 8), "both ways of holding integers are tried"
    multiplier = (torch.tensor(program.grids["image"].scale) * conv.scale) / torch.tensor(program.grids["conv"].scale)
    expected = (accumulator.float() * multiplier[:, None, None]).round().clamp(-128, 127)
    assert torch.equal(seen["conv"], expected)
    assert torch.equal(seen["flatten"], expected.flatten(1))
    total = expected.flatten(1).long() @ fc.codes.long().T + fc.bias_codes.long()
    assert torch.equal(logits, total.float() * (torch.tensor(program.grids["conv"].scale) * fc.scale))


def test_every_declared_tensor_is_observed_once(frozen):
    _, program = frozen("mobilenet")
    names = []
    Reference(program).run(random_images(2), lambda name, _: names.append(name))
    assert names == [node.name for node in program.graph.nodes if node.name in program.grids]
    assert sorted(names) == sorted(program.grids)


def test_codes_stay_within_their_grids(frozen):
    _, program = frozen("resnet", weight_bits=3, activation_bits=2)

    def check(name, codes):
        grid = program.grids[name]
        assert grid.code_min <= float(codes.min()) <= float(codes.max()) <= grid.code_max
        assert torch.equal(codes, codes.round())

    Reference(program).run(random_images(16), check)
