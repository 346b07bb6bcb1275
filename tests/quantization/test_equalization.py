"""Equalised networks: the same function of the image, with ranges that are more alike."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import SMALL_SHAPE, random_images, realistic, small_network
from torch import nn

from intraq_deploy.graph import trace
from intraq_deploy.graph.execute import run_float
from intraq_deploy.graph.ops import Conv2d
from intraq_deploy.models import load_model
from intraq_deploy.quantization import calibrate, make_scheme, place
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.equalization import DEVIATIONS, LIMIT, equalize

SHAPE = (3, 16, 16)
PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published.py"


def convolution(inputs, outputs, size=3, groups=1, activation=nn.ReLU):
    """With its batch norm and an activation, or none."""
    layers = [nn.Conv2d(inputs, outputs, size, 1, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def classifier(channels):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


NETWORKS = {
    "dense": lambda: nn.Sequential(convolution(3, 16), convolution(16, 12), *classifier(12)),
    "depthwise": lambda: nn.Sequential(convolution(3, 16), convolution(16, 16, groups=16), *classifier(16)),
    "relu6": lambda: nn.Sequential(
        convolution(3, 16, activation=nn.ReLU6),
        convolution(16, 16, groups=16, activation=nn.ReLU6),
        convolution(16, 12, 1, activation=nn.ReLU6),
        *classifier(12),
    ),
    "grouped": lambda: nn.Sequential(convolution(3, 16), convolution(16, 24, groups=4), *classifier(24)),
    "multiplier": lambda: nn.Sequential(convolution(3, 8), convolution(8, 24, groups=8), *classifier(24)),
    "no activation": lambda: nn.Sequential(convolution(3, 16, activation=None), convolution(16, 12), *classifier(12)),
    "pooled": lambda: nn.Sequential(
        convolution(3, 16),
        nn.MaxPool2d(3, 2, 1),
        convolution(16, 12),
        nn.ZeroPad2d(1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 25, 10),
    ),
}


def network(name, seed=0, spread=10.0):
    """Random, each batch norm's gammas and betas multiplied by factors from 1 / spread to 1, in random order."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = NETWORKS[name]()
        # Statistics first: what follows changes the function, and tests only compare the result with itself.
        realistic(module, SHAPE, seed)
        for norm in (layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)):
            factors = torch.logspace(-math.log10(spread), 0, norm.num_features)[torch.randperm(norm.num_features)]
            norm.weight *= factors
            norm.bias *= factors
    return trace(module, SHAPE)


def ranges(weights, activation):
    """Of each channel behind its batch norm."""
    norm = weights.batch_norm
    if activation is None:
        return norm.beta.abs() + DEVIATIONS * norm.gamma.abs()
    return (norm.beta + DEVIATIONS * norm.gamma.abs()).clamp(0, activation.high)


def factors(graph, equalized, name):
    """s of the edge behind a layer."""
    return equalized.weights[name].batch_norm.gamma / graph.weights[name].batch_norm.gamma


def changed(graph, equalized):
    return {name for name in graph.weights if equalized.weights[name] is not graph.weights[name]}


