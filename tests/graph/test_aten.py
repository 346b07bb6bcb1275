"""Operators beyond convolutions and sums: what they are translated to, and that the graph computes the same."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from intraq_deploy.errors import UnsupportedModelError
from intraq_deploy.graph.execute import FUNCTIONS
from intraq_deploy.graph.ops import FUNCTIONS as NAMES
from intraq_deploy.graph.trace import trace

SHAPE = (4, 10, 10)


class Net(nn.Module):
    """A function of a convolution's output, then a classifier."""

    def __init__(self, function, features=8):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1)
        self.norm = nn.LayerNorm(8)
        self.gain = nn.Parameter(torch.rand(8, 1, 1) + 0.5)
        self.inner = nn.Linear(8, 8)
        self.bn = nn.BatchNorm2d(8)
        self.bn.running_mean.normal_()
        self.bn.running_var.uniform_(0.5, 2)
        self.bn.weight.data.normal_()
        self.fc = nn.Linear(features, 5)
        self.function = function

    def forward(self, x):
        return self.fc(self.function(self, F.relu(self.conv(x))).mean((2, 3)))


def last(x):
    return x.permute(0, 2, 3, 1)


def first(x):
    return x.permute(0, 3, 1, 2)


def shuffle(x):
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def normed(x, dim):
    mean = x.mean(dim, keepdim=True)
    return (x - mean) / ((x - mean) ** 2).mean(dim, keepdim=True).add(1e-3).sqrt()


def in_bfloat16(function):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return function()


MATRICES = torch.linspace(-1, 1, 32).view(2, 4, 4)


def grouped(x, function):
    """A gate that `function` makes of the means of two groups, [N, 2, 4]."""
    return x * function(x.mean((2, 3)).view(-1, 2, 4)).reshape(-1, 8, 1, 1).sigmoid()


def ops(graph):
    """Between the first convolution and the pooling."""
    return [type(node.op).__name__ for node in graph.nodes][2:-3]


