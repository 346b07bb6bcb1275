"""Tracing: the graph computes what the network computes, and refuses what it cannot say."""

import json
import math

import pytest
import torch
from support import SMALL_NETWORKS, SMALL_SHAPE, random_images, small_network
from torch import nn

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.execute import run_float
from intraq_deploy.graph.graph import Graph
from intraq_deploy.graph.ops import (
    Add,
    AveragePool2d,
    Clamp,
    Conv2d,
    Flatten,
    GlobalAveragePool,
    Linear,
    MaxPool2d,
    Pad,
    Reshape,
    Slice,
)
from intraq_deploy.graph.trace import trace


def traced(module, shape=(3, 8, 8)):
    return trace(module.eval(), shape)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_the_graph_computes_the_network(name):
    module, images = small_network(name), random_images(4)
    with torch.no_grad():
        torch.testing.assert_close(run_float(traced(module, SMALL_SHAPE), images), module(images), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("name", SMALL_NETWORKS)
def test_a_graph_survives_json(name):
    graph = traced(small_network(name), SMALL_SHAPE)
    assert Graph.from_json(graph.to_json()) == graph.topology()


class Shuffled(nn.Module):
    """A convolution, then its channels shuffled in two groups."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(288, 4)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.view(-1, 2, 4, 6, 6).transpose(1, 2).reshape(-1, 8, 6, 6).flatten(1))


def test_a_channel_shuffle_survives_json():
    """A Reshape has a shape of its own beside its node's, under one key."""
    graph = traced(Shuffled())
    assert any(isinstance(node.op, Reshape) for node in graph.nodes)
    assert Graph.from_json(json.loads(json.dumps(graph.to_json()))) == graph.topology()


def test_names_and_fusion_of_a_residual_network():
    graph = traced(small_network("resnet"), SMALL_SHAPE)
    names = [node.name for node in graph.nodes]
    assert names[:4] == ["image", "conv1", "maxpool", "layer1.conv1"]
    assert graph["conv1"].activation == Clamp(0.0, math.inf)
    assert graph["layer1.conv2"].activation is None
    assert graph["layer1.add"].activation == Clamp(0.0, math.inf)
    assert isinstance(graph["layer2.downsample.0"].op, Conv2d)
    assert [type(graph[name].op) for name in names[-3:-1]] == [GlobalAveragePool, Flatten]
    moves = [
        type(node.op) for node in graph.nodes if node.name.startswith("layer3.") and node.name not in graph.weights
    ]
    assert moves == [Slice, Slice, Pad, Add]


def test_a_convolution_that_makes_the_logits_is_a_linear_layer():
    head = nn.Conv2d(8, 5, 2)
    graph = traced(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), head, nn.Flatten()))
    assert [type(node.op) for node in graph.nodes[-2:]] == [Flatten, Linear]
    assert graph.output == "2"
    torch.testing.assert_close(graph.weights["2"].weight, head.weight.detach().flatten(1))


def test_a_convolution_whose_map_is_flattened_stays():
    graph = traced(nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Conv2d(8, 5, 1), nn.Flatten()))
    assert [type(node.op) for node in graph.nodes[-2:]] == [Conv2d, Flatten]


def test_same_padding_moves_into_the_convolution():
    graph = traced(small_network("mobilenet"), SMALL_SHAPE)
    assert graph["stem.0"].op == Conv2d((2, 2), (0, 0, 1, 1), (1, 1), 1)
    assert graph["stem.0"].activation == Clamp(0.0, 6.0)
    assert not any(isinstance(node.op, Pad) for node in graph.nodes)


