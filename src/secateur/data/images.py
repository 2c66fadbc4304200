"""From the bytes of an image file to what a model is given."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.data.options import DataOptions
from secateur.errors import InputError, MissingExtraError, SecateurError, require
from secateur.models.sources import import_library

__all__ = ["Pixels"]


@dataclasses.dataclass(frozen=True)
class Pixels:
    """Decodes, resizes, augments and normalises one image after the other.

    Parameters
    ----------
    options : DataOptions

    Raises
    ------
    MissingExtraError
        When Pillow is not installed, or torchvision where it has to augment.
    """

    options: DataOptions
    _change: Callable[[Tensor], Tensor] | None = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        require("PIL.Image", "data")
        object.__setattr__(self, "_change", _augmentation(self.options))

    def __call__(self, file: bytes, seed: int | None) -> Tensor:
        """``[channels, height, width]`` in float32; augmented as the seed says, None for not.

        Raises
        ------
        Exception
            What Pillow raises for bytes that are no image.
        """
        options = self.options
        augmented = seed is not None and self._change is not None
        whole = augmented and options.crop == "resized"
        pixels = _decode(file, options.channels, None if whole else options.size)
        if augmented:
            assert self._change is not None and seed is not None
            # Of its own seed, whichever process does it and whatever came before.
            with torch.random.fork_rng(devices=[]):
                # All devices would take their time, and nothing here draws on another.
                torch.default_generator.manual_seed(seed)
                pixels = self._change(pixels)
        mean, std = (torch.tensor(each).view(-1, 1, 1) for each in options.scaling)
        return (pixels.to(torch.float32) / 255 - mean) / std


def _decode(file: bytes, channels: int, size: int | None) -> Tensor:
    image_module = require("PIL.Image", "data")
    try:
        opened = image_module.open(io.BytesIO(file))
    except image_module.UnidentifiedImageError as error:
        # Pillow's message names an object in memory.
        raise InputError(f"{len(file)} bytes that are no image") from error
    with opened:
        image = opened.convert("RGB" if channels == 3 else "L")
    if size is not None and image.size != (size, size):
        width, height = image.size
        scale = size / min(width, height)
        resized = (max(round(width * scale), size), max(round(height * scale), size))
        image = image.resize(resized, image_module.Resampling.BILINEAR)
        left, top = (image.size[0] - size) // 2, (image.size[1] - size) // 2
        image = image.crop((left, top, left + size, top + size))
    pixels = torch.from_numpy(np.array(image, dtype=np.uint8))
    return pixels.unsqueeze(0) if channels == 1 else pixels.permute(2, 0, 1).contiguous()


def _augmentation(options: DataOptions) -> Callable[[Tensor], Tensor] | None:
    """Torchvision's transforms, in the order crop, flip."""
    if options.crop is None and not options.flip:
        return None
    try:
        v2: Any = import_library("torchvision.transforms.v2")
    except SecateurError as error:
        raise MissingExtraError(
            f"crop and flip use torchvision's transforms: {error}; or leave both out"
        ) from error
    steps = []
    if options.crop == "resized":
        steps.append(v2.RandomResizedCrop(options.size, antialias=True))
    elif options.crop is not None:
        steps.append(_Shifted(v2, options.crop))
    if options.flip:
        steps.append(v2.RandomHorizontalFlip())
    return v2.Compose(steps)


class _Shifted(torch.nn.Module):
    """A random place of the padded image, at the image's own size."""

    def __init__(self, transforms: Any, padding: int) -> None:
        super().__init__()
        self._crop, self._padding = transforms.RandomCrop, padding

    def forward(self, pixels: Tensor) -> Tensor:
        return self._crop(tuple(pixels.shape[-2:]), padding=self._padding)(pixels)
