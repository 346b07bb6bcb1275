"""Forms of layers that networks have beyond ResNet and MobileNetV2, each integer for integer in ONNX Runtime."""

import pytest
import torch
import torch.nn.functional as F
from intraq_deploy.targets.onnxruntime.target import export
from intraq_deploy.targets.profile import load_profile
from support import random_images, realistic
from torch import nn

from intraq_deploy.graph import trace
from intraq_deploy.pipeline.validation import validate
from intraq_deploy.program import freeze, settle
from intraq_deploy.quantization import make_scheme
from intraq_deploy.quantization.build import build_network

SHAPE = (4, 15, 15)


def net(*layers, features=8, classes=5):
    """Layers, global pooling and a classifier."""
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes))


class PaddedClamp(nn.Module):
    """Zeros next to values that are never zero."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = F.pad(F.hardtanh(self.conv(x), 0.5, 6), (1, 1, 1, 1))
        return self.fc(F.max_pool2d(x, 2).mean((2, 3)))


class TwoReaders(nn.Module):
    """A ReLU6 that only one of two readers sees, under a name that torch's containers have."""

    def __init__(self):
        super().__init__()
        self.values = nn.Conv2d(4, 8, 3, padding=1)
        self.pop = nn.Conv2d(8, 8, 1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.values(x)
        return self.fc((x + self.pop(F.relu6(x))).mean((2, 3)))


FORMS = {
    "several linear layers": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(4), nn.Flatten(),
        nn.Linear(72, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 2),
    ),
    "groups": lambda: net(nn.Conv2d(4, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.ReLU()),
    "channel multiplier": lambda: net(nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8), nn.ReLU()),
    "dilation": lambda: net(nn.Conv2d(4, 8, 3, dilation=2, padding=2), nn.ReLU()),
    "rectangular kernel": lambda: net(nn.Conv2d(4, 8, (1, 5), (2, 1), (0, 2)), nn.ReLU()),
    "same padding": lambda: net(nn.Conv2d(4, 8, (3, 5), padding="same"), nn.ReLU()),
    "ReLU6 behind a pooling": lambda: net(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.ReLU6()),
    "Hardtanh": lambda: net(nn.Conv2d(4, 8, 3), nn.Hardtanh(-0.5, 1.5), nn.Conv2d(8, 8, 1)),
    "max pooling with ceil_mode": lambda: nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1), nn.MaxPool2d(2, 2, 1, ceil_mode=True), nn.Flatten(), nn.Linear(512, 5)
    ),
    "padding that no activation lets through": PaddedClamp,
    "an activation with one of two readers": TwoReaders,
    "an activation on the logits": lambda: nn.Sequential(net(nn.Conv2d(4, 8, 3), nn.ReLU()), nn.ReLU6()),
}  # fmt: skip


def program_of(module, bits, scheme="integer"):
    network = build_network(trace(module, SHAPE), make_scheme(scheme, bits, bits), random_images(32, SHAPE), 0)
    settle(network)
    return freeze(network)


def seeded(form):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return realistic(form(), SHAPE)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_form_is_equal_integer_for_integer(form, bits, tmp_path):
    program = program_of(seeded(form), bits)
    result = validate(export(program, load_profile("onnxruntime"), tmp_path, {}), program, random_images(64, SHAPE))
    assert program.tolerances == {}
    assert result.parity.compared > 0
    assert result.parity.mismatched == 0
    assert result.logits_equal
    assert result.passes


def test_the_largest_products_of_a_channel_multiplier_do_not_saturate(tmp_path):
    """Largest weights on the largest signed inputs, which kernels for depthwise convolutions do not cover."""
    module = seeded(FORMS["channel multiplier"])
    with torch.no_grad():
        module[0].weight.copy_(module[0].weight.sign())
    program = program_of(module, 8)
    images = random_images(32, SHAPE).sign() * 4
    result = validate(export(program, load_profile("onnxruntime"), tmp_path, {}), program, images)
    assert result.parity.mismatched == 0


def test_without_a_quantized_tensor_the_logits_are_still_compared(tmp_path):
    program = program_of(seeded(lambda: net(nn.Conv2d(4, 8, 3))), 4, scheme="paper")
    assert program.grids == {}
    artifact = export(program, load_profile("onnxruntime"), tmp_path, {})
    assert validate(artifact, program, random_images(8, SHAPE)).passes
    program.layers[program.graph.output].bias[0] += 0.01
    assert not validate(artifact, program, random_images(8, SHAPE)).passes
