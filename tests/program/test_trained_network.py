"""The fake-quant module and the Program of a trained network, on real images: layer by layer, and in their answers."""

import pytest
import torch

from intraq_deploy import freeze, load_model, quantize, synthesize
from intraq_deploy.data.loading import load_labelled
from intraq_deploy.evaluation.parity import agreement
from intraq_deploy.program import arithmetic
from intraq_deploy.program.reference import Reference


@pytest.fixture(scope="module")
def model():
    return load_model("builtin:resnet20-cifar10")


@pytest.fixture(scope="module")
def synthetic(model):
    return synthesize(model, images=32, iterations=20)


@pytest.fixture(scope="module")
def real(model):
    """float32 [1000, 3, 32, 32]"""
    return torch.cat([images for images, _ in load_labelled("builtin:cifar10-sample", model).batches()])


@pytest.mark.parametrize("bits", [4, 8])
def test_fake_quant_and_program_agree(model, synthetic, real, bits):
    student = quantize(model, synthetic, weight_bits=bits, activation_bits=bits, steps=0)
    program = freeze(student)
    reference, codes = Reference(program), {}
    logits = reference.run(real, lambda name, tensor: codes.__setitem__(name, tensor[:100]))
    compared = differing = 0
    with torch.no_grad():
        assert agreement(torch.cat([student(part) for part in real.split(100)]), logits) >= 99.5
        for node in program.graph.nodes[1:]:
            if node.name not in program.grids:
                continue
            values = [arithmetic.dequantize(codes[name], program.grids[name]) for name in node.inputs]
            found = arithmetic.quantize(student.evaluate(node, values), program.grids[node.name])
            difference = (found - codes[node.name]).abs()
            assert float(difference.max()) <= 1, node.name
            compared += difference.numel()
            differing += int(torch.count_nonzero(difference))
    assert compared > 20_000_000
    assert differing <= 1e-5 * compared
