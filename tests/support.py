"""What several tests share: small networks that have every part of the large ones, and realistic random statistics."""

from functools import partial

import torch
from torch import Tensor, nn

from intraq_deploy.models.architecture import find_architecture
from intraq_deploy.models.model import Model, Preprocessing, Source


def realistic(module: nn.Module, input_shape: tuple[int, int, int], seed: int = 0) -> nn.Module:
    """Random batch norms as training leaves them: gammas of both signs, and statistics of what really flows through."""
    generator = torch.Generator().manual_seed(seed)
    norms = [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average
        with torch.no_grad():
            norm.weight.uniform_(0.5, 1.5, generator=generator)
            norm.weight[::7] *= -1
            norm.bias.normal_(0, 0.3, generator=generator)
    module.train()
    for layer in module.modules():
        if isinstance(layer, nn.Dropout):
            layer.eval()
    with torch.no_grad():
        for _ in range(2):
            module(torch.randn(8, *input_shape, generator=generator))
    return module.eval().requires_grad_(False)


def whole_network(spec: str, size: int) -> nn.Module:
    """A network as people bring them, by its name at torchvision or timm, with random weights and 10 classes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return realistic(find_architecture(spec).make(10, 3), (3, size, size))


def model_of(module: nn.Module, input_shape: tuple[int, int, int], classes: int) -> Model:
    """A Model around a module that no checkpoint holds."""
    channels, height, width = input_shape
    preprocessing = Preprocessing((height, width), (0.5,) * channels, (0.25,) * channels)
    return Model(module, "test:network", channels, classes, preprocessing, Source("module", "test", None))


class Residual(nn.Module):
    """A residual block; `shortcut` is "identity", "convolution" or "pad" (subsampling and zero channels)."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut, self.stride, self.more = shortcut, stride, outputs - inputs
        if shortcut == "convolution":
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.shortcut == "convolution":
            x = self.downsample(x)
        elif self.shortcut == "pad":
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return torch.relu(y + x)


class SmallResNet(nn.Module):
    """Stem with max pooling, three kinds of shortcut, global pooling: 10 classes for [3, 32, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = Residual(8, 8, 1, "identity")
        self.layer2 = Residual(8, 16, 2, "convolution")
        self.layer3 = Residual(16, 32, 2, "pad")
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


class Inverted(nn.Module):
    """MobileNetV2's block: a linear bottleneck with a sum that no activation follows."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 4 * channels
        self.expand = nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6())
        self.depthwise = nn.Sequential(
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False), nn.BatchNorm2d(hidden), nn.ReLU6()
        )
        self.project = nn.Sequential(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.project(self.depthwise(self.expand(x)))


class SmallMobileNet(nn.Module):
    """Asymmetric "SAME" padding, ReLU6, depthwise convolutions, linear bottlenecks: 10 classes for [3, 32, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True))
        self.blocks = nn.Sequential(Inverted(8), Inverted(8))
        self.head = nn.Sequential(nn.Conv2d(8, 24, 1, bias=False), nn.BatchNorm2d(24), nn.ReLU6())
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(24, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(nn.functional.pad(x, (0, 1, 0, 1))))
        return self.classifier(self.head(x).mean((2, 3)))


class ChannelLayerNorm(nn.Module):
    """LayerNorm over the channels of an image, as ConvNeXt has it."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class SmallWithFunction(nn.Module):
    """Two convolutions with one of FUNCTIONS between them: 10 classes for [3, 32, 32]."""

    def __init__(self, function: str) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16))
        self.function = FUNCTIONS[function]()
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, 2, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.function(self.stem(x))))


# The smallest budget of a run, and the small residual network as the command line is told of it.
TINY = ["--images", "8", "--iterations", "3", "--steps", "2"]
NETWORK = ["--arch", f"{__file__}:SmallResNet", "--input-size", "32", "--mean", "0.5,0.4,0.3", "--std", "0.25,0.2,0.3"]
FUNCTIONS = {
    "gelu": nn.GELU,
    "tanh gelu": partial(nn.GELU, approximate="tanh"),
    "mish": nn.Mish,
    "layer norm": ChannelLayerNorm,
}
SMALL_NETWORKS = {
    "resnet": SmallResNet,
    "mobilenet": SmallMobileNet,
    **{name: partial(SmallWithFunction, name) for name in FUNCTIONS},
}
SMALL_SHAPE = (3, 32, 32)


def small_network(name: str, seed: int = 0) -> nn.Module:
    """A small network with reproducible weights and realistic batch norms."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return realistic(SMALL_NETWORKS[name](), SMALL_SHAPE, seed)


def random_images(count: int, shape: tuple[int, int, int] = SMALL_SHAPE, seed: int = 0) -> Tensor:
    """float32 [count, *shape], standard normal."""
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))
