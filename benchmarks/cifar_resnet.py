"""The shared CIFAR-10 ResNets, and images for them.

The networks are those of He et al. 2016 (arXiv 1512.03385, section 4.2) with shortcuts of option A:
no parameters, every second pixel, zeros for the channels that are new.
"""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.common import ROOT
from secateur.data import Batches

__all__ = ["Augmented", "CifarResNet", "Images", "load_images", "load_resnet", "shared_folder"]

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHIFT = 4


def shared_folder() -> Path:
    """Where the reference data and trained models lie, or an end that says what to set."""
    folder = Path(os.environ.get("SECATEUR_SHARED") or ROOT.parent / "shared")
    if not folder.is_dir():
        raise SystemExit(f"needs the reference data: {folder} is absent (set SECATEUR_SHARED)")
    return folder


class _Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.new = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.new:
            before = self.new // 2
            x = x[:, :, :: self.stride, :: self.stride]
            x = functional.pad(x, (0, 0, 0, 0, before, self.new - before))
        return functional.relu(out + x)


class CifarResNet(nn.Module):
    """Three stages of 16, 32 and 64 channels, ``depth = 6 * blocks + 2``."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, 1)
        self.layer2 = self._stage(blocks, 16, 32, 2)
        self.layer3 = self._stage(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        first = _Block(inputs, outputs, stride)
        return nn.Sequential(first, *(_Block(outputs, outputs, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.layer3(self.layer2(self.layer1(out)))
        return self.linear(out.mean(dim=(2, 3)))


def load_resnet(name: str) -> CifarResNet:
    """Build ``resnetN-…`` and fill it from ``models/NAME.safetensors``; in eval mode."""
    depth = int(name.partition("-")[0].removeprefix("resnet"))
    model = CifarResNet((depth - 2) // 6)
    model.load_state_dict(load_file(shared_folder() / "models" / f"{name}.safetensors"))
    return model.eval()


@dataclasses.dataclass(frozen=True)
class Images:
    """Pixels ``[n, 3, 32, 32]`` of uint8, and classes ``[n]``."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, labels in Batches(self.pixels, self.labels, batch_size=size):
            yield normalised(pixels), labels


def load_images(name: str, split: str, count: int) -> Images:
    """The first images of ``data/NAME/SPLIT.parquet``, in the Hugging Face image schema."""
    import pyarrow.parquet
    from PIL import Image

    table = pyarrow.parquet.read_table(shared_folder() / "data" / name / f"{split}.parquet")
    rows = table.slice(0, count).to_pydict()
    if len(rows["label"]) < count:
        raise SystemExit(f"{name}/{split} has {len(rows['label'])} images, not {count}")
    decoded = [Image.open(io.BytesIO(image["bytes"])).convert("RGB") for image in rows["img"]]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in decoded]))
    return Images(pixels.permute(0, 3, 1, 2).contiguous(), torch.tensor(rows["label"]))


def normalised(pixels: Tensor) -> Tensor:
    """What the networks are given, ``[n, 3, 32, 32]`` of float32 in channels-last order."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    images = (pixels.float() / 255 - mean) / std
    return images.contiguous(memory_format=torch.channels_last)


class Augmented:
    """Shuffled batches of shifted and mirrored images; a seed decides order, shifts and mirrors."""

    def __init__(self, images: Images, size: int, seed: int) -> None:
        self._batches = Batches(
            images.pixels, images.labels, batch_size=size, shuffle=True, seed=seed
        )
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, labels in self._batches:
            yield normalised(self._changed(pixels)), labels

    def _changed(self, pixels: Tensor) -> Tensor:
        count, _, height, width = pixels.shape
        padded = functional.pad(pixels, (SHIFT,) * 4)
        down, right = torch.randint(2 * SHIFT + 1, (2, count), generator=self._generator)
        mirrored = torch.rand(count, generator=self._generator) < 0.5
        columns = torch.arange(width).expand(count, width)
        columns = torch.where(mirrored[:, None], columns.flip(1), columns) + right[:, None]
        lines = torch.arange(height) + down[:, None]
        at = torch.arange(count)[:, None, None]
        # Advanced indices around a slice come first: [n, height, width, 3].
        return padded[at, :, lines[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
