"""One-stage detectors in the YOLO manner: backbone, feature pyramid and detection heads.

They are written for these tests from the published descriptions, with the same wiring (split and
concatenation, pyramid pooling, path aggregation, decoupled heads), because that wiring is what
index coupling has to survive.

References
----------
Liu et al., "Path Aggregation Network for Instance Segmentation", 2018.
Ge et al., "YOLOX: Exceeding YOLO Series in 2021", 2021 (decoupled heads).
Li et al., "Generalized Focal Loss", 2020 (boxes as distributions over bins).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from detector_blocks import (
    Aggregation,
    AttentionStage,
    AttributeSplitStage,
    ConvUnit,
    CrossStage,
    Focus,
    HalvedDown,
    PointwiseDown,
    PyramidPool,
    SplitStage,
)

__all__ = ["DETECTORS", "Detector"]


class AnchorHead(nn.Module):
    """One 1x1 convolution a scale, viewed as anchors x (box, objectness, classes) (v5)."""

    def __init__(self, channels: Sequence[int], classes: int, anchors: int = 3) -> None:
        super().__init__()
        self.anchors = anchors
        self.values = 5 + classes
        self.scales = nn.ModuleList(nn.Conv2d(c, anchors * self.values, 1) for c in channels)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        out = []
        for conv, x in zip(self.scales, maps, strict=True):
            batch, _, height, width = x.shape
            y = conv(x).view(batch, self.anchors, self.values, height, width)
            out.append(y.permute(0, 1, 3, 4, 2).contiguous().sigmoid())
        return out


class DistributionHead(nn.Module):
    """Separate box and class branches; each box side is the mean of a distribution (v8, v11)."""

    def __init__(
        self, channels: Sequence[int], classes: int, bins: int = 16, separable: bool = False
    ) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        box_width = max(16, channels[0] // 4, 4 * bins)
        class_width = max(channels[0], min(classes, 100))
        self.boxes = nn.ModuleList(
            nn.Sequential(
                ConvUnit(c, box_width, 3),
                ConvUnit(box_width, box_width, 3),
                nn.Conv2d(box_width, 4 * bins, 1),
            )
            for c in channels
        )
        self.labels = nn.ModuleList(
            self._label_branch(c, class_width, classes, separable) for c in channels
        )
        self.register_buffer("project", torch.arange(bins, dtype=torch.float32).view(1, bins, 1, 1))

    @staticmethod
    def _label_branch(channels: int, width: int, classes: int, separable: bool) -> nn.Sequential:
        if not separable:
            units = [ConvUnit(channels, width, 3), ConvUnit(width, width, 3)]
        else:
            units = [
                ConvUnit(channels, channels, 3, groups=channels),
                ConvUnit(channels, width),
                ConvUnit(width, width, 3, groups=width),
                ConvUnit(width, width),
            ]
        return nn.Sequential(*units, nn.Conv2d(width, classes, 1))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        flat = []
        for x, boxes, labels in zip(maps, self.boxes, self.labels, strict=True):
            both = torch.cat((boxes(x), labels(x)), 1)
            flat.append(both.view(both.shape[0], 4 * self.bins + self.classes, -1))
        box, label = torch.cat(flat, 2).split((4 * self.bins, self.classes), 1)
        bins = box.view(box.shape[0], 4, self.bins, -1).transpose(1, 2).softmax(1)
        left_top, right_bottom = (bins * self.project).sum(1).chunk(2, 1)
        centre = (right_bottom - left_top) / 2
        size = left_top + right_bottom
        return torch.cat((centre, size, label.sigmoid()), 1)


class SharedHead(nn.Module):
    """Box, objectness and class outputs from two towers over one stem a scale (YOLOX)."""

    def __init__(self, channels: Sequence[int], classes: int, width: int) -> None:
        super().__init__()
        self.stems = nn.ModuleList(ConvUnit(c, width) for c in channels)
        self.label_towers = nn.ModuleList(self._tower(width) for _ in channels)
        self.box_towers = nn.ModuleList(self._tower(width) for _ in channels)
        self.labels = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in channels)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in channels)
        self.objects = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in channels)

    @staticmethod
    def _tower(width: int) -> nn.Sequential:
        return nn.Sequential(ConvUnit(width, width, 3), ConvUnit(width, width, 3))

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        out = []
        for i, x in enumerate(maps):
            x = self.stems[i](x)
            label, box = self.label_towers[i](x), self.box_towers[i](x)
            label = self.labels[i](label).sigmoid()
            y = torch.cat((self.boxes[i](box), self.objects[i](box).sigmoid(), label), 1)
            out.append(y.flatten(start_dim=2))
        return torch.cat(out, dim=2).permute(0, 2, 1)


Stage = Callable[[int, int, int, bool], nn.Module]
Down = Callable[[int, int], nn.Module]


class Detector(nn.Module):
    """Five-scale backbone, a pyramid that goes up and down again, and a head over three scales.

    Parameters
    ----------
    widths : sequence of int
        Channels after the stem and the four stages (strides 2, 4, 8, 16, 32).
    depths : sequence of int
        Blocks in each of the four stages.
    stage : callable
        ``(inputs, outputs, depth, shortcut) -> Module``, used in backbone and neck.
    head : callable
        ``(channels of the three scales) -> Module``.
    down : callable
        ``(inputs, outputs) -> Module`` that halves height and width.
    stem : Module, optional
        What makes the first map; a strided convolution by default.
    last : callable, optional
        ``(channels) -> Module`` after the pyramid pooling.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        stage: Stage,
        head: Callable[[Sequence[int]], nn.Module],
        down: Down | None = None,
        stem: nn.Module | None = None,
        last: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        down = down or (lambda inputs, outputs: ConvUnit(inputs, outputs, 3, 2))
        w0, w1, w2, w3, w4 = widths
        self.stem = stem or ConvUnit(3, w0, 3, 2)
        self.stage1 = nn.Sequential(ConvUnit(w0, w1, 3, 2), stage(w1, w1, depths[0], True))
        self.stage2 = nn.Sequential(down(w1, w2), stage(w2, w2, depths[1], True))
        self.stage3 = nn.Sequential(down(w2, w3), stage(w3, w3, depths[2], True))
        tail = [PyramidPool(w4, w4)] + ([last(w4)] if last else [])
        self.stage4 = nn.Sequential(down(w3, w4), stage(w4, w4, depths[3], True), *tail)
        self.upsample = nn.Upsample(scale_factor=2, mode="nearest")
        self.up3 = stage(w4 + w3, w3, 1, False)
        self.up2 = stage(w3 + w2, w2, 1, False)
        self.down3 = ConvUnit(w2, w2, 3, 2)
        self.out3 = stage(w2 + w3, w3, 1, False)
        self.down4 = ConvUnit(w3, w3, 3, 2)
        self.out4 = stage(w3 + w4, w4, 1, False)
        self.head = head((w2, w3, w4))

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        c2 = self.stage2(self.stage1(self.stem(x)))
        c3 = self.stage3(c2)
        c4 = self.stage4(c3)
        p3 = self.up3(torch.cat((self.upsample(c4), c3), 1))
        p2 = self.up2(torch.cat((self.upsample(p3), c2), 1))
        n3 = self.out3(torch.cat((self.down3(p2), p3), 1))
        n4 = self.out4(torch.cat((self.down4(n3), c4), 1))
        return self.head((p2, n3, n4))