def assert_same_function(graph, equalized, images):
    expected, found = run_float(graph, images), run_float(equalized, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays(name):
    graph = network(name)
    equalized = equalize(graph)
    assert changed(graph, equalized) == set(graph.weights), "every layer makes or reads a tensor that is equalised"
    assert_same_function(graph, equalized, 2 * random_images(8, SHAPE))


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_the_function_of_whole_networks_stays(name):
    graph = trace(small_network(name), SMALL_SHAPE)
    equalized = equalize(graph)
    assert changed(graph, equalized)
    assert_same_function(graph, equalized, 2 * random_images(8))


def test_the_given_graph_stays_as_it_is():
    graph = network("relu6")
    before = {name: [t.clone() for t in weights.folded()] for name, weights in graph.weights.items()}
    equalize(graph)
    for name, tensors in before.items():
        assert all(map(torch.equal, graph.weights[name].folded(), tensors))


def test_what_a_sum_reads_is_not_touched():
    graph = trace(small_network("resnet"), SMALL_SHAPE)
    found = changed(graph, equalize(graph))
    assert {"layer1.conv1", "layer1.conv2", "layer3.conv1", "layer3.conv2"} <= found
    # The stem is read by a convolution and, behind the pooling, by the sum; downsample.0 by a sum only.
    assert not {"conv1", "layer2.downsample.0", "fc"} & found
    norms = {name: (graph.weights[name].batch_norm, equalize(graph).weights[name].batch_norm) for name in found}
    assert norms["layer1.conv2"][0] is norms["layer1.conv2"][1], "it reads, but a sum reads it"


def test_channels_of_a_depthwise_convolution_get_the_same_range():
    graph = network("depthwise", spread=4.0)
    equalized = equalize(graph)
    before, after = (ranges(g.weights["0.0"], g["0.0"].activation) for g in (graph, equalized))
    assert before.max() / before.median() > 2
    torch.testing.assert_close(after, before.max().expand(16), rtol=1e-5, atol=0)
    # Its weights are quantized row by row, and each row is divided by one number: no code changes.
    rows = [g.weights["1.0"].weight.flatten(1) for g in (graph, equalized)]
    unit = [row / row.abs().amax(1, keepdim=True) for row in rows]
    torch.testing.assert_close(unit[0], unit[1])


def test_no_factor_leaves_its_limits():
    graph = network("depthwise", spread=1000.0)
    found = factors(graph, equalize(graph), "0.0")
    assert float(found.min()) == pytest.approx(1)
    assert float(found.max()) == pytest.approx(LIMIT)
    graph = network("dense", spread=1000.0)
    found = factors(graph, equalize(graph), "0.0")
    assert 1 / LIMIT <= float(found.min()) < 1 < float(found.max()) <= LIMIT


def test_a_sum_over_channels_shares_ranges_between_activations_and_weights():
    """s = k sqrt(w / r): the scaled ranges are to the scaled columns as a constant, and the largest stays."""
    graph = network("dense", spread=4.0)
    equalized = equalize(graph)
    before, after = (ranges(g.weights["0.0"], g["0.0"].activation) for g in (graph, equalized))
    weight = graph.weights["1.0"].weight
    relative = weight / weight.abs().amax((1, 2, 3), keepdim=True)
    columns = relative.square().sum((0, 2, 3)).sqrt()
    ratio = after / (columns * before / after)
    torch.testing.assert_close(ratio, ratio.mean().expand(16), rtol=1e-4, atol=0)
    assert float(after.max()) == pytest.approx(float(before.max()))
    assert after.max() / after.median() < 0.8 * before.max() / before.median()


def test_a_depthwise_reader_does_not_mind_what_another_one_needs():
    class Readers(nn.Module):
        """One tensor, read by a dense and by a depthwise convolution."""

        def __init__(self):
            super().__init__()
            self.stem = convolution(3, 16)
            self.dense, self.depthwise = convolution(16, 16, 1), convolution(16, 16, groups=16)
            self.classifier = nn.Sequential(*classifier(16))

        def forward(self, x):
            x = self.stem(x)
            return self.classifier(self.dense(x) + self.depthwise(x))

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        both = Readers()
        alone = nn.Sequential(both.stem, both.dense, both.classifier)
        realistic(both, SHAPE)
    graph, dense = trace(both, SHAPE), trace(alone, SHAPE)
    equalized = equalize(graph)
    assert changed(graph, equalized) == {"stem.0", "dense.0", "depthwise.0"}
    assert_same_function(graph, equalized, random_images(8, SHAPE))
    found = factors(graph, equalized, "stem.0")
    torch.testing.assert_close(found, factors(dense, equalize(dense), "0.0"))


def test_behind_a_bound_channels_have_their_own_and_no_factor_is_below_one():
    graph = network("relu6")
    equalized = equalize(graph)
    for name in ("0.0", "1.0", "2.0"):
        found = factors(graph, equalized, name)
        assert bool((found >= 1).all())
        assert float(found.max()) > 1.5
        torch.testing.assert_close(equalized.weights[name].ceiling, 6 * found)
        assert equalized[name].activation.high == 6, "what the quantized network keeps"
    # The tests of this file would not see a bound that no value reaches.
    forgotten = {name: replace(weights, ceiling=None) for name, weights in equalized.weights.items()}
    images = 20 * random_images(8, SHAPE)
    expected = run_float(graph, images)
    assert_same_function(graph, equalized, images)
    error = run_float(replace(equalized, weights=forgotten), images) - expected
    assert float(error.abs().max()) > 0.01 * float(expected.abs().max())


def test_a_bound_ends_ranges_and_no_other_is_raised_above_it():
    """s >= 1 also where the weights would rather have less."""
    graph = network("relu6", spread=4.0)
    norm = graph.weights["0.0"].batch_norm
    norm.beta[5] = 40
    equalized = equalize(graph)
    after = ranges(equalized.weights["0.0"], equalized["0.0"].activation)
    unlimited = factors(graph, equalized, "0.0") < 0.999 * LIMIT
    assert int(unlimited.sum()) > 10
    torch.testing.assert_close(after[unlimited], torch.full_like(after[unlimited], 6.0))
    assert factors(graph, equalized, "0.0")[5] == 1
    graph.weights["2.0"].weight[:, 7] /= 100
    factor = factors(graph, equalize(graph), "1.0")
    assert factor[7] == 1
    assert bool((factor >= 1).all())


def test_calibration_sees_the_bound_of_the_quantized_network():
    graph = equalize(network("relu6"))
    scheme, images = make_scheme("integer", 8, 4), 20 * random_images(16, SHAPE)
    placement = place(graph, scheme)
    for method in ("learned", "min-max"):
        found = calibrate(graph, placement, images, method, seed=0)
        tops = {name: found[name].scale * 15 for name in ("0.0", "1.0", "2.0")}
        assert max(tops.values()) == pytest.approx(6, rel=0.05)
        assert all(top <= 6 * (1 + 1e-6) for top in tops.values())


@pytest.mark.parametrize(("name", "reader"), [("dense", "1.0"), ("depthwise", "1.0"), ("relu6", "1.0")])
@pytest.mark.parametrize(("gamma", "beta"), [(0.0, -1.0), (1e-9, 0.0), (0.0, 0.0), (0.1, -5.0)])
def test_dead_channels_stay_as_they_are(name, reader, gamma, beta):
    graph = network(name)
    norm = graph.weights["0.0"].batch_norm
    norm.gamma[3], norm.beta[3] = gamma, beta
    equalized = equalize(graph)
    after = equalized.weights["0.0"].batch_norm
    assert (after.gamma[3], after.beta[3]) == (norm.gamma[3], norm.beta[3])
    row = 3 if graph[reader].op.groups > 1 else slice(None)
    column = 0 if graph[reader].op.groups > 1 else 3
    assert torch.equal(equalized.weights[reader].weight[row, column], graph.weights[reader].weight[row, column])
    assert changed(graph, equalized) == set(graph.weights)
    assert_same_function(graph, equalized, random_images(8, SHAPE))


@pytest.mark.parametrize("name", ["dense", "grouped", "relu6"])
def test_nothing_that_is_zero_divides(name):
    """A whole tensor that is dead, weights that are zero, and a channel that nobody reads."""
    graph = network(name)
    graph.weights["0.0"].batch_norm.gamma.zero_()
    graph.weights["0.0"].batch_norm.beta.zero_()
    graph.weights["1.0"].weight[0] = 0
    last = graph.layers()[-1].name
    graph.weights[last].weight[:, 2] = 0
    equalized = equalize(graph)
    assert "0.0" not in changed(graph, equalized)
    for weights in equalized.weights.values():
        assert all(bool(t.isfinite().all()) for t in weights.folded())
    assert_same_function(graph, equalized, random_images(8, SHAPE))


def test_what_nobody_listens_to_stays_as_it_is():
    graph = network("dense")
    graph.weights["1.0"].weight[:, 2] = 0
    assert factors(graph, equalize(graph), "0.0")[2] == 1
    graph.weights["1.0"].weight.zero_()
    assert "0.0" not in changed(graph, equalize(graph))


def plain(activation):
    return nn.Sequential(nn.Conv2d(3, 8, 3), activation, nn.Conv2d(8, 8, 3), *classifier(8))


def normed(activation):
    return nn.Sequential(convolution(3, 8, activation=None), activation, nn.Conv2d(8, 8, 3), *classifier(8))


@pytest.mark.parametrize(
    "module",
    [
        plain(nn.ReLU()),
        normed(nn.Hardtanh(-1.0, 50.0)),
        normed(nn.GELU()),
        normed(nn.SiLU()),
        nn.Sequential(convolution(3, 10), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=["no batch norm", "bounded below", "not homogeneous", "gated", "logits"],
)
def test_with_nothing_to_equalise_the_weights_are_the_same(module):
    graph = trace(realistic(module, SHAPE), SHAPE)
    equalized = equalize(graph)
    assert changed(graph, equalized) == set()
    assert equalized.nodes == graph.nodes


def test_what_is_equal_already_stays():
    graph = network("depthwise", spread=4.0)
    once = equalize(graph)
    found = factors(once, equalize(once), "0.0")
    torch.testing.assert_close(found, torch.ones(16))


@pytest.mark.parametrize("name", ["dense", "depthwise", "grouped", "relu6"])
def test_few_bits_lose_less(name):
    """Of networks whose channels differ much, as those do that were trained without a thought of it."""
    graph, images = network(name, spread=30.0), random_images(64, SHAPE)
    scheme, expected = make_scheme("integer", 8, 4), run_float(graph, images)
    with torch.no_grad():
        before, after = (build_network(g, scheme, images, 0)(images) - expected for g in (graph, equalize(graph)))
    assert after.square().sum() < 0.7 * before.square().sum()


def test_published_weights_keep_their_logits(shared_data):
    model = load_model(
        str(shared_data / "weights" / "mobilenetv1_w075_imagenet.pth"),
        arch=f"{PUBLISHED}:MobileNetV1",
        input_size=(224, 224),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    graph = trace(model.module, model.input_shape)
    equalized = equalize(graph)
    edges = [n.name for n in graph.layers() if equalized.weights[n.name].ceiling is not None]
    assert len(edges) > 15
    assert any(isinstance(n.op, Conv2d) and n.op.groups > 1 for n in graph.layers() if n.name in edges)
    images = random_images(4, model.input_shape)
    expected = run_float(graph, images)
    error = (run_float(equalized, images) - expected).abs().max()
    assert float(error) < 1e-4 * float(expected.abs().max())
