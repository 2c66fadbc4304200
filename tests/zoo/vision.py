"""Small whole convolutional networks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gates import SqueezeExcite
from .registry import image, net


def conv_bn(
    channels: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1
) -> nn.Module:
    """A conv without bias, a batch norm, an activation."""
    return nn.Sequential(
        nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out),
        nn.ReLU(inplace=True),
    )


class BasicBlock(nn.Module):
    """Two convs and a shortcut: identity, projection, or padded (option A)."""

    def __init__(self, channels: int, out: int, stride: int, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample: nn.Module | None = None
        self.padding = 0
        if channels != out and option == "A":
            self.padding = (out - channels) // 2
        elif channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.downsample is not None:
            x = self.downsample(x)
        elif self.padding:
            x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(y + x)


class ResNet(nn.Module):
    """Three stages of two basic blocks."""

    def __init__(self, option: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        widths = [8, 8, 16, 24]
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    BasicBlock(widths[i], widths[i + 1], 1 if i == 0 else 2, option),
                    BasicBlock(widths[i + 1], widths[i + 1], 1, option),
                )
                for i in range(3)
            )
        )
        self.fc = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(F.relu(self.bn1(self.conv1(x))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


@net(
    image(),
    "conv1.weight",
    "layers.1.0.downsample.0.weight",
    "layers.2.1.conv2.weight",
    "fc.weight",
)
class ResNetProjection(ResNet):
    """Projection shortcuts."""

    def __init__(self) -> None:
        super().__init__("B")


@net(image(), "layers.0.0.conv1.weight", "layers.2.1.conv1.weight", "fc.weight")
class ResNetOptionA(ResNet):
    """Shortcuts that slice space and pad channels; block interiors are free."""

    def __init__(self) -> None:
        super().__init__("A")


class InvertedResidual(nn.Module):
    """Expand, depthwise, gate, project."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        hidden = channels * 3
        self.conv = nn.Sequential(
            conv_bn(channels, hidden, 1),
            conv_bn(hidden, hidden, 3, stride, hidden),
            SqueezeExcite(hidden, max(4, hidden // 4)),
            nn.Conv2d(hidden, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.use_res_connect = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.use_res_connect else self.conv(x)


@net(image(), "features.1.conv.0.0.weight", "features.2.conv.1.0.weight", "classifier.1.weight")
class MobileNet(nn.Module):
    """Inverted residuals with squeeze-excite."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            conv_bn(3, 8),
            InvertedResidual(8, 12, 2),
            InvertedResidual(12, 12, 1),
            InvertedResidual(12, 16, 2),
            conv_bn(16, 32, 1),
        )
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(32, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean([2, 3]))


class DenseLayer(nn.Module):
    """Norm first, a bottleneck, growth channels."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(channels, 4 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(F.relu(self.norm1(torch.cat(features, 1))))
        return self.conv2(F.relu(self.norm2(x)))


@net(
    image(),
    "stem.weight",
    "block1.2.conv2.weight",
    "transition.conv.weight",
    "block2.1.conv1.weight",
    "fc.weight",
)
class DenseNet(nn.Module):
    """Two dense blocks and a transition."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 10, 3, padding=1, bias=False)
        self.block1 = nn.ModuleList(DenseLayer(10 + 4 * i, 4) for i in range(3))
        self.transition = nn.Sequential()
        self.transition.add_module("norm", nn.BatchNorm2d(22))
        self.transition.add_module("conv", nn.Conv2d(22, 12, 1, bias=False))
        self.transition.add_module("pool", nn.AvgPool2d(2, 2))
        self.block2 = nn.ModuleList(DenseLayer(12 + 4 * i, 4) for i in range(2))
        self.norm = nn.BatchNorm2d(20)
        self.fc = nn.Linear(20, 10)

    def dense(self, block: nn.ModuleList, x: Tensor) -> Tensor:
        features = [x]
        for layer in block:
            features.append(layer(features))
        return torch.cat(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition(self.dense(self.block1, self.stem(x)))
        x = F.relu(self.norm(self.dense(self.block2, x)))
        return self.fc(x.mean((2, 3)))


@net(image(3, 16, 12), "down1.0.weight", "down2.0.weight", "up1.weight", "dec1.0.weight")
class UNet(nn.Module):
    """Transposed convs, crops by size, concatenated skips."""

    def __init__(self) -> None:
        super().__init__()
        self.enc = conv_bn(3, 8)
        self.down1 = conv_bn(8, 12)
        self.down2 = conv_bn(12, 20)
        self.up1 = nn.ConvTranspose2d(20, 14, 2, stride=2)
        self.dec1 = conv_bn(26, 12)
        self.up2 = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.dec2 = conv_bn(20, 10)
        self.out = nn.Conv2d(10, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.enc(x)
        b = self.down1(F.max_pool2d(a, 2))
        c = self.down2(F.max_pool2d(b, 2))
        y = self.up1(c)
        dy, dx = b.size(2) - y.size(2), b.size(3) - y.size(3)
        y = F.pad(y, [dx // 2, dx - dx // 2, dy // 2, dy - dy // 2])
        y = self.dec1(torch.cat([b, y], dim=1))
        return self.out(self.dec2(torch.cat([self.up2(y), a], dim=1)))
