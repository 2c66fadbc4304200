"""Small whole networks for images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gates import SqueezeExcite
from .layers import DropPath, LayerNorm2d, LayerScale, Mlp
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


class Bottleneck(nn.Module):
    """Two convs, with or without a shortcut."""

    def __init__(self, c: int, shortcut: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = conv_bn(c, c), conv_bn(c, c), shortcut

    def forward(self, x: Tensor) -> Tensor:
        return x + self.cv2(self.cv1(x)) if self.add else self.cv2(self.cv1(x))


class C2f(nn.Module):
    """YOLOv8's block, as ultralytics writes it."""

    def __init__(self, c1: int, c2: int, n: int = 1, shortcut: bool = False) -> None:
        super().__init__()
        self.c = c2 // 2
        self.cv1 = conv_bn(c1, 2 * self.c, 1)
        self.cv2 = conv_bn((2 + n) * self.c, c2, 1)
        self.m = nn.ModuleList(Bottleneck(self.c, shortcut) for _ in range(n))

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.cv1(x).chunk(2, 1))
        y.extend(m(y[-1]) for m in self.m)
        return self.cv2(torch.cat(y, 1))


class Sppf(nn.Module):
    """Pooling three times over, everything concatenated."""

    def __init__(self, c1: int, c2: int) -> None:
        super().__init__()
        self.cv1 = conv_bn(c1, c1 // 2, 1)
        self.cv2 = conv_bn(c1 // 2 * 4, c2, 1)
        self.m = nn.MaxPool2d(5, 1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = [self.cv1(x)]
        y.extend(self.m(y[-1]) for _ in range(3))
        return self.cv2(torch.cat(y, 1))


class Detect(nn.Module):
    """Box and class towers a scale, distribution focal loss decoding."""

    def __init__(self, widths: list[int], classes: int = 3, bins: int = 4) -> None:
        super().__init__()
        self.no, self.bins, self.classes = classes + 4 * bins, bins, classes
        self.box = nn.ModuleList(
            nn.Sequential(conv_bn(c, 12), nn.Conv2d(12, 4 * bins, 1)) for c in widths
        )
        self.cls = nn.ModuleList(
            nn.Sequential(conv_bn(c, 10), nn.Conv2d(10, classes, 1)) for c in widths
        )
        self.dfl = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        self.dfl.weight.data[:] = torch.arange(bins, dtype=torch.float).view(1, bins, 1, 1)

    def forward(self, x: list[Tensor]) -> Tensor:
        for i in range(len(x)):
            x[i] = torch.cat((self.box[i](x[i]), self.cls[i](x[i])), 1)
        both = torch.cat([xi.view(x[0].shape[0], self.no, -1) for xi in x], 2)
        box, cls = both.split((self.bins * 4, self.classes), 1)
        b, _, a = box.shape
        box = self.dfl(box.view(b, 4, self.bins, a).transpose(2, 1).softmax(1)).view(b, 4, a)
        return torch.cat((box, cls.sigmoid()), 1)


@net(
    image(3, 32, 24),
    "stem.0.weight",
    "c2f1.cv1.0.weight",
    "c2f1.m.0.cv1.0.weight",
    "sppf.cv2.0.weight",
    "neck.cv2.0.weight",
    "detect.box.0.0.0.weight",
)
class Yolo(nn.Module):
    """Backbone, SPPF, a neck of C2f, and a decoupled head over two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_bn(3, 8, 3, 2)
        self.down1 = conv_bn(8, 16, 3, 2)
        self.c2f1 = C2f(16, 16, 2, True)
        self.down2 = conv_bn(16, 24, 3, 2)
        self.sppf = Sppf(24, 24)
        self.up = nn.Upsample(None, 2, "nearest")
        self.neck = C2f(40, 16)
        self.down3 = conv_bn(16, 16, 3, 2)
        self.neck2 = C2f(40, 24)
        self.detect = Detect([16, 24])

    def forward(self, x: Tensor) -> Tensor:
        p3 = self.c2f1(self.down1(self.stem(x)))
        p4 = self.sppf(self.down2(p3))
        n3 = self.neck(torch.cat([self.up(p4), p3], 1))
        n4 = self.neck2(torch.cat([self.down3(n3), p4], 1))
        return self.detect([n3, n4])


class Attention(nn.Module):
    """timm's, with C read off the input."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads
        self.scale = self.head_dim**-0.5
        self.qkv = nn.Linear(dim, dim * 3)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.proj(x.transpose(1, 2).reshape(B, N, C))


class Block(nn.Module):
    """Pre-norm attention and MLP with layer scale and stochastic depth."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim, dim * 2)
        self.ls1, self.ls2 = LayerScale(dim), LayerScale(dim)
        self.drop_path = DropPath()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


@net(image(), "blocks.0.mlp.fc1.weight", "blocks.1.mlp.fc2.weight")
class VisionTransformer(nn.Module):
    """Patches, class token, positions, two blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 24, 2, stride=2)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 24))
        self.pos_embed = nn.Parameter(torch.zeros(1, 13, 24))
        self.blocks = nn.Sequential(Block(24, 3), Block(24, 3))
        self.norm = nn.LayerNorm(24, eps=1e-6)
        self.head = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(x))[:, 0])


class ConvNextBlock(nn.Module):
    """Depthwise 7x7, channels-last MLP, layer scale."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.pwconv1 = nn.Linear(dim, 3 * dim)
        self.pwconv2 = nn.Linear(3 * dim, dim)
        self.gamma = nn.Parameter(1e-6 * torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.gamma * self.pwconv2(F.gelu(self.pwconv1(y)))
        return x + y.permute(0, 3, 1, 2)


@net(
    image(),
    "stem.0.weight",
    "stages.0.0.pwconv1.weight",
    "down.1.weight",
    "stages.1.0.gamma",
    "head.weight",
)
class ConvNext(nn.Module):
    """Two stages with a norm and a strided conv between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 2, stride=2), LayerNorm2d(12))
        self.stages = nn.ModuleList(
            [
                nn.Sequential(ConvNextBlock(12), ConvNextBlock(12)),
                nn.Sequential(ConvNextBlock(20)),
            ]
        )
        self.down = nn.Sequential(LayerNorm2d(12), nn.Conv2d(12, 20, 2, stride=2))
        self.norm = nn.LayerNorm(20)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stages[1](self.down(self.stages[0](self.stem(x))))
        return self.head(self.norm(x.mean([-2, -1])))


@net(image(), "patch.weight", "blocks.0.0.fc1.weight", "blocks.1.1.fc2.weight", "head.weight")
class MlpMixer(nn.Module):
    """Two blocks of token and channel MLPs."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 20, 2, stride=2)
        self.blocks = nn.ModuleList(
            nn.ModuleList([Mlp(12, 16), Mlp(20, 28), nn.LayerNorm(20), nn.LayerNorm(20)])
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(20)
        self.head = nn.Linear(20, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        for across, within, norm1, norm2 in self.blocks:
            x = x + across(norm1(x).mT).mT
            x = x + within(norm2(x))
        return self.head(self.norm(x).mean(1))