CASES = {
    "batch norm on its own": (lambda net, x: net.bn(x), ["Conv2d"]),
    "two batch norms": (lambda net, x: net.bn(net.bn(net.conv(x[:, :4]))), ["Slice", "Conv2d"]),
    "a gain behind a convolution": (lambda net, x: net.gain * net.conv(x[:, :4]), ["Slice", "Conv2d"]),
    "numbers of a matrix": (lambda net, x: x * (2 * x.mean((2, 3)).view(-1, 2, 4) - 1).view(-1, 8, 1, 1), None),
    "numbers of blocks": (lambda net, x: (x.view(-1, 2, 4, 10, 10) * 2 + 1).view(-1, 8, 10, 10), None),
    "numbers": (lambda net, x: (1 - x) * 2 / 3 + 1, ["Conv2d"]),
    "layer norm, linear layers, a gain": (
        lambda net, x: x + first(net.inner(F.gelu(net.inner(net.norm(last(x)))))) * net.gain,
        ["ChannelNorm", "Conv2d", "Unary", "Conv2d", "Add"],
    ),
    "a gate": (
        lambda net, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), ["GlobalAveragePool", "Unary", "Multiply"],
    ),
    "hardswish": (lambda net, x: F.hardswish(x), ["Unary", "Multiply"]),
    "silu": (lambda net, x: F.silu(x), ["Unary", "Multiply"]),
    "silu behind a transposition": (lambda net, x: first(F.silu(last(x))), ["Unary", "Multiply"]),
    "concatenation and split": (lambda net, x: torch.cat([y * 2 for y in x.chunk(2, 1)][::-1], 1), None),
    "channel shuffle": (lambda net, x: shuffle(x), ["Reshape", "Transpose", "Reshape"]),
    "padded average that counts padding": (lambda net, x: F.avg_pool2d(x, 3, 1, 1), ["AveragePool2d"]),
    "padded average that does not": (
        lambda net, x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), ["AveragePool2d"],
    ),
    "a gate that is expanded": (
        lambda net, x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)).expand_as(x),
        ["GlobalAveragePool", "Unary", "Multiply"],
    ),
    "a gate from squeezed means": (
        lambda net, x: x * torch.sigmoid(F.adaptive_avg_pool2d(x, 1).squeeze())[:, :, None, None].expand_as(x), None,
    ),
    "rows, then columns": (lambda net, x: x * x.mean(3).mean(2)[:, :, None, None], None),
    "columns, then rows, kept": (
        lambda net, x: x * x.mean(2, keepdim=True).mean(3, keepdim=True), ["GlobalAveragePool", "Multiply"],
    ),
    "the mean of flat positions": (lambda net, x: x * x.flatten(2).mean(-1)[:, :, None, None], None),
    "the mean of viewed positions": (
        lambda net, x: x * x.view(x.shape[0], x.shape[1], -1).mean(2)[:, :, None, None], None,
    ),
    "a mean over rows alone": (lambda net, x: x.mean(2, keepdim=True), []),
    "pixels to channels and back": (
        lambda net, x: F.pixel_shuffle(F.pixel_unshuffle(x, 2), 2),
        ["Reshape", "Transpose", "Reshape", "Reshape", "Transpose", "Reshape"],
    ),
    "channel shuffle by torch": (lambda net, x: torch.channel_shuffle(x, 2), ["Reshape", "Transpose", "Reshape"]),
    "reflected": (lambda net, x: F.pad(x, (1, 2, 0, 3), mode="reflect"), None),
    "cropped by padding": (lambda net, x: F.pad(x, (-1, 1, 2, -3)), ["Slice", "Slice", "Pad"]),
    "only cropped by padding": (lambda net, x: F.pad(x, (-1, 0, 0, -2)), ["Slice", "Slice"]),
    "replicated": (lambda net, x: F.pad(x, (1, 2, 0, 3), mode="replicate"), None),
    "in a circle": (lambda net, x: F.pad(x, (1, 2, 0, 3), mode="circular"), None),
    "-inf around a ReLU": (
        lambda net, x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-math.inf), 2), ["Pad", "MaxPool2d"],
    ),
    "one slope": (lambda net, x: F.prelu(net.conv(x[:, :4]), torch.tensor([0.2])), ["Slice", "Conv2d", "Unary"]),
    "slopes of channels": (lambda net, x: F.prelu(net.conv(x[:, :4]), torch.linspace(-0.5, 0.5, 8)), None),
    "a difference": (lambda net, x: net.conv(x[:, :4]) - x, ["Slice", "Conv2d", "Conv2d", "Add"]),
    "a share of a branch": (
        lambda net, x: torch.add(x, net.conv(x[:, :4]), alpha=0.3), ["Slice", "Conv2d", "Conv2d", "Add"],
    ),
    "a share of itself": (lambda net, x: torch.add(x, x, alpha=-0.3), ["Conv2d", "Add"]),
    "channels in another order": (lambda net, x: x[:, [2, 1, 0, 3, 4, 5, 7, 6]], None),
    "chosen channels": (
        lambda net, x: torch.index_select(x, 1, torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])), ["Slice", "Slice", "Concat"],
    ),
    "a stack": (lambda net, x: torch.stack([x[:, :4], x[:, 4:]], 2).flatten(1, 2), None),
    "global maximum": (lambda net, x: x * F.adaptive_max_pool2d(x, 1), ["MaxPool2d", "Multiply"]),
    "another float type": (lambda net, x: net.conv(x.double().float().type_as(x)[:, :4]), ["Slice", "Conv2d"]),
    "more rows than there are": (
        lambda net, x: F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(x, (2, 1)), (6, 7)), None,
    ),
    "more rows, fewer columns": (lambda net, x: F.adaptive_avg_pool2d(x, (20, 5)), None),
    "adaptive windows that overlap": (lambda net, x: F.adaptive_avg_pool2d(x, (7, 3)), None),
    "adaptive maxima that overlap": (lambda net, x: F.adaptive_max_pool2d(x, (7, 20)), None),
    "adaptive maxima": (lambda net, x: F.adaptive_max_pool2d(x, (2, 5)), ["MaxPool2d"]),
    "average that hangs over": (lambda net, x: F.avg_pool2d(x, 3, 2, ceil_mode=True), ["AveragePool2d"]),
    "-inf around any values": (
        lambda net, x: F.max_pool2d(F.pad(net.bn(x), (1, 2, 0, 1), value=-math.inf), 3, 2), None,
    ),
    "one channel of many": (lambda net, x: x * x[:, 3][:, None], None),
    "turned upside down": (lambda net, x: x.flip(2), None),
    "turned by half": (lambda net, x: torch.flip(x, (-1, -2)), None),
    "larger by nearest": (
        lambda net, x: F.interpolate(x, scale_factor=2), ["Reshape", "Concat", "Concat", "Reshape"],
    ),
    "larger to one side": (lambda net, x: F.interpolate(x, size=(30, 10)), ["Reshape", "Concat", "Reshape"]),
    "attention by channels and positions": (
        lambda net, x: x * torch.sigmoid(torch.cat([x.max(1, keepdim=True)[0], x.mean(1, keepdim=True)], 1)[:, :1]),
        None,
    ),
    "maxima of channels": (lambda net, x: x * torch.max(x, 1)[0].unsqueeze(1), None),
    "maxima of positions": (lambda net, x: x * x.amax((2, 3), keepdim=True), ["MaxPool2d", "Multiply"]),
    "means of channels": (lambda net, x: x * x.mean(1, keepdim=True), None),
    "a sum of branches": (lambda net, x: torch.stack([x, net.conv(x[:, :4])], 1).sum(1), None),
    "branches chosen by softmax": (
        lambda net, x: torch.cat(
            [(x.view(-1, 2, 4, 10, 10) * x.mean((2, 3)).view(-1, 2, 4, 1, 1).softmax(1)).sum(1)] * 2, 1
        ),
        None,
    ),
    "a convolution over channels": (
        lambda net, x: x * torch.sigmoid(
            F.conv1d(x.mean((2, 3))[:, None], torch.tensor([[[0.2, 0.5, 0.3]]]), padding=1).view(-1, 8, 1, 1)
        ),
        None,
    ),
    "a matrix from the right": (lambda net, x: first(last(x) @ net.inner.weight.T + net.inner.bias), ["Conv2d"]),
    "a matrix by einsum": (lambda net, x: torch.einsum("bc..., oc -> bo...", x, net.inner.weight), ["Conv2d"]),
    "a matrix by einsum, in order of letters": (
        lambda net, x: x * torch.einsum("bj,jz", x.mean((2, 3)), net.inner.weight).sigmoid()[:, :, None, None], None,
    ),
    "matrices of groups": (lambda net, x: grouped(x, lambda y: torch.matmul(y[:, :, None], MATRICES)[:, :, 0]), None),
    "matrices of groups by einsum": (
        lambda net, x: grouped(x, lambda y: torch.einsum("bgi,gio->bgo", y, MATRICES)), None,
    ),
    "matrices of groups, images as rows": (
        lambda net, x: grouped(x, lambda y: torch.bmm(y.transpose(0, 1), MATRICES).permute(1, 0, 2)), None,
    ),
    "a region in bfloat16": (
        lambda net, x: in_bfloat16(lambda: F.relu(net.conv(x[:, :4]))).float(), ["Slice", "Conv2d"],
    ),
    "a row of numbers": (lambda net, x: x * (last(x) @ net.inner.weight[0])[:, None].sigmoid(), None),
    "a bias and a matrix": (
        lambda net, x: x * torch.addmm(net.inner.bias, x.mean((2, 3)), net.inner.weight)[:, :, None, None], None,
    ),
    "a bias of one number and a matrix": (
        lambda net, x: x * torch.addmm(torch.ones(1), x.mean((2, 3)), net.inner.weight)[:, :, None, None], None,
    ),
    "a linear layer of positions": (
        lambda net, x: net.inner(x.flatten(2).transpose(1, 2)).transpose(1, 2).view(-1, 8, 10, 10), None,
    ),
    "matrices of groups and their biases": (
        lambda net, x: grouped(x, lambda y: torch.einsum("bgi,gio->bgo", y, MATRICES) + MATRICES[:, 0]), None,
    ),
    "one number for each image": (
        lambda net, x: x * F.linear(x.mean((2, 3)), net.inner.weight[:1]).squeeze(1).sigmoid()[:, None, None, None],
        None,
    ),
    "the share of one of two": (
        lambda net, x: x * x.mean((2, 3))[:, :2].softmax(1)[:, :1, None, None], None,
    ),
    "maxima of rows": (lambda net, x: x * x.amax(3, keepdim=True) * x.amax(2, keepdim=True), None),
    "maxima of a line": (lambda net, x: x * x.flatten(2).max(-1)[0][..., None, None], None),
    "the greater of two, by another name": (lambda net, x: torch.max(x, net.conv(x[:, :4])), None),
    "at least a number": (lambda net, x: torch.maximum(x, torch.zeros(1) + 0.2), ["Clamp"]),
    "a share of a number": (lambda net, x: torch.add(torch.rsub(x, 1.0, alpha=2), 1.0, alpha=0.5), ["Conv2d"]),
    "pieces side by side": (lambda net, x: torch.concat([x[:, 6:], x[:, :6]], dim=-3), None),
    "from right to left": (lambda net, x: torch.fliplr(x), None),
    "a line that is reflected": (
        lambda net, x: F.pad(x.flatten(2), (2, 1), mode="reflect")[:, :, 2:-1].view(-1, 8, 10, 10), None,
    ),
    "one pixel by lines": (
        lambda net, x: x + F.interpolate(x.mean((2, 3), keepdim=True), size=(10, 10), mode="bilinear"), None,
    ),
    "the first power": (lambda net, x: x ** 1 * 1, []),
    "vectors of length one, of products": (
        lambda net, x: x * ((x + 1) / ((x + 1) * (x + 1)).sum(1, True).sqrt()), None,
    ),
    "negative": (lambda net, x: -x, ["Conv2d"]),
    "no more than": (lambda net, x: x.clamp_max(0.5), ["Clamp"]),
    "a gated linear unit": (
        lambda net, x: torch.cat([F.glu(x, 1), x[:, 4:]], 1),
        ["Slice", "Slice", "Unary", "Multiply", "Slice", "Concat"],
    ),
    "the greater of two": (
        lambda net, x: torch.maximum(x, net.conv(x[:, :4])),
        ["Slice", "Conv2d", "Reshape", "Reshape", "Concat", "MaxPool2d", "Reshape"],
    ),
    "one channel for all": (lambda net, x: x[:, 2:3].repeat(1, 8, 1, 1), ["Slice", "Concat"]),
    "one channel, expanded": (lambda net, x: x[:, 2:3].expand(-1, 8, -1, -1), ["Slice", "Concat"]),
    "tiles": (lambda net, x: torch.tile(x[:, :4], (1, 2, 1, 1)), ["Slice", "Concat"]),
    "each channel twice": (lambda net, x: x[:, :4].repeat_interleave(2, 1), None),
    "rolled": (lambda net, x: torch.roll(x, (2, -1), (2, 3)), None),
    "turned by a quarter": (lambda net, x: torch.rot90(x, 1, (2, 3)), None),
    "single rows": (lambda net, x: torch.stack(x.unbind(2)[::-1], 2), None),
    "smaller by nearest": (lambda net, x: F.interpolate(x, size=(5, 7)), None),
    "larger by the exact nearest": (lambda net, x: F.interpolate(x, size=(15, 13), mode="nearest-exact"), None),
    "maxima and where they are": (lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0], ["MaxPool2d"]),
    "maxima over a line": (lambda net, x: F.max_pool1d(x.flatten(2), 3, 2, 1).view(-1, 8, 5, 10), None),
    "means over a line": (lambda net, x: F.avg_pool1d(x.flatten(2), 2).view(-1, 8, 5, 10), None),
    "the mean of a line": (lambda net, x: x * F.adaptive_avg_pool1d(x.flatten(2), 1)[..., None], None),
    "the sum of positions": (
        lambda net, x: x * (x.sum((2, 3), keepdim=True) - x.sum((2, 3))[..., None, None] / 2), None,
    ),
    "a context that is added": (
        lambda net, x: x + x.mean((2, 3), keepdim=True), ["GlobalAveragePool", *["Concat"] * 4, "Add"],
    ),
    "a context beside": (
        lambda net, x: torch.cat([x[:, :4], x[:, 4:].mean((2, 3), keepdim=True).expand(-1, -1, 10, 10)], 1), None,
    ),
    "two values for each channel": (
        lambda net, x: x.mean((2, 3), keepdim=True).expand_as(x) * x.amax((2, 3), keepdim=True).expand_as(x), None,
    ),
    "rows times columns": (lambda net, x: x.mean(3, keepdim=True) * x.mean(2, keepdim=True), None),
    "less the mean": (lambda net, x: x - x.mean((2, 3), keepdim=True), None),
    "gates of rows and columns": (
        lambda net, x: x * x.mean(3, keepdim=True).sigmoid() * x.mean(2, keepdim=True).sigmoid(), None,
    ),
    "a generalized mean": (
        lambda net, x: x * F.avg_pool2d(x.clamp(min=1e-6).pow(net.gain.sum()), 10).pow(1 / net.gain.sum()),
        ["Clamp", "Unary", "GlobalAveragePool", "Unary", "Multiply"],
    ),
    "a sum of a product": (lambda net, x: torch.addcmul(x, x, x), ["Multiply", "Add"]),
    "erf": (lambda net, x: 0.5 * (x - 1) * (1 + torch.erf((x - 1) / math.sqrt(2))), ["Conv2d", "Unary"]),
    "erf in another order": (lambda net, x: x * 0.5 * (1.0 + torch.erf(x * 0.7071067811865476)), ["Unary"]),
    "tanh of a cube": (
        lambda net, x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3)))), ["Unary"],
    ),
    "tanh of softplus": (lambda net, x: x * torch.tanh(F.softplus(x)), ["Unary"]),
    "tanh of logarithms": (lambda net, x: x * torch.tanh(torch.log(1 + torch.exp(x))), ["Unary"]),
    "one over exponentials": (lambda net, x: x * (1 / (1 + torch.exp(-x))), ["Unary", "Multiply"]),
    "a quick GELU": (lambda net, x: x * torch.sigmoid(1.702 * x), ["Conv2d", "Unary", "Multiply"]),
    "a norm in steps": (lambda net, x: normed(x, 1), ["ChannelNorm"]),
    "a norm of last channels in steps": (lambda net, x: first(normed(last(x), -1)), ["ChannelNorm"]),
    "vectors of length one": (lambda net, x: F.normalize(x, dim=1), ["UnitNorm"]),
    "vectors of length one, in steps": (
        lambda net, x: first(last(x + 1) / last(x + 1).pow(2).sum(-1, keepdim=True).sqrt()), ["Conv2d", "UnitNorm"],
    ),
    "features of length one": (
        lambda net, x: x * F.normalize(x.mean((2, 3)))[..., None, None],
        ["GlobalAveragePool", "Flatten", "Reshape", "UnitNorm", "Flatten", "Reshape", "Reshape", "Multiply"],
    ),
    "larger by lines": (lambda net, x: F.interpolate(x, scale_factor=2, mode="bilinear"), None),
    "larger by lines to one side": (lambda net, x: F.interpolate(x, size=(2, 30), mode="bilinear"), None),
    "half by lines": (lambda net, x: F.interpolate(x, size=(5, 5), mode="bilinear"), ["AveragePool2d"]),
    "a gain of last channels": (lambda net, x: first(last(x) * net.gain.view(1, 1, 1, 8)), ["Conv2d"]),
    "a gate of last channels": (
        lambda net, x: first(last(x) * torch.sigmoid(last(x).mean((1, 2), keepdim=True))),
        ["GlobalAveragePool", "Unary", "Multiply"],
    ),
    "sums behind transpositions": (lambda net, x: first(last(x) + F.relu(last(x)) * 2), ["Conv2d", "Add"]),
    "a number times one": (lambda net, x: x * 1 + 0, []),
    "weights that are computed": (
        lambda net, x: F.conv2d(x, net.gain[:, None] * torch.ones(8, 8, 1, 1)), ["Conv2d"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_it_is_traced_to_the_same_values(case):
    function, expected = case
    torch.manual_seed(0)
    net = Net(function).eval()
    graph = trace(net, SHAPE)  # raises where the logits differ
    if expected is not None:
        assert ops(graph) == expected


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (torch.sigmoid, "Sigmoid"), (F.hardsigmoid, "HardSigmoid"),
        (F.gelu, "Gelu"), (lambda x: F.gelu(x, approximate="tanh"), "GeluTanh"), (torch.tanh, "Tanh"), (F.mish, "Mish"),
        (lambda x: F.leaky_relu(x, 0.2), "LeakyRelu"), (lambda x: F.elu(x, 0.7), "Elu"), (F.selu, "Selu"),
        (lambda x: F.celu(x, 0.3), "Celu"), (F.softplus, "Softplus"), (torch.exp, "Exp"), (torch.abs, "Abs"),
        (lambda x: (x + 1).sqrt(), "Sqrt"), (torch.square, "Pow"), (lambda x: x ** 3, "Pow"),
    ],
)  # fmt: skip
def test_functions_are_known_by_name(function, name):
    graph = trace(Net(lambda net, x: function(x - 1)).eval(), SHAPE)
    (node,) = [node for node in graph.nodes if type(node.op).__name__ == "Unary"]
    assert node.op.function == name


