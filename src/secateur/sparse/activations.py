"""The activations that a sparse layer can compute along with its product."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from secateur.errors import UnknownNameError, suggestion

__all__ = ["ACTIVATIONS", "apply", "backward", "code_of", "name_of"]

Function: TypeAlias = Callable[[Tensor], Tensor]
Gradient: TypeAlias = Callable[[Tensor, Tensor], Tensor]

aten = torch.ops.aten

# In the order of `enum Activation` in native/activation.h.
ACTIVATIONS: dict[str, tuple[Function, Gradient]] = {
    "none": (lambda z: z, lambda dy, z: dy),
    "relu": (functional.relu, lambda dy, z: aten.threshold_backward(dy, z, 0)),
    "relu6": (functional.relu6, lambda dy, z: aten.hardtanh_backward(dy, z, 0.0, 6.0)),
    "hardswish": (functional.hardswish, aten.hardswish_backward),
    "silu": (functional.silu, aten.silu_backward),
    "gelu": (functional.gelu, aten.gelu_backward),
    "gelu_tanh": (
        lambda z: functional.gelu(z, approximate="tanh"),
        lambda dy, z: aten.gelu_backward(dy, z, approximate="tanh"),
    ),
}
NAMES = list(ACTIVATIONS)


def code_of(name: str) -> int:
    """The number that the kernels know an activation by."""
    if name not in ACTIVATIONS:
        raise UnknownNameError(
            f"no activation {name!r} in sparse layers{suggestion(name, NAMES)}; there are "
            f"{', '.join(NAMES)}"
        )
    return NAMES.index(name)


def apply(z: Tensor, code: int) -> Tensor:
    """The activation of z."""
    return ACTIVATIONS[NAMES[code]][0](z)


def backward(dy: Tensor, z: Tensor, code: int) -> Tensor:
    """The gradient at z, given the one behind the activation."""
    return ACTIVATIONS[NAMES[code]][1](dy, z)


def name_of(module: nn.Module) -> str | None:
    """The name of an activation module; None where the kernels do not have it.

    Examples
    --------
    >>> name_of(nn.GELU(approximate="tanh")), name_of(nn.PReLU())
    ('gelu_tanh', None)
    """
    if type(module) is nn.GELU:
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    plain = {nn.ReLU: "relu", nn.ReLU6: "relu6", nn.Hardswish: "hardswish", nn.SiLU: "silu"}
    return plain.get(type(module))