def test_padding_in_front_of_a_pooling_stays():
    class Padded(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.fc = nn.Linear(4 * 5 * 5, 3)

        def forward(self, x):
            x = nn.functional.pad(self.conv(x), (1, 1, 1, 1))
            return self.fc(nn.functional.max_pool2d(x, 2).flatten(1))

    kinds = [type(node.op) for node in traced(Padded()).nodes]
    assert Pad in kinds
    assert MaxPool2d in kinds


def test_in_place_operators_are_seen_as_what_they_do():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            y = self.conv(x)
            y.relu_()  # everything behind must read the result, though it reads y
            return self.fc((y + x).mean((2, 3)))

    graph = traced(InPlace())
    assert graph["conv"].activation == Clamp(0.0, math.inf)


def test_a_relu_behind_a_relu_goes_and_one_behind_two_readers_stays():
    class Readers(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            raw = self.conv(x)
            active = torch.relu(torch.relu(raw))
            return self.fc((raw + active).mean((2, 3)))

    graph = traced(Readers())
    assert graph["conv"].activation is None
    assert [node.name for node in graph.nodes if isinstance(node.op, Clamp)] == ["relu"]


def test_a_layer_used_twice_becomes_two():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)
            self.logits = nn.Linear(3, 2)

        def forward(self, x):
            return self.logits(self.conv(self.conv(x)).mean((2, 3)))

    assert [node.name for node in traced(Twice()).layers()] == ["conv", "conv#2", "logits#2"]


def test_pooling_over_everything_is_global():
    class Pooled(nn.Module):
        def __init__(self, kernel):
            super().__init__()
            self.pool = nn.AvgPool2d(kernel)
            self.fc = nn.Linear(3 * (8 // kernel) ** 2, 2)

        def forward(self, x):
            return self.fc(self.pool(x).view(x.size(0), -1))

    assert isinstance(traced(Pooled(8))["pool"].op, GlobalAveragePool)
    assert traced(Pooled(4))["pool"].op == AveragePool2d((4, 4), (4, 4))


class _Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        y = self.conv(x).mean((2, 3))
        return y if float(x.sum()) > 0 else -y


class _Unknown(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 2, 1), nn.LogSigmoid())

    def forward(self, x):
        return self.block(x).mean((2, 3))


class _MixesImages(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 2)

    def forward(self, x):
        return self.fc(x.flip(0).flatten(1))


class _Integers(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(x.int().float().mean((2, 3)))


class _ManyWindows(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(147, 2)

    def forward(self, x):
        return self.fc(nn.functional.adaptive_avg_pool2d(nn.functional.interpolate(x, (32, 8)), 7).flatten(1))


class _InnerSoftmax(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.fc(x.mean((2, 3))).softmax(1))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (_Branches(), "cannot be traced"),
        (_Unknown(), r"Layer 'block.1' uses aten.log_sigmoid.default"),
        (_MixesImages(), "aten.flip"),
        (_Integers(), "becomes torch.int32"),
        (_ManyWindows(), "output 7x7 of an input 32x8"),
        (_InnerSoftmax(), "a place that is not behind the logits"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_cannot_be_said_is_refused_by_name(module, words):
    with pytest.raises(UnsupportedModelError, match=words):
        traced(module)


def test_a_network_that_float32_cannot_compute_better_is_itself():
    """A mean of a million is taken off again: what is left is rounded to 0.06 in one order, and not in another."""

    def cancelling(offset):
        torch.manual_seed(0)
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 36, 4)).eval()
        with torch.no_grad():
            module[0].bias.fill_(offset)
            module[1].running_mean.fill_(offset)
        return module

    for offset in (0.0, 1e6):
        module, images = cancelling(offset), random_images(4, (3, 8, 8))
        exact = module.double()(images.double())
        found = run_float(traced(module.float()), images)
        assert torch.allclose(found.double(), exact, atol=1e-4)
    assert float((module(images) - exact).detach().abs().max()) > 1e-3 * float(exact.detach().abs().max())


def test_a_random_forward_is_refused():
    calls = []

    class Random(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(96, 2)

        def forward(self, x):
            calls.append(1)
            start = 96 * (len(calls) % 2)
            return self.fc(x.flatten(1)[:, start : start + 96])

    with pytest.raises(UnsupportedModelError, match="logits differ from the network's"):
        traced(Random())


def test_several_outputs_are_refused():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(12, 5)

        def forward(self, x):
            return (self.fc(x.flatten(1)),)

    with pytest.raises(UnsupportedModelError, match="gives a tuple: its output must be the logits"):
        trace(Pair().eval(), (3, 2, 2))
