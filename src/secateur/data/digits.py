"""Handwritten digits: 1797 real scans of 8 x 8 pixels that scikit-learn ships."""

from __future__ import annotations

import torch
from torch.nn import functional

from secateur.data.parting import HELD_OUT, stratified
from secateur.data.splits import Data, Split
from secateur.errors import InputError, require

__all__ = ["DIGITS_SIZE", "load_digits"]

DIGITS_SIZE = 16


def load_digits(*, size: int = DIGITS_SIZE, seed: int = 0) -> Data:
    """Load the digits as standardised images in seeded, stratified parts.

    The scans are the test part of the UCI "Optical Recognition of Handwritten Digits" set
    (Alpaydin and Kaynak, 1998), as scikit-learn ships it; nothing is downloaded.

    Parameters
    ----------
    size : int
        Height and width in pixels; the 8 x 8 scans are resized bilinearly.
    seed : int
        Seed of the split: 70 % train, 15 % validation, 15 % test of every class.

    Returns
    -------
    Data
        Images ``[n, 1, size, size]`` in float32 with the training part's mean 0 and standard
        deviation 1, and labels 0 to 9.

    Raises
    ------
    InputError
        When ``size`` is less than 1.
    MissingExtraError
        When scikit-learn is not installed.

    Examples
    --------
    >>> data = load_digits(size=8)
    >>> [len(part) for part in (data.train, data.val, data.test)]
    [1258, 269, 270]
    >>> tuple(data.train.inputs.shape[1:])
    (1, 8, 8)
    """
    if size < 1:
        raise InputError(f"size must be at least 1 pixel, not {size}")
    datasets = require("sklearn.datasets", "demo")
    bunch = datasets.load_digits()
    images = torch.from_numpy(bunch.images).to(torch.float32).unsqueeze(1)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    if size != images.shape[-1]:
        images = functional.interpolate(
            images, size=(size, size), mode="bilinear", align_corners=False
        )
    train, val, test = stratified(labels, HELD_OUT, seed)
    # Statistics of the training part only: the other parts must not leak into the inputs.
    mean, std = images[train].mean(), images[train].std()
    images = (images - mean) / std
    return Data(
        name="digits",
        train=Split(images[train], labels[train]),
        val=Split(images[val], labels[val]),
        test=Split(images[test], labels[test]),
        classes=tuple(str(name) for name in bunch.target_names),
    )
