"""Fixtures for the tests of loading."""

from pathlib import Path

import pytest
import torch
from torch import nn


class TinyNet(nn.Module):
    """Images [N, channels, H, W] -> logits [N, classes], with one BatchNorm."""

    def __init__(self, num_classes: int = 7, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 8, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(self.bn(self.conv(images)).relu().mean((2, 3)))


@pytest.fixture
def tiny() -> TinyNet:
    """A small network with reproducible weights."""
    torch.manual_seed(0)
    return TinyNet().eval()


TINY_CODE = '''
import torch
from torch import nn
from sibling import WIDTH


class TinyNet(nn.Module):
    def __init__(self, num_classes=7, channels=3):
        super().__init__()
        self.conv = nn.Conv2d(channels, WIDTH, 3, 2, 1, bias=False)
        self.bn = nn.BatchNorm2d(WIDTH)
        self.fc = nn.Linear(WIDTH, num_classes)

    def forward(self, images):
        return self.fc(self.bn(self.conv(images)).relu().mean((2, 3)))


class Inside(nn.Module):
    """Its own names begin with a prefix that wrappers use too."""

    def __init__(self, num_classes=10):
        super().__init__()
        self.model = TinyNet(num_classes)

    def forward(self, images):
        return self.model(images)


def fixed():
    return TinyNet(7)


def flexible(num_classes):
    return TinyNet(num_classes)


def keywords(**options):
    return TinyNet(**options)


def stubborn(**options):
    if options:
        raise TypeError(f"unexpected keyword argument {next(iter(options))!r}")
    return TinyNet()


def reads_values(num_classes=7):
    float(torch.linspace(0, 1, 3)[1])  # impossible on the meta device
    return TinyNet(num_classes)


def ignores(**options):
    return Both()


class Both(TinyNet):
    def forward(self, images):
        features = self.bn(self.conv(images)).relu().mean((2, 3))
        return self.fc(features), self.conv(images)


class Auxiliary(TinyNet):
    """A branch that is named like an auxiliary head, and used always or in training only."""

    def __init__(self, used):
        super().__init__()
        self.used = used
        self.aux = nn.Sequential(nn.Conv2d(3, WIDTH, 1, 2, bias=False), nn.BatchNorm2d(WIDTH))

    def forward(self, images):
        features = self.bn(self.conv(images))
        if self.used or self.training:
            features = features + self.aux(images)
        return self.fc(features.relu().mean((2, 3)))


def with_aux_branch():
    return Auxiliary(True)


def with_aux_head():
    return Auxiliary(False)


class Lazy(TinyNet):
    def __init__(self):
        super().__init__()
        self.fc = nn.LazyLinear(7)


def lazy():
    return Lazy()


def lazy_no_more():
    network = Lazy()
    network(torch.zeros(1, 3, 16, 16))
    return network


class Stem(TinyNet):
    """A network whose first convolution reads something else than the image."""

    def __init__(self, prepare, reads, classifier_first=False):
        super().__init__()
        if classifier_first:
            body = dict(self.named_children())
            self._modules.clear()
            self.head = nn.Conv2d(WIDTH, 7, 1)
            self._modules.update(body)
        self.conv = nn.Conv2d(reads, WIDTH, 3, 2, 1, bias=False)
        self.prepare = prepare

    def forward(self, images):
        features = self.bn(self.conv(self.prepare(images))).relu()
        return self.head(features).mean((2, 3)) if hasattr(self, "head") else self.fc(features.mean((2, 3)))


def focus():
    slices = ((0, 0), (0, 1), (1, 0), (1, 1))
    return Stem(lambda x: torch.cat([x[..., i::2, j::2] for i, j in slices], 1), 12)


def unshuffled():
    return Stem(nn.PixelUnshuffle(2), 12)


def head_first():
    return Stem(nn.Identity(), 3, classifier_first=True)


def grey():
    return Stem(lambda x: torch.cat([x, x, x], 1), 3)


def coordinates():
    return Stem(lambda x: torch.cat([x, x[:, :2] * 0], 1), 5)


def five_bands():
    return Stem(lambda x: x * 2, 5)


def one_more(num_classes):
    return TinyNet(num_classes + 1)


def greyscale():
    return TinyNet(7, 1)


def needs_width(width):
    return TinyNet(width)


def returns_text():
    return "a network"


def fails():
    raise KeyError("weights")


ready = TinyNet()
NUMBER = 3
'''


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A file with the user's own architectures, which imports its neighbour."""
    (tmp_path / "sibling.py").write_text("WIDTH = 8\n")
    file = tmp_path / "my_network.py"
    file.write_text(TINY_CODE)
    return file
