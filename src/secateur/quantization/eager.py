"""Linear layers in 8-bit integers within PyTorch, through torchao."""

from __future__ import annotations

import copy
from typing import Literal, TypeVar

from torch import nn

from secateur.errors import InputError, UnknownNameError, first_line, require, suggestion
from secateur.masks import finalize, masks_of
from secateur.quiet import quiet

__all__ = ["quantize_linear"]

AnyModule = TypeVar("AnyModule", bound=nn.Module)
METHODS = {
    "weight_only": "Int8WeightOnlyConfig",
    "dynamic": "Int8DynamicActivationInt8WeightConfig",
}


def quantize_linear(
    model: AnyModule, method: Literal["weight_only", "dynamic"] = "weight_only"
) -> AnyModule:
    """A copy of a model whose linear layers hold 8-bit integers, by torchao.

    Weights are rounded symmetrically in a range for every output, so that zeros stay exactly zero
    and the ranges are those that pruning left.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is. Masks are made final in the copy.
    method : {"weight_only", "dynamic"}
        Multiply in the model's own dtype, which saves memory; or round the inputs as well, as they
        come, and multiply integers.

    Returns
    -------
    torch.nn.Module
        In eval mode. It runs and compiles in PyTorch; `secateur.save` does not take it: save the
        model, and quantise what was loaded.

    Raises
    ------
    UnknownNameError
        For an unknown method.
    InputError
        Where the model has no linear layer, or torchao cannot.
    MissingExtraError
        Where torchao is not installed: the extra ``torchao``.

    Examples
    --------
    >>> import pytest, torch
    >>> _ = pytest.importorskip("torchao")
    >>> layer = nn.Sequential(nn.Linear(64, 64))
    >>> x = torch.randn(2, 64)
    >>> small = quantize_linear(layer)
    >>> bool((small(x) - layer(x)).abs().max() < 0.05)
    True
    """
    if method not in METHODS:
        raise UnknownNameError(f"unknown method {method!r}{suggestion(method, METHODS)}")
    if not any(isinstance(module, nn.Linear) for module in model.modules()):
        raise InputError(
            "the model has no linear layer, which is what torchao quantises; take "
            "secateur.export.quantize for convolutions"
        )
    made = copy.deepcopy(model).eval()
    if masks_of(made):
        finalize(made)
    with quiet():
        torchao = require("torchao.quantization", "torchao")
        try:
            torchao.quantize_(made, getattr(torchao, METHODS[method])())
        except Exception as error:
            raise InputError(f"torchao cannot quantise this model ({first_line(error)})") from error
    return made
