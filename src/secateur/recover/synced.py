"""Batch norms over a batch whose rows lie in several processes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["SyncedBatchNorm"]


class SyncedBatchNorm(TorchFunctionMode):
    """Inside, training batch norms take mean and variance over all processes' rows.

    It replaces the function that every batch norm calls, also those that are classes of their
    own (timm's with an activation), on any device. The variance is that of the differences from
    the common mean, as in one process; sums of squares would lose digits.

    Parameters
    ----------
    weight : float
        0 for rows that are borrowed, so that this process has some; 1 else.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func is functional.batch_norm:
            names = ("input", "running_mean", "running_var", "weight", "bias", "training")
            named = dict(zip((*names, "momentum", "eps"), args, strict=False)) | given
            if named.get("training"):
                return self._normalised(**named)
        return func(*args, **given)

    def _normalised(
        self,
        input: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = True,
        momentum: float = 0.1,
        eps: float = 1e-5,
    ) -> Tensor:
        over = [0, *range(2, input.ndim)]
        shape = [1, -1, *[1] * (input.ndim - 2)]
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        count = values.new_tensor([self.weight * values.numel() / values.shape[1]])
        total = _Summed.apply(torch.cat([self.weight * values.sum(over), count]))
        entries = float(total[-1].detach())
        if entries <= 1:
            raise ValueError("Expected more than 1 value per channel when training")
        mean = total[:-1] / entries
        centred = values - mean.view(shape)
        variance = _Summed.apply(self.weight * centred.square().sum(over)) / entries
        if running_mean is not None and running_var is not None:
            with torch.no_grad():
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                unbiased = variance * (entries / (entries - 1))
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        result = centred * torch.rsqrt(variance + eps).view(shape)
        if weight is not None:
            result = result * weight.view(shape)
        if bias is not None:
            result = result + bias.view(shape)
        return result.to(input.dtype)


class _Summed(Function):
    """A sum over the processes, each of which has a part of the loss that depends on it."""

    @staticmethod
    def forward(context: Any, part: Tensor) -> Tensor:
        total = part.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        return total