def test_the_list_of_functions_is_what_can_be_run():
    assert set(NAMES) == set(FUNCTIONS)


def test_a_product_that_depends_on_the_image_cannot_be_a_divisor():
    with pytest.raises(UnsupportedModelError, match="a divisor that depends on the image"):
        trace(Net(lambda net, x: x / (x + 1)).eval(), SHAPE)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x: x * (x.flatten(2) @ x.flatten(2).transpose(1, 2)).sum(), "as attention multiplies them"),
        (lambda x: torch.einsum("bchw,bd->cdhw", x, torch.ones(2, 8)), "equation bchw,bd->cdhw"),
        (lambda x: torch.bmm(torch.ones(2, 8, 8), x.flatten(2)).view(x.shape), "other matrices than one for each"),
        (lambda x: torch.ones(10, 10) @ x, "a constant from the left"),
        (lambda x: F.interpolate(x, size=(15, 10), mode="bilinear"), "10 pixels that become 15 .whole factors"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True), "aligned by their corners"),
        (
            lambda x: torch.cat([x, torch.linspace(0, 1, 10).expand(2, 1, 10, 10)], 1)[:, 1:],
            "constants among its parts",
        ),
        (lambda x: F.batch_norm(x, None, None, training=True), "statistics of the images at hand"),
        (lambda x: F.group_norm(x, 2), "statistics of the images at hand"),
        (
            lambda x: x * (x.mean((2, 3)).view(-1, 2, 1, 4) @ torch.ones(1, 4, 4)).view(-1, 8, 1, 1),
            "label of two sizes",
        ),
        (lambda x: x * F.max_pool2d(x.mean(1), 10)[:, None], "aten.max_pool2d.default with a tensor of 3 dimensions"),
        (lambda x: torch.channel_shuffle(x.flatten(2), 4).view(x.shape), "a tensor of 3 dimensions"),
        (
            lambda x: x * F.max_pool1d(x.mean((2, 3)), 8)[:, :, None, None],
            "in a form that is not supported: tensors of .2, 8.",
        ),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[1].float(), "its output 1"),
        (lambda x: x[:, :, :8, :8] * torch.linspace(0, 1, 8)[:, None], "a constant of shape .8, 1."),
        (lambda x: F.interpolate(x, scale_factor=0.35), "the factors .0.35, 0.35. of 10x10 pixels"),
        (lambda x: F.pad(x, (-1, 1, 1, 1), mode="circular"), "in the mode circular"),
        (lambda x: x * torch.softmax(x[:, :2], 1).log()[:, :1], "an input that is not the network's probabilities"),
        (lambda x: torch.maximum(x, torch.linspace(0, 1, 10)), "a constant that is no single number"),
        (lambda x: x.pow(-1), "the exponent -1"),
        (lambda x: F.softplus(x, 2), "beta 2"),
        (lambda x: x.pow(x), "an exponent that is no single number"),
        (lambda x: x.transpose(0, 1).relu().transpose(0, 1), "a transposition of the batch"),
    ],
)
def test_other_products_are_refused(function, words):
    with pytest.raises(UnsupportedModelError, match=words):
        trace(Net(lambda net, x: function(x)).eval(), SHAPE)


@pytest.mark.parametrize("groups", [1, 2], ids=["whole", "grouped"])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "more"),
    [
        (2, 2, 0, 0), (4, 2, 1, 0), (3, 2, 1, 1), (3, 1, 1, 0), (5, 3, 0, 2), (3, 3, 2, 0), (2, 3, 0, 0),
        ((3, 2), (1, 2), (0, 1), 0),
    ],
)  # fmt: skip
def test_transposed_convolutions(kernel, stride, padding, more, groups):
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(8, 6, kernel, stride, padding, more, groups).eval()
    net = Net(lambda _, x: layer(x), 6)
    net.layer = layer
    graph = trace(net.eval(), SHAPE)  # raises where the logits differ
    assert sum(type(node.op).__name__ == "Conv2d" for node in graph.nodes) == 2
