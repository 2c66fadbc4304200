"""A small YOLO, as ultralytics writes it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .registry import Removed, image, net
from .vision import conv_bn


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


def _without_bins(model: nn.Module, removed: Removed) -> None:
    """A bin that is gone has no share in the softmax over bins."""
    for name, dims in removed.items():
        if name.startswith("detect.box.") and name.endswith(".1.bias") and name.count(".") == 4:
            model.get_parameter(name).data[dims[0]] = -1e4


@net(
    image(3, 32, 24),
    "stem.0.weight",
    "c2f1.cv1.0.weight",
    "c2f1.m.0.cv1.0.weight",
    "sppf.cv2.0.weight",
    "neck.cv2.0.weight",
    "detect.box.0.0.0.weight",
    masked=_without_bins,
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
