"""Sizes that PyTorch's own modules hold, read back from their weights after surgery."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

__all__ = ["sizes_of"]

Reader = Callable[[Any, dict[str, tuple[int, ...]]], dict[str, Any]]


def sizes_of(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Attributes that a module should hold, given the new shapes of its own tensors.

    Parameters
    ----------
    shapes : dict
        Own tensor name (``"weight"``) to shape after surgery; under ``""`` and ``"out"`` the
        shapes of what the module reads and returns then.

    Examples
    --------
    >>> sizes_of(nn.Linear(4, 6), {"weight": (3, 2), "bias": (3,)})
    {'in_features': 2, 'out_features': 3}
    """
    for kind, reader in _READERS:
        if isinstance(module, kind):
            found = reader(module, shapes)
            return {
                key: value
                for key, value in found.items()
                if hasattr(module, key) and getattr(module, key) != value
            }
    return {}


def _linear(module: nn.Linear, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    if "weight" not in shapes:
        return {}
    out, into = shapes["weight"]
    return {"in_features": into, "out_features": out}


def _bilinear(module: nn.Bilinear, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    out, first, second = shapes["weight"]
    return {"in1_features": first, "in2_features": second, "out_features": out}


def _convolution(module: _ConvNd, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Groups follow the channels that arrive (or leave, where transposed): ``""`` and ``"out"``."""
    weight = shapes["weight"]
    kernel = len(weight) - 2
    if "" not in shapes:
        return _uncalled_convolution(module, weight)
    into, out = shapes[""][-kernel - 1], shapes["out"][-kernel - 1]
    shared = out if module.transposed else into
    return {"in_channels": into, "out_channels": out, "groups": shared // weight[1]}


def _uncalled_convolution(module: _ConvNd, weight: tuple[int, ...]) -> dict[str, Any]:
    """A module whose weight another one uses: only its own tensors tell."""
    long, short = weight[0], weight[1]
    groups = module.groups
    if groups > 1 and short == module.weight.shape[1] and long != module.weight.shape[0]:
        groups = groups * long // module.weight.shape[0]
    into, out = (long, short * groups) if module.transposed else (short * groups, long)
    return {"in_channels": into, "out_channels": out, "groups": groups}


def _group_norm(module: nn.GroupNorm, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    if "" not in shapes:
        return {}
    groups = shapes.get("groups", (module.num_groups,))[0]
    return {"num_channels": shapes[""][1], "num_groups": groups}


def _norm_base(module: _NormBase, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    for key in ("weight", "running_mean"):
        if key in shapes:
            return {"num_features": shapes[key][0]}
    given = shapes.get("given", ())
    return {"num_features": given[1]} if len(given) > 1 else {}


def _layer_norm(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    rank = len(module.normalized_shape)  # type: ignore[arg-type]
    return {"normalized_shape": tuple(shapes[""][-rank:])} if "" in shapes else {}


def _embedding(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    rows, width = shapes["weight"]
    return {"num_embeddings": rows, "embedding_dim": width}


def _recurrent(module: nn.RNNBase, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {
        "input_size": shapes["weight_ih_l0"][1],
        "hidden_size": shapes["weight_hh_l0"][0] // _gates(module),
    }


def _gates(module: nn.RNNBase) -> int:
    return {"LSTM": 4, "GRU": 3}.get(module.mode, 1)


def _cell(module: nn.RNNCellBase, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"input_size": shapes["weight_ih"][1], "hidden_size": shapes["weight_hh"][1]}


def _attention(module: nn.MultiheadAttention, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    out, inner = shapes["out_proj.weight"]
    del out
    found: dict[str, Any] = {"embed_dim": inner, "head_dim": inner // module.num_heads}
    if module.in_proj_weight is not None:
        found |= {"kdim": inner, "vdim": inner}
    else:
        found |= {"kdim": shapes["k_proj_weight"][1], "vdim": shapes["v_proj_weight"][1]}
    return found


def _prelu(module: nn.PReLU, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    return {"num_parameters": shapes["weight"][0]}


_READERS: list[tuple[type[nn.Module], Any]] = [
    (nn.Linear, _linear),
    (nn.Bilinear, _bilinear),
    (_ConvNd, _convolution),
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (_NormBase, _norm_base),
    (nn.Embedding, _embedding),
    (nn.EmbeddingBag, _embedding),
    (nn.RNNBase, _recurrent),
    (nn.RNNCellBase, _cell),
    (nn.MultiheadAttention, _attention),
    (nn.PReLU, _prelu),
]
