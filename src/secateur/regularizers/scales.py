"""The scales of batch norms, which several methods press on."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from secateur.errors import NothingToPruneError
from secateur.ignored import ignored_tensors

__all__ = ["find_scales"]


def find_scales(
    model: nn.Module, ignore: Sequence[str | nn.Module] = ()
) -> tuple[list[nn.Parameter], list[tuple[str, str]]]:
    """Every trained batch-norm scale, and why others are left alone.

    Raises
    ------
    NothingToPruneError
        When there is none.

    Examples
    --------
    >>> scales, skipped = find_scales(nn.Sequential(nn.BatchNorm1d(3), nn.LayerNorm(3)))
    >>> [len(scale) for scale in scales], skipped
    ([3], [])
    """
    ignored = ignored_tensors(model, ignore)
    scales: list[nn.Parameter] = []
    skipped = []
    for path, module in model.named_modules():
        if not isinstance(module, _BatchNorm):
            continue
        name = f"{path}.weight" if path else "weight"
        # A computed scale is a tensor without a place of its own.
        if not isinstance(module.weight, nn.Parameter):
            skipped.append((name, "this batch norm has no scale of its own"))
        elif name in ignored:
            skipped.append((name, ignored[name]))
        elif not module.weight.requires_grad:
            skipped.append((name, "it is frozen: requires_grad is False"))
        elif all(module.weight is not scale for scale in scales):
            scales.append(module.weight)
    if not scales:
        raise NothingToPruneError("the model has no batch norm whose scale is trained")
    return scales, skipped
