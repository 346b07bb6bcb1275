"""ResNet-20 for 32x32 images (He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2).

Where a stage changes the shape, the shortcut is a 1x1 convolution with BatchNorm (the paper's option B), as
in the CIFAR networks of the data-free quantization literature.
"""

from torch import Tensor, nn

BLOCKS_PER_STAGE = 3
STAGES = ((16, 1), (32, 2), (64, 2))
"""Output channels and the stride of the first block, per stage."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu2 = nn.ReLU()

        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """Maps float32 [N, inputs, H, W] to float32 [N, outputs, H / stride, W / stride]."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.bn2(self.conv2(x))
        out: Tensor = self.relu2(x + shortcut)
        return out


class ResNet20(nn.Module):
    """The ResNet with 20 layers, made for images of 32x32 pixels."""

    def __init__(self, classes: int = 10, channels: int = 3) -> None:
        super().__init__()
        width = STAGES[0][0]
        self.conv1 = nn.Conv2d(channels, width, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1, self.layer2, self.layer3 = _stages(width)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(STAGES[-1][0], classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images, float32 [N, channels, H, W], to logits, float32 [N, classes]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return logits


def _stages(inputs: int) -> list[nn.Sequential]:
    stages = []
    for outputs, stride in STAGES:
        blocks = []
        for index in range(BLOCKS_PER_STAGE):
            blocks.append(BasicBlock(inputs, outputs, stride if index == 0 else 1))
            inputs = outputs
        stages.append(nn.Sequential(*blocks))
    return stages
