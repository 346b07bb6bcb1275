"""Equalised networks: the same function of the image, with channels that want more alike steps."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import SMALL_SHAPE, random_images, realistic, small_network
from torch import nn

from intraq_deploy.graph.execute import clamp, evaluate_float, run_float, walk_keeping
from intraq_deploy.graph.ops import Conv2d
from intraq_deploy.graph.trace import trace
from intraq_deploy.models.loading import load_model
from intraq_deploy.quantization import equalization
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.equalization import LIMIT, equalize
from intraq_deploy.quantization.placement import place
from intraq_deploy.quantization.ranges import calibrate
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.synthesis.synthetic_set import SyntheticSet
from intraq_deploy.training.layerwise import fit_layers
from intraq_deploy.training.recipe import FittingRecipe
from intraq_deploy.training.teacher import Teacher

SHAPE = (3, 16, 16)
IMAGES = random_images(64, SHAPE)
SCHEME = make_scheme("integer", 8, 4)
PUBLISHED = Path(__file__).parents[2] / "benchmarks" / "published.py"


def convolution(inputs, outputs, size=3, groups=1, activation=nn.ReLU):
    """With its batch norm and an activation, or none."""
    layers = [nn.Conv2d(inputs, outputs, size, 1, size // 2, groups=groups, bias=False), nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([activation()] if activation else []))


def classifier(channels):
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10)]


class Branches(nn.Module):
    """One tensor, read by a dense and by a depthwise convolution."""

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 16)
        self.dense, self.depthwise = convolution(16, 16, 1), convolution(16, 16, groups=16)
        self.classifier = nn.Sequential(*classifier(16))

    def forward(self, x):
        x = self.stem(x)
        return self.classifier(self.dense(x) + self.depthwise(x))


class Gated(nn.Module):
    """Squeeze-and-excite, whose hidden layer has a ReLU and no batch norm."""

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 16)
        self.squeeze, self.excite = nn.Conv2d(16, 8, 1), nn.Conv2d(8, 16, 1)
        self.classifier = nn.Sequential(*classifier(16))

    def forward(self, x):
        x = self.stem(x)
        return self.classifier(x * self.excite(self.squeeze(x.mean((2, 3), keepdim=True)).relu()).sigmoid())


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
    "no batch norm": lambda: nn.Sequential(
        *(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.ReLU6()),
        *(nn.Flatten(), nn.Linear(16 * 144, 12), nn.ReLU(), nn.Linear(12, 10)),
    ),
    "pooled": lambda: nn.Sequential(
        convolution(3, 16),
        nn.MaxPool2d(3, 2, 1),
        convolution(16, 12),
        nn.ZeroPad2d(1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(12 * 25, 10),
    ),
    "branches": Branches,
    "gated": Gated,
}


def network(name, spread=10.0):
    """Random, what each batch norm and each layer with a bias makes multiplied by factors from 1 / spread to 1."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = NETWORKS[name]()
        # Statistics first: what follows changes the function, and tests only compare the result with itself.
        realistic(module, SHAPE)
        for layer in (layer for layer in module.modules() if getattr(layer, "bias", None) is not None):
            count = len(layer.bias)
            shares = spread ** -torch.linspace(0, 1, count)[torch.randperm(count)]
            layer.weight *= shares.reshape(-1, *[1] * (layer.weight.dim() - 1))
            layer.bias *= shares
    return trace(module, SHAPE)


def equalized(graph, images=IMAGES, scheme=SCHEME, seed=0):
    return equalize(graph, place(graph, scheme), images, seed)


def factors(graph, after, name):
    """s of the channels that a layer with a batch norm makes."""
    return after.weights[name].batch_norm.gamma / graph.weights[name].batch_norm.gamma


def changed(graph, after):
    return {name for name in graph.weights if after.weights[name] is not graph.weights[name]}


def assert_same_function(graph, after, images=2 * IMAGES[:8]):
    expected, found = run_float(graph, images), run_float(after, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))


