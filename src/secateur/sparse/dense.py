"""Other ways to run a dense layer, which a sparse one has to beat."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.sparse import activations

__all__ = ["BFloat16", "ChannelsLast", "Prepacked", "can_prepack"]

# How oneDNN's operators are told to compute an activation along.
ALONG: dict[str, tuple[str, list[float], str]] = {
    "none": ("none", [], ""),
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
    "hardswish": ("hardswish", [], ""),
    "silu": ("swish", [], ""),
    "gelu": ("gelu", [], "none"),
    "gelu_tanh": ("gelu", [], "tanh"),
}


def can_prepack() -> bool:
    """Whether oneDNN is here, with the operators that torch.compile's frozen models use."""
    return torch.backends.mkldnn.is_available() and hasattr(
        torch.ops.mkldnn, "_reorder_linear_weight"
    )


class Wrapped(nn.Module):
    """A layer that is run in another way; its parameters stay where they are.

    Parameters
    ----------
    layer : torch.nn.Linear or torch.nn.Conv2d
    """

    layer: Any

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.layer = layer
        self._stamp: tuple[int, int] | None = None

    def _stale(self) -> bool:
        """Whether the weight is another one than when this was last asked."""
        weight = self.layer.weight
        stamp = (weight.data_ptr(), 0 if weight.is_inference() else weight._version)
        changed = stamp != self._stamp
        self._stamp = stamp
        return changed


class ChannelsLast(Wrapped):
    """A convolution in the layout that keeps the channels of a position side by side.

    Input and output stay in torch's default layout, so the conversions count.
    """

    def __init__(self, layer: nn.Conv2d) -> None:
        super().__init__(layer)
        self._weight: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes."""
        layer = self.layer
        if torch.compiler.is_compiling():
            return layer(x)
        if self._stale():
            self._weight = layer.weight.detach().to(memory_format=torch.channels_last)
        made = layer._conv_forward(
            x.to(memory_format=torch.channels_last), self._weight, layer.bias
        )
        return made.contiguous()


class Prepacked(Wrapped):
    """A layer whose weight oneDNN has put in the order that it computes in.

    A linear layer is packed for any number of tokens, a convolution for the size of its input.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__(layer)
        self.activation = "none"
        self._packed: Any = None
        self._size: tuple[int, ...] | None = None

    def compute_along(self, activation: str) -> None:
        """Compute an activation as well from now on."""
        self.activation = activation

    def __getstate__(self) -> dict[str, Any]:
        # What oneDNN packed cannot be copied; it is packed anew.
        return {**self.__dict__, "_packed": None, "_stamp": None}

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes; gradients go the ordinary way."""
        layer = self.layer
        if torch.compiler.is_compiling() or torch.is_grad_enabled():
            return activations.apply(layer(x), activations.code_of(self.activation))
        if isinstance(layer, nn.Linear):
            return self._linear(layer, x)
        return self._convolution(layer, x)

    def _linear(self, layer: nn.Linear, x: Tensor) -> Tensor:
        if self._stale() or self._packed is None:
            self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach())
        along = ALONG[self.activation]
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, layer.bias, *along)

    def _convolution(self, layer: nn.Conv2d, x: Tensor) -> Tensor:
        left, right, top, bottom = layer._reversed_padding_repeated_twice
        if left != right or top != bottom:
            return activations.apply(layer(x), activations.code_of(self.activation))
        padding = (top, left)
        geometry = (padding, layer.stride, layer.dilation, layer.groups)
        if self._stale() or self._packed is None or self._size != tuple(x.shape):
            self._packed = torch.ops.mkldnn._reorder_convolution_weight(
                layer.weight.detach(), *geometry, list(x.shape)
            )
            self._size = tuple(x.shape)
        made = torch.ops.mkldnn._convolution_pointwise(
            x, self._packed, layer.bias, *geometry, *ALONG[self.activation]
        )
        return made.contiguous()


class BFloat16(Wrapped):
    """A layer in bfloat16 between activations in float32."""

    def __init__(self, layer: nn.Linear | nn.Conv2d) -> None:
        super().__init__(layer)
        self._half: tuple[Tensor, Tensor | None] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes, rounded to bfloat16."""
        layer = self.layer
        half: tuple[Tensor, Tensor | None]
        if torch.compiler.is_compiling() or self._half is None or self._stale():
            bias = None if layer.bias is None else layer.bias.to(torch.bfloat16)
            half = (layer.weight.to(torch.bfloat16), bias)
            if not torch.compiler.is_compiling() and not torch.is_grad_enabled():
                self._half = half
        else:
            half = self._half
        if isinstance(layer, nn.Linear):
            return functional.linear(x.to(torch.bfloat16), *half).float()
        return layer._conv_forward(x.to(torch.bfloat16), *half).float()
