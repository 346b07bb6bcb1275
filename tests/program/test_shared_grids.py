"""What is concatenated has one grid: with what it was made of, too, and with other inputs of what made it."""

import pytest
import torch
import torch.nn.functional as F
from support import random_images, realistic
from torch import nn

from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle, unsettled
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.onnx.lower import lower
from intraq_deploy.targets.profile import load_profile

SHAPE = (3, 16, 16)
CASES = {
    "maxima, means": lambda x: (F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2)),
    "itself, means": lambda x: (x, F.avg_pool2d(x, 3, 1, 1)),
    "itself, leaky relu": lambda x: (x, F.leaky_relu(x)),
    "itself, sigmoid": lambda x: (x, torch.sigmoid(x)),
    "itself, elu": lambda x: (x, F.elu(x)),
    "itself, silu": lambda x: (x, x * torch.sigmoid(x)),
    "itself, a sum": lambda x: (x, x + F.max_pool2d(x, 3, 1, 1)),
    "global maximum, global mean": lambda x: (F.adaptive_max_pool2d(x, 1), F.adaptive_avg_pool2d(x, 1)),
}


class Joined(nn.Module):
    """Logits of two concatenated tensors that are made from one."""

    def __init__(self, parts) -> None:
        super().__init__()
        self.parts = parts
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(16, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 10)

    def forward(self, images):
        x = F.relu(self.bn1(self.conv1(images)))
        return self.fc(F.relu(self.bn2(self.conv2(torch.cat(self.parts(x), 1)))).mean((2, 3)))


def student(parts, bits, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        graph = trace(realistic(Joined(parts), SHAPE), SHAPE)
    return build_network(graph, make_scheme("integer", *bits), random_images(8, SHAPE, seed), seed)


@pytest.mark.parametrize("bits", [(4, 4), (8, 8)], ids=["W4A4", "W8A8"])
@pytest.mark.parametrize("name", CASES)
def test_every_integer_is_the_same(name, bits, tmp_path):
    module = student(CASES[name], bits)
    settle(module)
    program = freeze(module)
    result = validate(export(program, load_profile("onnxruntime"), tmp_path, {}), program, random_images(16, SHAPE, 5))
    assert result.parity.mismatched == 0
    assert result.logits_equal
    lower(program, load_profile("tensorrt-int8"), {})  # raises for what it would refuse


@pytest.mark.parametrize("name", ["maxima, means", "itself, silu"])
def test_what_no_nudge_of_its_own_settles(name):
    """Means of two have ties at every scale that they share with what they are made of; a product's ratio is the other
    factor's scale."""
    for seed in range(20):
        module = student(CASES[name], (4, 8), seed)
        settle(module)
        assert unsettled(module) == []
