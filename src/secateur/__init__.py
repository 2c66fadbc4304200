"""Prune any PyTorch model physically and exactly, and prove it."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from secateur import dynamic, errors, plot, sparse
    from secateur.allocation import Sensitivity
    from secateur.blockwise import prune_blockwise
    from secateur.callbacks import follow, huggingface_callback, lightning_callback
    from secateur.compact import compact
    from secateur.export import export
    from secateur.graph import Graph, trace
    from secateur.latency import LatencyTable
    from secateur.masks import apply_masks, finalize, masks_of, remove_masks
    from secateur.persist import load, save
    from secateur.plan import Plan, history
    from secateur.profiling import Profile, profile
    from secateur.prune import prune
    from secateur.pruner import Pruner
    from secateur.quantization import quantize_aware, quantize_linear
    from secateur.recover import (
        Distillation,
        accuracy,
        evaluate,
        recalibrate_batchnorm,
        reconstruct,
        recover,
    )
    from secateur.recover.perplexity import Perplexity, perplexity
    from secateur.regularizers import regularizer
    from secateur.result import Result
    from secateur.scan import Evaluation
    from secateur.schedules import Rewind, dynamic_sparsity
    from secateur.semi_structured import to_semi_structured
    from secateur.sensitivity import sensitivity
    from secateur.sharing import share_weights
    from secateur.sparsity.permute import permute_for_nm
    from secateur.surgery.graph_form import to_graph

# Imported on first use, so that `import secateur` costs next to nothing.
_HOMES = {
    "Distillation": "secateur.recover",
    "Evaluation": "secateur.scan",
    "Graph": "secateur.graph",
    "LatencyTable": "secateur.latency",
    "Perplexity": "secateur.recover.perplexity",
    "Plan": "secateur.plan",
    "Profile": "secateur.profiling",
    "Pruner": "secateur.pruner",
    "Result": "secateur.result",
    "Rewind": "secateur.schedules",
    "Sensitivity": "secateur.allocation",
    "accuracy": "secateur.recover",
    "apply_masks": "secateur.masks",
    "compact": "secateur.compact",
    "dynamic_sparsity": "secateur.schedules",
    "evaluate": "secateur.recover",
    "export": "secateur.export",
    "finalize": "secateur.masks",
    "follow": "secateur.callbacks",
    "history": "secateur.plan",
    "huggingface_callback": "secateur.callbacks",
    "lightning_callback": "secateur.callbacks",
    "load": "secateur.persist",
    "masks_of": "secateur.masks",
    "perplexity": "secateur.recover.perplexity",
    "permute_for_nm": "secateur.sparsity.permute",
    "profile": "secateur.profiling",
    "prune": "secateur.prune",
    "prune_blockwise": "secateur.blockwise",
    "quantize_aware": "secateur.quantization",
    "quantize_linear": "secateur.quantization",
    "recalibrate_batchnorm": "secateur.recover",
    "reconstruct": "secateur.recover",
    "recover": "secateur.recover",
    "regularizer": "secateur.regularizers",
    "remove_masks": "secateur.masks",
    "save": "secateur.persist",
    "sensitivity": "secateur.sensitivity",
    "share_weights": "secateur.sharing",
    "to_graph": "secateur.surgery.graph_form",
    "to_semi_structured": "secateur.semi_structured",
    "trace": "secateur.graph",
}

_MODULES = ("dynamic", "errors", "plot", "sparse")

__all__ = [
    "Distillation",
    "Evaluation",
    "Graph",
    "LatencyTable",
    "Perplexity",
    "Plan",
    "Profile",
    "Pruner",
    "Result",
    "Rewind",
    "Sensitivity",
    "accuracy",
    "apply_masks",
    "compact",
    "dynamic",
    "dynamic_sparsity",
    "errors",
    "evaluate",
    "export",
    "finalize",
    "follow",
    "history",
    "huggingface_callback",
    "lightning_callback",
    "load",
    "masks_of",
    "permute_for_nm",
    "perplexity",
    "plot",
    "profile",
    "prune",
    "prune_blockwise",
    "quantize_aware",
    "quantize_linear",
    "recalibrate_batchnorm",
    "reconstruct",
    "recover",
    "regularizer",
    "remove_masks",
    "save",
    "sensitivity",
    "share_weights",
    "sparse",
    "to_graph",
    "to_semi_structured",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"secateur.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


class _Package(ModuleType):
    """A package whose functions are not hidden by the submodules that they are named after."""

    def __setattr__(self, name: str, value: Any) -> None:
        # Importing secateur.prune, from anywhere, binds the submodule to this name.
        if not (isinstance(value, ModuleType) and _HOMES.get(name) == f"{__name__}.{name}"):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