def best_steps(graph, name, levels=15):
    """The step of least squares of each channel behind a layer, by trying many."""

    def evaluate(node, inputs):
        return clamp(evaluate_float(graph, node, inputs), node.activation)

    values = walk_keeping(graph, IMAGES, evaluate, [name])[1][name].transpose(0, 1).flatten(1)
    tried = values.amax(1)[:, None] / levels * torch.linspace(0.1, 1, 181)
    errors = [((values / s[:, None]).round().clamp(max=levels) * s[:, None] - values).square().sum(1) for s in tried.T]
    return tried.gather(1, torch.stack(errors, 1).argmin(1, keepdim=True))[:, 0]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_function_stays(name):
    graph = network(name)
    before = run_float(graph, IMAGES)
    after = equalized(graph)
    assert torch.equal(run_float(graph, IMAGES), before), "the given graph stays as it is"
    # The others make and read nothing but the sum, the product and what these are made of.
    some = {"branches": {"stem.0", "dense.0", "depthwise.0"}, "gated": {"squeeze", "excite"}}
    assert changed(graph, after) == some.get(name, set(graph.weights))
    assert_same_function(graph, after)


def test_what_a_sum_reads_is_not_touched():
    graph = trace(small_network("resnet"), SMALL_SHAPE)
    after = equalized(graph, random_images(32))
    # The stem is read by a convolution and, behind the pooling, by the sum; downsample.0 by a sum only.
    assert changed(graph, after) == {f"layer{number}.conv{part}" for number in (1, 2, 3) for part in (1, 2)}
    norms = [g.weights["layer1.conv2"].batch_norm for g in (graph, after)]
    assert norms[0] is norms[1], "it reads, but a sum reads it"
    assert_same_function(graph, after, 2 * random_images(8))


def test_behind_a_bound_every_channel_has_its_own():
    graph = network("relu6")
    after = equalized(graph)
    for name in ("0.0", "1.0", "2.0"):
        found = factors(graph, after, name)
        assert float(found.max()) > 1.5
        torch.testing.assert_close(after.weights[name].ceiling, 6 * found)
        assert after[name].activation.high == 6, "what the quantized network keeps"
    # The tests of this file would not see a bound that no value reaches.
    forgotten = {name: replace(weights, ceiling=None) for name, weights in after.weights.items()}
    images = 20 * IMAGES[:8]
    expected = run_float(graph, images)
    assert_same_function(graph, after, images)
    error = run_float(replace(after, weights=forgotten), images) - expected
    assert float(error.abs().max()) > 0.01 * float(expected.abs().max())


def test_calibration_sees_the_bound_of_the_quantized_network():
    graph = equalized(network("relu6"))
    for method in ("learned", "min-max"):
        found = calibrate(graph, place(graph, SCHEME), 20 * IMAGES[:16], method, seed=0)
        tops = [found[name].scale * 15 for name in ("0.0", "1.0", "2.0")]
        assert max(tops) == pytest.approx(6, rel=0.05)
        assert all(top <= 6 * (1 + 1e-6) for top in tops)


