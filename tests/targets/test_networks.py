"""Whole networks as people bring them, with random weights and realistic batch norms: every integer in ONNX Runtime.

At 64 pixels, where a network works there. benchmarks/networks.py does the same at full size and writes
docs/networks.md.
"""

import pytest
from support import random_images, whole_network

from intraq_deploy.graph.trace import trace
from intraq_deploy.pipeline.schemes import constraints_of
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program.freeze import freeze
from intraq_deploy.program.settle import settle
from intraq_deploy.quantization.build import build_network
from intraq_deploy.quantization.scheme import make_scheme
from intraq_deploy.targets.onnx.export import export
from intraq_deploy.targets.profile import load_profile

FAST = [
    "torchvision:googlenet", "torchvision:squeezenet1_1", "torchvision:mobilenet_v3_small",
    "torchvision:shufflenet_v2_x1_0", "torchvision:mnasnet1_0", "torchvision:regnet_x_400mf",
    "torchvision:regnet_y_400mf", "timm:mobilenetv1_100", "timm:repvgg_a0", "timm:ghostnet_100", "timm:resnet18d",
    "timm:tf_mobilenetv3_small_100", "timm:efficientnet_lite0",
]  # fmt: skip
SLOW = [
    "torchvision:resnet34", "torchvision:resnet50", "torchvision:resnext50_32x4d", "torchvision:wide_resnet50_2",
    "torchvision:densenet121", "torchvision:mobilenet_v3_large", "torchvision:efficientnet_b0",
    "torchvision:convnext_tiny",
]  # fmt: skip
# These do not work on 64 pixels.
LARGER = {
    "torchvision:inception_v3": 96,
    "torchvision:alexnet": 224,
    "torchvision:vgg11": 224,
    "torchvision:vgg16_bn": 224,
}
TOLERANCED = {"torchvision:convnext_tiny"}
"""Layer norms are computed in float."""
MEAN_LOGITS = {"torchvision:squeezenet1_1"}
"""Logits that are means are summed in float."""


CASES = [(name, 64) for name in FAST] + [
    pytest.param(name, size, marks=pytest.mark.slow) for name, size in [*((name, 64) for name in SLOW), *LARGER.items()]
]


@pytest.mark.parametrize(("name", "size"), CASES)
def test_every_integer_of_a_whole_network(name, size, tmp_path):
    shape = (3, size, size)
    graph = trace(whole_network(name, size), shape)
    images = random_images(8, shape)
    network = build_network(graph, make_scheme("integer", 4, 8, constraints_of(("onnxruntime",))), images, 0)
    settle(network)
    program = freeze(network)
    artifact = export(program, load_profile("onnxruntime"), tmp_path, {})
    result = validate(artifact, program, random_images(8, shape, seed=1))
    assert result.passes
    assert sum(t.mismatched for t in result.parity.tensors if t.tolerance is None) == 0
    assert result.layers_left_in_float == 0
    if name not in TOLERANCED:
        assert result.parity.mismatched == 0
        assert list(program.tolerances) == ([program.graph.output] if name in MEAN_LOGITS else [])
        assert result.logits_equal or name in MEAN_LOGITS
