"""Networks of published weights whose architecture no library has: TensorFlow's padding, names of their own.

Each takes a state_dict as it is published, by a command such as

    intraq-deploy quantize mobilenetv1_w075_imagenet.pth --arch benchmarks/published.py:MobileNetV1 ...

with resnet20_option_a.py beside this file for ResNet-20 as it is published for CIFAR-10.
"""

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import MobileNetV2

_EPSILON = 1e-3


class SamePadding(nn.Module):
    """TensorFlow's: as many zeros as ceil(size / stride) windows need, the odd one below and to the right."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        sides = []
        for size in reversed(x.shape[2:]):
            missing = max(0, (-(-size // self.stride) - 1) * self.stride + self.kernel - size)
            sides += [missing // 2, missing - missing // 2]
        return F.pad(x, sides)


class SameConv2d(nn.Conv2d):
    """A convolution without a bias, padded so."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.same = SamePadding(kernel, stride)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.same(x))


class MobileNetV1(nn.Module):
    """MobileNetV1 0.75 (Howard et al., 2017), [N, 3, 224, 224] -> [N, 1000]: weights of Keras."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        channels = (24, 48, 96, 96, 192, 192, 384, 384, 384, 384, 384, 384, 768, 768)
        strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
        stages: list[nn.Module] = [
            nn.Sequential(SameConv2d(3, 24, 3, 2), nn.BatchNorm2d(24, _EPSILON), nn.ReLU6()),
            *(
                nn.Sequential(
                    SameConv2d(inputs, inputs, 3, stride, groups=inputs), nn.BatchNorm2d(inputs, _EPSILON), nn.ReLU6(),
                    SameConv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs, _EPSILON), nn.ReLU6(),
                )
                for inputs, outputs, stride in zip(channels, channels[1:], strides, strict=False)
            ),
        ]  # fmt: skip
        self.features = nn.Sequential(*stages)
        self.fc = nn.Linear(768, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


class MobileNetV2Same(MobileNetV2):
    """torchvision's MobileNetV2 with TensorFlow's padding, [N, 3, 224, 224] -> [N, 1000]."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__(num_classes=num_classes)
        for name, layer in list(self.named_modules()):
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != (1, 1):
                same = SameConv2d(layer.in_channels, layer.out_channels, 3, layer.stride[0], layer.groups)
                self.set_submodule(name, same)


class _Block(nn.Module):
    """An inverted residual block, names as published."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expands, self.adds = expansion > 1, inputs == outputs and stride == 1
        if self.expands:
            self._expand_conv = SameConv2d(inputs, hidden, 1)
            self._bn0 = nn.BatchNorm2d(hidden, _EPSILON)
        self._depthwise_conv = SameConv2d(hidden, hidden, kernel, stride, groups=hidden)
        self._bn1 = nn.BatchNorm2d(hidden, _EPSILON)
        self._project_conv = SameConv2d(hidden, outputs, 1)
        self._bn2 = nn.BatchNorm2d(outputs, _EPSILON)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self._bn0(self._expand_conv(x))) if self.expands else x
        y = F.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0 (Google, 2020), [N, 3, 224, 224] -> [N, 1000]."""

    def __init__(self, num_classes: int = 1000) -> None:
        super().__init__()
        self._conv_stem = SameConv2d(3, 32, 3, 2)
        self._bn0 = nn.BatchNorm2d(32, _EPSILON)
        stages = (  # outputs, kernel, stride, expansion, blocks
            (16, 3, 1, 1, 1), (24, 3, 2, 6, 2), (40, 5, 2, 6, 2), (80, 3, 2, 6, 3), (112, 5, 1, 6, 3),
            (192, 5, 2, 6, 4), (320, 3, 1, 6, 1),
        )  # fmt: skip
        blocks, inputs = [], 32
        for outputs, kernel, stride, expansion, count in stages:
            for index in range(count):
                blocks.append(_Block(inputs, outputs, kernel, stride if index == 0 else 1, expansion))
                inputs = outputs
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = SameConv2d(320, 1280, 1)
        self._bn1 = nn.BatchNorm2d(1280, _EPSILON)
        self._fc = nn.Linear(1280, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self._bn0(self._conv_stem(x)))
        for block in self._blocks:
            x = block(x)
        return self._fc(F.relu6(self._bn1(self._conv_head(x))).mean((2, 3)))


class _StageBlock(nn.Module):
    """Two convolutions beside a shortcut, no ReLU behind the sum."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x)


class ResNet20Wide(nn.Module):
    """A ResNet-20 with a stem of 64 channels and ReLUs behind whole stages only, [N, 3, 32, 32] -> [N, 100]."""

    def __init__(self, num_classes: int = 100) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        stages = [
            nn.Sequential(
                *(_StageBlock(inputs if i == 0 else outputs, outputs, stride if i == 0 else 1) for i in range(3))
            )
            for inputs, outputs, stride in ((64, 16, 1), (16, 32, 2), (32, 64, 2))
        ]
        self.layer1, self.layer2, self.layer3 = stages
        self.linear = nn.Linear(256, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3):
            x = F.relu(stage(x))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))
