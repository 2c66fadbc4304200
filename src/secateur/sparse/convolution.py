"""The sparse convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.sparse import products
from secateur.sparse.layer import SparseLayer, is_plain
from secateur.sparse.layout import Packed, best_height, pack
from secateur.sparse.operators import sparse_conv2d

__all__ = ["LARGEST_STRIDE", "SparseConv2d"]

LARGEST_STRIDE = 32


class SparseConv2d(SparseLayer):
    """A two-dimensional convolution that multiplies by the weights that are not zero.

    Parameters
    ----------
    packed : Packed
        The weight as a matrix, [outputs, inputs / groups * kernel rows * kernel columns].
    bias : Tensor or None
        [outputs].
    channels : int
    kernel, stride, dilation : pair of int
        Strides go up to 32.
    padding : four of int
        Left, right, top, bottom: zeros.
    activation : str, default "none"
        Computed along; see `SparseLinear`.

    Notes
    -----
    Input [batch, channels, rows, columns] and output are float32 on the CPU, in torch's default
    layout. No im2col is made: positions of the kernel are shifts of one padded copy of the input,
    whose rows and columns are sorted by phase where there are strides. So dead kernels, positions
    (stripe-wise) and columns (shape-wise) cost no multiplication.

    Examples
    --------
    >>> dense = nn.Conv2d(8, 16, 3, padding=1)
    >>> with torch.no_grad():
    ...     _ = dense.weight.mul_(torch.rand_like(dense.weight) > 0.9)
    >>> layer = SparseConv2d.from_dense(dense, activation="relu")
    >>> x = torch.randn(2, 8, 10, 10)
    >>> torch.allclose(layer(x), dense(x).relu(), atol=1e-5)
    True
    """

    def __init__(
        self,
        packed: Packed,
        bias: Tensor | None,
        channels: int,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        padding: tuple[int, int, int, int] = (0, 0, 0, 0),
        dilation: tuple[int, int] = (1, 1),
        activation: str = "none",
    ) -> None:
        super().__init__(packed, bias, activation)
        if packed.inputs * packed.groups != channels * kernel[0] * kernel[1]:
            raise InputError(f"{channels} channels do not fit a weight of {packed.inputs} columns")
        if max(stride) > LARGEST_STRIDE:
            raise InputError(f"strides of sparse convolutions go up to {LARGEST_STRIDE}")
        self.channels, self.kernel, self.stride = channels, kernel, stride
        self.padding, self.dilation = padding, dilation

    @classmethod
    def from_dense(
        cls, layer: nn.Conv2d, height: int | None = None, activation: str = "none"
    ) -> SparseConv2d:
        """Store a convolution's weight without its zeros.

        Parameters
        ----------
        layer : torch.nn.Conv2d
            It is not changed; its padding mode is ``"zeros"``.
        height : int, optional
            1, 4, 8 or 16 outputs a vector; by default what should be fastest.
        activation : str, default "none"

        Raises
        ------
        InputError
            Where it pads with anything but zeros, strides beyond 32, or is not on the CPU.
        """
        if layer.padding_mode != "zeros":
            raise InputError(f"sparse convolutions pad with zeros, not {layer.padding_mode!r}")
        matrix = layer.weight.detach().flatten(1)
        packed = pack(matrix, height or best_height(matrix, layer.groups), layer.groups)
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        made = cls(
            packed,
            layer.bias,
            layer.in_channels,
            _pair(layer.kernel_size),
            _pair(layer.stride),
            (left, right, top, bottom),
            _pair(layer.dilation),
            activation,
        )
        return made.train(layer.training)

    def to_dense(self) -> nn.Conv2d:
        """Return a convolution with the same weight, without the activation.

        Raises
        ------
        InputError
            Where left and right, or top and bottom, are padded differently.
        """
        left, right, top, bottom = self.padding
        if left != right or top != bottom:
            raise InputError("torch's convolutions pad both sides alike")
        made = nn.Conv2d(
            self.channels, self.outputs, self.kernel, self.stride, (top, left), self.dilation,
            self.groups, bias=self.bias is not None,
        )  # fmt: skip
        with torch.no_grad():
            made.weight.copy_(self.packed().dense().reshape(made.weight.shape))
            if made.bias is not None and self.bias is not None:
                made.bias.copy_(self.bias)
        return made.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """X [batch, channels, rows, columns] or without the batch."""
        if x.ndim not in (3, 4) or x.shape[-3] != self.channels:
            raise InputError(
                f"this layer takes [batch, {self.channels}, rows, columns], not {tuple(x.shape)}"
            )
        self._check_source()
        convolve = products.conv2d if is_plain(x) else sparse_conv2d
        made = convolve(
            x if x.ndim == 4 else x[None],
            self.starts, self.columns, self.values, self.bias, self.outputs,
            self.kernel, self.stride, self.padding, self.dilation, self.groups, self._code,
        )  # fmt: skip
        return made if x.ndim == 4 else made[0]

    def extra_repr(self) -> str:
        """Sizes, and what every sparse layer says."""
        return (
            f"{self.channels}, {self.outputs}, kernel={self.kernel}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"{super().extra_repr()}"
        )


def _pair(size: tuple[int, ...]) -> tuple[int, int]:
    return size[0], size[1]