CLASSES = 20


def _v5() -> Detector:
    return Detector(
        (16, 32, 64, 128, 256), (1, 2, 3, 1), CrossStage, lambda c: AnchorHead(c, CLASSES)
    )


def _v8() -> Detector:
    return Detector(
        (16, 32, 64, 128, 256), (1, 2, 2, 1), SplitStage, lambda c: DistributionHead(c, CLASSES)
    )


def _v9() -> Detector:
    def stage(inputs: int, outputs: int, depth: int, shortcut: bool) -> nn.Module:
        return Aggregation(inputs, outputs, inner=outputs, branch=outputs // 2)

    return Detector(
        (16, 32, 64, 96, 128),
        (1, 1, 1, 1),
        stage,
        lambda c: DistributionHead(c, CLASSES),
        down=HalvedDown,
    )


def _v10() -> Detector:
    return Detector(
        (16, 32, 64, 128, 256),
        (1, 2, 2, 1),
        AttributeSplitStage,
        lambda c: DistributionHead(c, CLASSES, separable=True),
        down=PointwiseDown,
        last=lambda c: AttentionStage(c, heads=2),
    )


def _v11() -> Detector:
    def nested(channels: int) -> nn.Module:
        return CrossStage(channels, channels, 2)

    def stage(inputs: int, outputs: int, depth: int, shortcut: bool) -> nn.Module:
        if outputs >= 128:
            return SplitStage(inputs, outputs, depth, block=nested)
        return SplitStage(inputs, outputs, depth, shortcut=True)

    return Detector(
        (16, 32, 64, 128, 256),
        (1, 1, 2, 1),
        stage,
        lambda c: DistributionHead(c, CLASSES, separable=True),
        last=lambda c: AttentionStage(c, heads=2, depth=2),
    )


def _x() -> Detector:
    return Detector(
        (24, 48, 96, 192, 384),
        (1, 2, 2, 1),
        CrossStage,
        lambda c: SharedHead(c, CLASSES, 96),
        stem=Focus(24),
    )


DETECTORS: dict[str, Callable[[], Detector]] = {
    "v5": _v5,
    "v8": _v8,
    "v9": _v9,
    "v10": _v10,
    "v11": _v11,
    "x": _x,
}
