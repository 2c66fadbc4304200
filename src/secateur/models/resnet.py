"""A residual network for small images, sized to train on a laptop's processor."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import InputError

__all__ = ["SmallResNet", "small_resnet"]


class _Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al. 2016, the basic block)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """``[n, inputs, h, w]`` to ``[n, outputs, h / stride, w / stride]``."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return functional.relu(out + self.shortcut(x))


class SmallResNet(nn.Module):
    """A residual network over small images (He et al. 2016, arXiv 1512.03385, section 4.2).

    Parameters
    ----------
    widths : sequence of int
        Channels of the stages; every stage after the first halves the resolution.
    blocks : int
        Residual blocks in each stage.
    classes : int
        Outputs.
    channels : int
        Channels of the images.

    Raises
    ------
    InputError
        When there is no stage or no block.

    Examples
    --------
    >>> import torch
    >>> SmallResNet(widths=(8, 16), blocks=1)(torch.zeros(2, 1, 16, 16)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 2,
        classes: int = 10,
        channels: int = 1,
    ) -> None:
        super().__init__()
        if not widths or blocks < 1:
            raise InputError("a SmallResNet needs at least one stage of at least one block")
        self.conv1 = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        stages = []
        inputs = widths[0]
        for index, width in enumerate(widths):
            stage = []
            for block in range(blocks):
                stage.append(_Block(inputs, width, 2 if index and not block else 1))
                inputs = width
            stages.append(nn.Sequential(*stage))
        self.stages = nn.Sequential(*stages)
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[n, channels, h, w]`` to class scores ``[n, classes]``."""
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.stages(out)
        return self.fc(out.mean(dim=(2, 3)))


def small_resnet() -> SmallResNet:
    """The network of ``secateur demo``, with random weights.

    Examples
    --------
    >>> sum(p.numel() for p in small_resnet().parameters())
    174970
    """
    return SmallResNet()
