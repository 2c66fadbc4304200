"""Prune one model once by global magnitude with one tool; write down seconds and memory."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from torch import nn

from benchmarks.speed_models import build
from benchmarks.speed_one import peak_mb, resident_mb

SPARSITY = 0.9


def with_secateur(model: nn.Module, names: list[str]) -> None:
    """Choose and apply masks, without the profile and the proof around them."""
    from secateur.allocation import as_allocation
    from secateur.criteria import as_criterion
    from secateur.plan import Plan
    from secateur.sparsity import as_sparse, prunable_weights
    from secateur.sparsity.base import Task
    from secateur.sparsity.scoring import SparseScorer

    weights = [weight for weight in prunable_weights(model) if weight.name in names]
    criterion = as_criterion("magnitude")
    task = Task(
        weights,
        lambda units: SparseScorer(model, criterion, units),
        SPARSITY,
        as_allocation("global"),
    )
    chosen = as_sparse("element").choose(task)
    masks = {weight.name: weight.stored(chosen.masks[weight.name]) for weight in weights}
    Plan(masks=masks, shapes={weight.name: list(weight.shape) for weight in weights}).apply(model)


def with_torch(model: nn.Module, names: list[str]) -> None:
    """The same by PyTorch's own function."""
    from torch.nn.utils import prune

    pairs = [(model.get_submodule(name.rpartition(".")[0]), "weight") for name in names]
    prune.global_unstructured(pairs, prune.L1Unstructured, amount=SPARSITY)


def main() -> None:
    request = json.loads(sys.argv[1])
    model = build(request["model"])[0]
    names = [
        f"{path}.weight"
        for path, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    before = resident_mb()
    # Whoever ends this process can tell how far it was by then.
    print(json.dumps({"before_mb": before, "begun": time.time()}), flush=True)
    start = time.perf_counter()
    (with_secateur if request["tool"] == "secateur" else with_torch)(model, names)
    seconds = time.perf_counter() - start
    extra, left = max(peak_mb() - before, 0.0), resident_mb() - before
    with torch.no_grad():
        tensors = [model.get_submodule(name.rpartition(".")[0]).weight for name in names]
        zeros = sum(int((tensor == 0).sum()) for tensor in tensors)
        total = sum(tensor.numel() for tensor in tensors)
    record = {
        "seconds": seconds,
        "extra_mb": extra,
        "left_mb": left,
        "zeros": zeros / total,
        "weights": total,
    }
    Path(sys.argv[2]).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
