"""From a model that was pruned to what a report shows of it."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from secateur import __version__
from secateur.machine import processor_name
from secateur.masks import masks_of
from secateur.report.content import CoupledGroup, Histogram, MaskedWeight, Width

if TYPE_CHECKING:
    from secateur.plan import Plan
    from secateur.result import GroupSummary

__all__ = ["coupled_groups", "environment", "layer_widths", "masked_weights", "weight_histograms"]

_BINS = 48
_PACKAGES = ("torch", "numpy", "onnx", "onnxruntime", "onnxscript", "safetensors")


def layer_widths(model: nn.Module, plan: Plan) -> list[Width]:
    """Output channels and weights of every convolution and linear layer, before the plan and now.

    Parameters
    ----------
    model : torch.nn.Module
        After the plan was applied.
    plan : Plan

    Examples
    --------
    >>> from secateur.plan import Plan
    >>> model = nn.Sequential(nn.Linear(3, 4, bias=False))
    >>> plan = Plan(removed={"0.weight": {0: [2]}}, shapes={"0.weight": [4, 3]})
    >>> plan.apply(model)
    >>> layer_widths(model, plan)
    [Width(layer='0', before=4, after=3, weights_before=12, weights_after=9)]
    """
    widths = []
    for name, weight, dim in _weights(model):
        dense = plan.shapes.get(name, list(weight.shape))
        widths.append(
            Width(
                name.rpartition(".")[0] or name,
                dense[dim],
                weight.shape[dim],
                math.prod(dense),
                int(torch.count_nonzero(weight.detach())),
            )
        )
    return widths


def weight_histograms(
    dense: Mapping[str, Tensor], model: nn.Module, *, most: int = 12
) -> list[Histogram]:
    """How the weights of the largest layers spread, before and now, over shared bins.

    Parameters
    ----------
    dense : mapping of str to Tensor
        The dense model's parameters by name.
    model : torch.nn.Module
        The model as it is now.
    most : int
        At most this many layers, the largest, in the network's order.

    Examples
    --------
    >>> model = nn.Sequential(nn.Linear(8, 8))
    >>> one = weight_histograms(dict(model.named_parameters()), model)[0]
    >>> len(one.edges), one.zeros_after
    (49, 0.0)
    """
    weights = [(name, weight) for name, weight, _ in _weights(model) if name in dense]
    largest = sorted(weights, key=lambda each: -dense[each[0]].numel())[:most]
    chosen = {name for name, _ in largest}
    histograms = []
    for name, weight in weights:
        if name not in chosen:
            continue
        before, after = (_values(tensor) for tensor in (dense[name], weight))
        # A few extreme weights would squeeze all others into one bin.
        limit = float(np.quantile(np.abs(before), 0.999)) * 1.05 or 1.0
        edges = np.linspace(-limit, limit, _BINS + 1)
        counts = [np.histogram(values[values != 0], edges)[0] for values in (before, after)]
        zeros = [float(np.mean(values == 0)) for values in (before, after)]
        histograms.append(Histogram(name, edges, counts[0], counts[1], zeros[0], zeros[1]))
    return histograms


def coupled_groups(groups: list[GroupSummary], model: nn.Module) -> list[CoupledGroup]:
    """The groups of a result, with tensors gathered into layers that make or read channels."""
    outputs = {name: dim for name, _, dim in _weights(model)}
    parameters = dict(model.named_parameters())
    found = []
    for group in groups:
        makers: dict[str, None] = {}
        readers: dict[str, None] = {}
        others = 0
        for name, dim in group.members:
            layer = name.rpartition(".")[0] or name
            if name not in parameters or parameters[name].ndim < 2:
                others += 1
            elif dim == outputs.get(name, 0):
                makers[layer] = None
            else:
                readers[layer] = None
        found.append(
            CoupledGroup(
                group.name, group.before, group.after, tuple(makers), tuple(readers), others
            )
        )
    return found


def masked_weights(model: nn.Module, *, most: int = 6, cells: int = 1600) -> list[MaskedWeight]:
    """The largest weights that hold masks, each with as much of it as can be seen at once.

    Parameters
    ----------
    model : torch.nn.Module
    most : int
        At most this many, in the network's order.
    cells : int
        How many entries of each to draw, about.

    Examples
    --------
    >>> from secateur import apply_masks
    >>> model = nn.Sequential(nn.Linear(4, 2))
    >>> apply_masks(model, {"0.weight": torch.tensor([[True, False, True, False]] * 2)})
    >>> [(each.name, each.corner) for each in masked_weights(model)]
    [('0.weight', (40, 40))]
    """
    masks = masks_of(model)
    weights = {name: weight for name, weight, _ in _weights(model) if name in masks}
    largest = sorted(weights, key=lambda name: -weights[name].numel())[:most]
    found = []
    for name, weight in weights.items():
        if name not in largest:
            continue
        array = weight.detach().to("cpu", torch.float32).numpy()
        side = max(round(math.sqrt(cells / math.prod(array.shape[2:]))), 1)
        found.append(MaskedWeight(name, array, (side, side)))
    return found


def environment() -> dict[str, str]:
    """Versions of what the numbers depend on, and the machine.

    Examples
    --------
    >>> environment()["torch"] == torch.__version__
    True
    """
    found = {"secateur": __version__}
    found["python"] = platform.python_version()
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    found["torch"] = torch.__version__
    found["system"] = f"{platform.system()} {platform.machine()}"
    found["processor"] = f"{processor_name()}, {os.cpu_count()} cores visible"
    found["threads"] = str(torch.get_num_threads())
    if "OMP_WAIT_POLICY" in os.environ:
        found["waiting threads"] = os.environ["OMP_WAIT_POLICY"].lower()
    if torch.cuda.is_available():
        found["accelerator"] = torch.cuda.get_device_name()
    return found


def _weights(model: nn.Module) -> list[tuple[str, Tensor, int]]:
    """Name, weight and output dimension of every convolution and linear layer."""
    found = []
    for path, module in model.named_modules():
        if not isinstance(module, (_ConvNd, nn.Linear)):
            continue
        if isinstance(module.weight, Tensor):
            dim = 1 if isinstance(module, _ConvTransposeNd) else 0
            found.append((f"{path}.weight" if path else "weight", module.weight, dim))
    return found


def _values(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to("cpu", torch.float32).flatten().numpy()