def test_published_weights_keep_their_logits(shared_data):
    model = load_model(
        str(shared_data / "weights" / "mobilenetv1_w075_imagenet.pth"),
        arch=f"{PUBLISHED}:MobileNetV1",
        input_size=(224, 224),
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    graph, images = trace(model.module, model.input_shape), random_images(4, model.input_shape)
    after = equalized(graph, images)
    edges = [n.name for n in graph.layers() if after.weights[n.name].ceiling is not None]
    assert len(edges) > 15
    assert any(isinstance(n.op, Conv2d) and n.op.groups > 1 for n in graph.layers() if n.name in edges)
    expected = run_float(graph, images)
    error = (run_float(after, images) - expected).abs().max()
    assert float(error) < 1e-4 * float(expected.abs().max())


@pytest.mark.parametrize("name", ["dense", "depthwise", "relu6"])
def test_channels_get_the_same_best_step(name):
    graph = network(name, spread=4.0)
    after = equalized(graph)
    before, now = best_steps(graph, "0.0"), best_steps(after, "0.0")
    assert before.max() > 2 * before.median()
    torch.testing.assert_close(now, before.max().expand(16), rtol=0.2, atol=0)
    if name == "depthwise":
        # Its weights are quantized row by row, and each row is divided by one number: no code changes.
        rows = [g.weights["1.0"].weight.flatten(1) for g in (graph, after)]
        unit = [row / row.abs().amax(1, keepdim=True) for row in rows]
        torch.testing.assert_close(*unit)


def test_a_layer_without_a_batch_norm_is_multiplied_itself():
    graph = network("no batch norm")
    after = equalized(graph)
    old, new = graph.weights["0"], after.weights["0"]
    made = (new.weight / old.weight).flatten(1)
    assert float(made.max()) > 2
    torch.testing.assert_close(made, (new.bias / old.bias)[:, None].expand_as(made))
    assert after.weights["2"].bias is None, "as it had none"


def test_layers_are_multiplied_in_the_order_they_run(monkeypatch):
    """In another order products are rounded otherwise: the same seed would give another student."""
    order, multiplied = [], equalization._multiplied

    def note(node, *rest):
        order.append(node.name)
        return multiplied(node, *rest)

    monkeypatch.setattr(equalization, "_multiplied", note)
    equalized(network("no batch norm"))
    assert order == ["0", "2", "5"]


@pytest.mark.parametrize("name", ["dense", "depthwise", "relu6"])
def test_no_factor_leaves_its_limits(name):
    graph = network(name, spread=100.0)
    found = factors(graph, equalized(graph), "0.0")
    assert float(found.min()) == pytest.approx(1)
    assert float(found.max()) == pytest.approx(LIMIT)


def test_the_images_and_the_seed_decide():
    graph = network("dense")
    once = factors(graph, equalized(graph), "0.0")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        assert torch.equal(factors(graph, equalized(graph), "0.0"), once)
    for other in (equalized(graph, seed=1), equalized(graph, random_images(64, SHAPE, seed=1))):
        found = factors(graph, other, "0.0")
        assert 0 < float((found / once).log().abs().mean()) < 0.15


@pytest.mark.parametrize("name", ["dense", "depthwise", "relu6"])
@pytest.mark.parametrize(("gamma", "beta"), [(0.0, -1.0), (1e-9, 0.0), (0.0, 0.0), (0.1, -5.0)])
def test_dead_channels_stay_as_they_are(name, gamma, beta):
    graph = network(name)
    norm = graph.weights["0.0"].batch_norm
    norm.gamma[3], norm.beta[3] = gamma, beta
    after = equalized(graph)
    kept = after.weights["0.0"].batch_norm
    assert (kept.gamma[3], kept.beta[3]) == (norm.gamma[3], norm.beta[3])
    place = (slice(None), 3) if graph["1.0"].op.groups == 1 else 3
    assert torch.equal(after.weights["1.0"].weight[place], graph.weights["1.0"].weight[place])
    assert changed(graph, after) == set(graph.weights)
    assert_same_function(graph, after)


@pytest.mark.parametrize("name", ["dense", "grouped", "relu6"])
def test_nothing_that_is_zero_divides(name):
    """A whole tensor that is dead, weights that are zero, and a channel that nobody reads."""
    graph = network(name)
    graph.weights["0.0"].batch_norm.gamma.zero_()
    graph.weights["0.0"].batch_norm.beta.zero_()
    graph.weights["1.0"].weight[0] = 0
    graph.weights[graph.layers()[-1].name].weight[:, 2] = 0
    after = equalized(graph)
    assert "0.0" not in changed(graph, after)
    for weights in after.weights.values():
        assert all(bool(t.isfinite().all()) for t in weights.folded())
    assert_same_function(graph, after)


def behind(activation):
    return nn.Sequential(convolution(3, 8, activation=activation), nn.Conv2d(8, 8, 3), *classifier(8))


@pytest.mark.parametrize(
    "module",
    [
        behind(None),
        behind(lambda: nn.Hardtanh(-1.0, 50.0)),
        behind(nn.GELU),
        behind(nn.SiLU),
        nn.Sequential(convolution(3, 10), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
    ids=["no activation", "bounded below", "not homogeneous", "gated", "logits"],
)
def test_with_nothing_to_equalise_the_weights_are_the_same(module):
    graph = trace(realistic(module, SHAPE), SHAPE)
    after = equalized(graph)
    assert changed(graph, after) == set()
    assert after.nodes == graph.nodes


def test_what_the_scheme_leaves_in_float_is_not_touched():
    graph = network("gated")
    assert changed(graph, equalized(graph, scheme=make_scheme("paper", 4, 4))) == set()
    assert changed(graph, equalized(graph, scheme=make_scheme("ends8", 8, 4))) == {"squeeze", "excite"}


@pytest.mark.parametrize("name", ["dense", "depthwise", "grouped", "relu6", "no batch norm"])
def test_few_bits_lose_less(name):
    """Of networks whose channels differ much, as those do that were trained without a thought of it."""
    graph = network(name, spread=30.0)
    expected = run_float(graph, IMAGES)
    with torch.no_grad():
        before, after = (build_network(g, SCHEME, IMAGES, 0)(IMAGES) - expected for g in (graph, equalized(graph)))
    assert after.square().sum() < 0.7 * before.square().sum()


@pytest.mark.parametrize("bits", [(4, 8), (8, 4), (4, 4)])
def test_the_error_in_front_of_a_sum_falls(bits):
    """Whichever has the fewer bits, the weights or the tensor, where rounding is compensated."""
    graph = network("dense", spread=1.0)
    # Columns of many sizes: they share the step of their row.
    graph.weights["1.0"].weight.mul_(torch.logspace(-1, 0, 16)[None, :, None, None])
    scheme, expected, errors = make_scheme("integer", *bits), run_float(graph, IMAGES), []
    after = equalized(graph, scheme=scheme)
    images = SyntheticSet(IMAGES, torch.zeros(64, dtype=torch.int64), torch.ones(64))
    for prepared in (graph, after):
        student = build_network(prepared, scheme, IMAGES, 0)
        recipe = FittingRecipe(compensate=True, correct=True, crops=0)
        fit_layers(student, Teacher(prepared), images, recipe, 0, torch.device("cpu"))
        with torch.no_grad():
            errors.append(float((student(IMAGES) - expected).square().sum()))
    assert errors[1] < 0.95 * errors[0]
    assert_same_function(graph, after)


def test_of_a_large_reader_some_rows_stand_for_all(monkeypatch):
    graph, scheme = network("dense"), make_scheme("integer", 4, 8)
    once = factors(graph, equalized(graph, scheme=scheme), "0.0")
    monkeypatch.setattr(equalization, "_WEIGHTS", graph.weights["1.0"].weight.numel() // 3)
    some = equalized(graph, scheme=scheme)
    assert_same_function(graph, some)
    assert 0 < float((factors(graph, some, "0.0") / once).log().abs().mean()) < 0.3


def test_what_passes_a_bound_counts():
    """Channels that the bound cuts off keep it as their top, though their small weights would want a higher one."""
    graph = network("relu6", spread=1.0)
    norm = graph.weights["1.0"].batch_norm
    norm.gamma[:8], norm.beta[:8] = 0.5, 1.0
    norm.gamma[8:], norm.beta[8:] = 20.0, 5.0
    graph.weights["2.0"].weight.mul_(torch.where(torch.arange(16) < 8, 1.0, 0.05)[None, :, None, None])
    found = factors(graph, equalized(graph, scheme=make_scheme("integer", 4, 8)), "1.0")
    assert float(found[8:].min()) >= 0.85, "less would let values far above the bound pass"
    assert float(found[8:].max()) < 1.2
