"""The sparse linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur.errors import InputError
from secateur.sparse import products
from secateur.sparse.layer import SparseLayer, is_plain
from secateur.sparse.layout import best_height, pack
from secateur.sparse.operators import sparse_linear

__all__ = ["SparseLinear"]


class SparseLinear(SparseLayer):
    """A linear layer that multiplies by the weights that are not zero.

    Parameters
    ----------
    packed : Packed
        The weight, [outputs, inputs]; `secateur.sparse.pack` makes it.
    bias : Tensor, optional
        [outputs].
    activation : str, default "none"
        Computed along: ``"relu"``, ``"relu6"``, ``"hardswish"``, ``"silu"``, ``"gelu"`` or
        ``"gelu_tanh"``.

    Notes
    -----
    Input [..., inputs] and output [..., outputs] are float32 on the CPU. Gradients reach the input;
    the weight is frozen. That tokens run along the vectors, and weights are broadcast, is the
    layout of Elsen et al., Fast Sparse ConvNets (arXiv:1911.09723). A weight that is not stored is
    not multiplied: an infinite input gives nothing there, where a dense layer would give NaN.

    Examples
    --------
    >>> dense = nn.Linear(64, 32)
    >>> _ = nn.init.sparse_(dense.weight, sparsity=0.9)
    >>> layer = SparseLinear.from_dense(dense)
    >>> x = torch.randn(5, 64)
    >>> torch.allclose(layer(x), dense(x), atol=1e-5)
    True
    >>> layer
    SparseLinear(64, 32, height=1, density=0.09, bias=True, activation='none')
    """

    @classmethod
    def from_dense(
        cls, layer: nn.Linear, height: int | None = None, activation: str = "none"
    ) -> SparseLinear:
        """Store a linear layer's weight without its zeros.

        Parameters
        ----------
        layer : torch.nn.Linear
            It is not changed.
        height : int, optional
            1, 4, 8 or 16 outputs a vector; by default what should be fastest.
        activation : str, default "none"

        Raises
        ------
        InputError
            Where the weight is not floating point on the CPU.
        """
        weight = layer.weight.detach()
        made = cls(pack(weight, height or best_height(weight)), layer.bias, activation)
        return made.train(layer.training)

    def to_dense(self) -> nn.Linear:
        """Return a linear layer with the same weight, without the activation."""
        made = nn.Linear(self.inputs, self.outputs, bias=self.bias is not None)
        with torch.no_grad():
            made.weight.copy_(self.packed().dense())
            if self.bias is not None:
                made.bias.copy_(self.bias)
        return made.train(self.training)

    def forward(self, x: Tensor) -> Tensor:
        """X [..., inputs] -> [..., outputs]."""
        if x.shape[-1] != self.inputs:
            raise InputError(f"this layer takes {self.inputs} features, not {x.shape[-1]}")
        self._check_source()
        multiply = products.linear if is_plain(x) else sparse_linear
        return multiply(
            x, self.starts, self.columns, self.values, self.bias, self.outputs, self._code
        )

    def extra_repr(self) -> str:
        """Sizes, and what every sparse layer says."""
        return f"{self.inputs}, {self.outputs}, {super().extra_repr()}"
