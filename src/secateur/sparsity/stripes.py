"""Stripes at inference: what is left of every kernel position as one 1x1 convolution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import InputError, NothingToPruneError

__all__ = ["StripeConv2d", "regroup_stripes"]


class StripeConv2d(nn.Module):
    """A convolution that holds and computes only its stripes: ``W[o, :, y, x]`` that are not zero.

    Meng et al. 2020 (arXiv:2009.14410): the stripes at one kernel position are a 1x1 convolution of
    the input, shifted by that position, to the filters that have one there; what the positions
    give is added up. Exact for any stride, padding and dilation. Differentiable, so that the
    stripes can go on training.

    Parameters
    ----------
    index : Tensor of bool, shape [outputs, height, width]
        True where a filter has a stripe.
    inputs : int
    stride, dilation : tuple of int, default (1, 1)
    padding : sequence of 4 int, default (0, 0, 0, 0)
        Left, right, top, bottom.
    padding_mode : str, default "zeros"
        As for `torch.nn.Conv2d`.
    bias : bool, default True

    Attributes
    ----------
    stripes : nn.Parameter, shape [stripes, inputs]
        By kernel position, row by row, and within one by filter.
    bias : nn.Parameter or None, shape [outputs]

    Examples
    --------
    >>> conv = nn.Conv2d(4, 2, 3, stride=2, padding=1)
    >>> with torch.no_grad():
    ...     _ = conv.weight[0, :, 0].zero_()
    >>> regrouped = StripeConv2d.of(conv)
    >>> x = torch.randn(1, 4, 8, 8)
    >>> tuple(regrouped.stripes.shape), torch.allclose(regrouped(x), conv(x), atol=1e-6)
    ((15, 4), True)
    """

    index: Tensor

    def __init__(
        self,
        index: Tensor,
        inputs: int,
        stride: Sequence[int] = (1, 1),
        padding: Sequence[int] = (0, 0, 0, 0),
        dilation: Sequence[int] = (1, 1),
        padding_mode: str = "zeros",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.stride, self.dilation, self.padding = tuple(stride), tuple(dilation), tuple(padding)
        self.padding_mode = padding_mode
        self.register_buffer("index", index.clone())
        self.stripes = nn.Parameter(torch.zeros(int(index.sum()), inputs, device=index.device))
        self.bias = nn.Parameter(torch.zeros(len(index), device=index.device)) if bias else None
        self._group()
        self.register_load_state_dict_post_hook(lambda module, keys: module._group())

    @classmethod
    def of(cls, conv: nn.Conv2d) -> StripeConv2d:
        """The stripes of a convolution that are not all zero.

        Raises
        ------
        InputError
            For anything but a `torch.nn.Conv2d` of one group.
        """
        if not isinstance(conv, nn.Conv2d) or conv.groups != 1:
            what = f"{conv.groups} groups" if isinstance(conv, nn.Conv2d) else type(conv).__name__
            raise InputError(f"only a Conv2d of one group can be regrouped by stripes, not {what}")
        weight = conv.weight.detach()
        # What PyTorch pads by, also for padding="same".
        padding = conv._reversed_padding_repeated_twice
        made = cls(
            (weight != 0).any(dim=1),
            conv.in_channels,
            conv.stride,
            padding,
            conv.dilation,
            conv.padding_mode,
            conv.bias is not None,
        ).to(weight.dtype)
        with torch.no_grad():
            # Positions first, as they are grouped.
            made.stripes.copy_(weight.permute(2, 3, 0, 1)[made.index.permute(1, 2, 0)])
            if made.bias is not None and conv.bias is not None:
                made.bias.copy_(conv.bias)
        made.train(conv.training)
        return made

    def dense(self) -> nn.Conv2d:
        """The convolution that this one is, zeros and all."""
        outputs, height, width = self.index.shape
        conv = nn.Conv2d(
            self.stripes.shape[1],
            outputs,
            (height, width),
            cast("tuple[int, int]", self.stride),
            dilation=cast("tuple[int, int]", self.dilation),
            bias=self.bias is not None,
            device=self.stripes.device,
            dtype=self.stripes.dtype,
        )
        with torch.no_grad():
            weight = self.stripes.new_zeros(height, width, outputs, self.stripes.shape[1])
            weight[self.index.permute(1, 2, 0)] = self.stripes.detach()
            conv.weight.copy_(weight.permute(2, 3, 0, 1))
            if conv.bias is not None and self.bias is not None:
                conv.bias.copy_(self.bias)
        left, right, top, bottom = self.padding
        if left == right and top == bottom:
            conv.padding = (top, left)
        else:
            conv.padding = "same"
        conv._reversed_padding_repeated_twice = list(self.padding)
        conv.padding_mode = self.padding_mode  # type: ignore[assignment]
        return conv.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        if any(self.padding):
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            x = F.pad(x, self.padding, mode=mode)
        _, height, width = self.index.shape
        tall = _places(x.shape[-2], height, self.stride[0], self.dilation[0])
        wide = _places(x.shape[-1], width, self.stride[1], self.dilation[1])
        result: Tensor | None = None
        for row, column, first, last in self._positions:
            part = x[
                ...,
                _every(row * self.dilation[0], tall, self.stride[0]),
                _every(column * self.dilation[1], wide, self.stride[1]),
            ]
            found = F.conv2d(part, self.stripes[first:last, :, None, None])
            if result is None:
                result = found.new_zeros(*x.shape[:-3], len(self.index), tall, wide)
            result = result.index_add(-3, self._filters[first:last], found)
        if result is None:
            result = x.new_zeros(*x.shape[:-3], len(self.index), tall, wide)
        return result if self.bias is None else result + self.bias[:, None, None]

    def extra_repr(self) -> str:
        outputs, height, width = self.index.shape
        return (
            f"{self.stripes.shape[1]}, {outputs}, kernel_size=({height}, {width}), "
            f"stripes={len(self.stripes)} of {self.index.numel()}, stride={self.stride}"
        )

    def _group(self) -> None:
        """Where the stripes of each kernel position start and end, and whose they are."""
        places = self.index.permute(1, 2, 0)
        ends = places.sum(dim=2).flatten().cumsum(0).tolist()
        starts = [0, *ends[:-1]]
        width = self.index.shape[2]
        self._positions = [
            (at // width, at % width, first, last)
            for at, (first, last) in enumerate(zip(starts, ends, strict=True))
            if last > first
        ]
        self.register_buffer("_filters", places.nonzero()[:, 2], persistent=False)

    _filters: Tensor


def regroup_stripes(model: nn.Module) -> dict[str, StripeConv2d]:
    """Replace convolutions that have stripes of zeros by what is left of them, in place.

    Masks are not taken along: they hold zeros while training, and a stripe that is gone has
    nothing to hold.

    Parameters
    ----------
    model : torch.nn.Module
        Pruned at granularity ``stripe``, or trained with the regularizer of that name.

    Returns
    -------
    dict
        Path of the module -> what it is now. Modules that are used at several places are replaced
        at all of them.

    Raises
    ------
    NothingToPruneError
        When no convolution of one group has a stripe of zeros.

    Examples
    --------
    >>> import secateur as sc
    >>> net = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU())
    >>> _ = sc.prune(net, torch.zeros(1, 2, 5, 5), granularity="stripe", budget={"sparsity": 0.75})
    >>> regroup_stripes(net)
    {'0': StripeConv2d(2, 4, kernel_size=(3, 3), stripes=9 of 36, stride=(1, 1))}
    """
    made: dict[int, StripeConv2d] = {}
    found: dict[str, StripeConv2d] = {}
    holders: list[tuple[nn.Module, str, str, nn.Conv2d]] = []
    for path, module in model.named_modules():
        for name, child in module.named_children():
            if type(child) is nn.Conv2d and child.groups == 1 and _has_gaps(child):
                holders.append((module, name, f"{path}.{name}" if path else name, child))
    for module, name, path, child in holders:
        if id(child) not in made:
            made[id(child)] = StripeConv2d.of(child)
        setattr(module, name, made[id(child)])
        found[path] = made[id(child)]
    if not found:
        raise NothingToPruneError(
            "no convolution of one group has a stripe of zeros; prune at granularity 'stripe' first"
        )
    return found


def _has_gaps(conv: nn.Conv2d) -> bool:
    return not bool((conv.weight != 0).any(dim=1).all())


def _places(size: int, kernel: int, stride: int, dilation: int) -> int:
    """How many places a kernel has along an axis."""
    places = (size - dilation * (kernel - 1) - 1) // stride + 1
    if places < 1:
        raise InputError(
            f"the input is {size} long after padding, and the kernel spans "
            f"{dilation * (kernel - 1) + 1}"
        )
    return places


def _every(start: int, count: int, stride: int) -> Any:
    return slice(start, start + (count - 1) * stride + 1, stride)
