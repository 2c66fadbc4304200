"""Prune one model once with one tool, and write down seconds and memory.

Usage: ``python -m benchmarks.speed_one '{"tool": ..., "model": ..., "budget": ...}' OUT.json``
"""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.speed_models import build, rival_options
from secateur.inputs import as_inputs, run
from secateur.profiling.profile import profile

__all__ = ["peak_mb", "resident_mb"]


def peak_mb() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def resident_mb() -> float:
    """Return the resident memory of this process now, in MiB; Linux only."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def secateur(model: nn.Module, inputs: Any, request: dict[str, Any]) -> dict[str, float]:
    """Graph, plan and surgery in one call."""
    import secateur as sc

    sc.prune  # noqa: B018 - it is imported on first use, and imports are timed elsewhere
    start = time.perf_counter()
    sc.prune(
        model,
        inputs,
        criterion="magnitude",
        allocation=request["allocation"],
        budget={"macs": request["budget"]},
        verify=request["verify"],
    )
    return {"seconds": time.perf_counter() - start}


def torch_pruning(model: nn.Module, inputs: Any, request: dict[str, Any]) -> dict[str, float]:
    """Build its graph (constructor), then one step at half the channels."""
    import torch_pruning as tp

    options = rival_options(request["model"], model)
    example = inputs["input_ids"] if isinstance(inputs, dict) else inputs
    start = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=0.5,
        **options,
    )
    built = time.perf_counter()
    pruner.step()
    end = time.perf_counter()
    return {"seconds": end - start, "graph": built - start, "step": end - built}


TOOLS = {"secateur": secateur, "torch-pruning": torch_pruning}


def main() -> None:
    warnings.simplefilter("ignore")
    request = json.loads(sys.argv[1])
    if request["tool"] == "torch-pruning":
        import torch_pruning  # noqa: F401 - both tools are imported before anything is measured
    else:
        pass
    model, inputs = build(request["model"])
    macs = profile(model, inputs).macs
    weights = sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20
    before = peak_mb()
    start = time.perf_counter()
    with torch.no_grad():
        run(model, as_inputs(inputs))
    forward = time.perf_counter() - start
    record: dict[str, Any] = TOOLS[request["tool"]](model, inputs, request)
    record |= {"peak_mb": peak_mb(), "before_mb": before, "weights_mb": weights}
    record["forward"] = forward
    try:
        record["ratio"] = profile(model, inputs).macs / macs
    except Exception as error:  # a model that no longer runs after pruning
        record |= {"ratio": None, "broken": (str(error).splitlines() or [""])[0]}
    Path(sys.argv[2]).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
