"""Prune one architecture and write down what happened; a process of its own for each.

Usage: ``python -m benchmarks.coverage_one NAME BUDGET CRITERION OUT.json``
"""

from __future__ import annotations

import collections
import contextlib
import json
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import architectures
import secateur as sc
from benchmarks.common import shape_of
from secateur.errors import BudgetError, NothingToPruneError
from secateur.inputs import as_inputs, evaluating, named_tensors, run

# Where half the MACs cannot go, the hardest of these that can be met is pruned and verified.
EASIER = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.995)
SHOWN_REASONS = 20


def outputs(model: nn.Module, inputs: Any) -> list[Tensor]:
    """Run in eval mode and return the floating-point outputs."""
    with evaluating(model):
        named = named_tensors(run(model, as_inputs(inputs)))
        return [tensor for _, tensor in named if tensor.is_floating_point()]


def largest(tensors: list[Tensor]) -> float:
    """Return the largest absolute value in any of the tensors."""
    return max((float(tensor.abs().max()) for tensor in tensors), default=0.0)


def learn(model: nn.Module, inputs: Any, training: bool) -> str | None:
    """Run forward and backward; return what went wrong, if anything did."""
    given = as_inputs(inputs)
    model.train(training)
    try:
        tensors = [t for _, t in named_tensors(model(*given.args, **given.kwargs))]
        sum(t.float().pow(2).mean() for t in tensors if t.requires_grad).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and parameter.grad.shape != parameter.shape:
                return f"the gradient of {name} has another shape"
    except Exception as error:
        return f"{type(error).__name__}: {_first_line(error)}"
    finally:
        model.zero_grad()
        model.eval()
    return None


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]


@contextlib.contextmanager
def timed(record: dict[str, Any], key: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        record[key] = round(time.perf_counter() - start, 3)


def attempt(name: str, budget: float, criterion: str) -> dict[str, Any]:
    """Prune one architecture; every way it can end is a field of the record."""
    item = architectures.architecture(name)
    record: dict[str, Any] = {"status": "build"}
    with timed(record, "build_seconds"):
        model, inputs = item.prepared()
    dense = outputs(model, inputs)
    record["status"] = "crash"
    asked = budget
    try:
        for asked in (budget, *(easier for easier in EASIER if easier > budget)):
            try:
                with timed(record, "seconds"):
                    result = sc.prune(model, inputs, budget={"macs": asked}, criterion=criterion)
                break
            except BudgetError as error:
                record.setdefault("why_not", _first_line(error))
        else:
            raise NothingToPruneError(record["why_not"])
    except NothingToPruneError as error:
        record |= {"status": "nothing", "why_not": _first_line(error)}
        with contextlib.suppress(Exception):
            protected = sc.trace(model, inputs).protected
            record["protected"] = [list(entry) for entry in protected[:SHOWN_REASONS]]
        return record
    except Exception as error:
        record |= {
            "error": f"{type(error).__name__}: {_first_line(error)}",
            "traceback": traceback.format_exc()[-4000:],
        }
        return record
    record |= {
        "status": "pruned",
        "asked": asked,
        "met": asked == budget and result.after.macs <= budget * result.before.macs,
        "ratio": result.after.macs / result.before.macs,
        "macs": result.before.macs,
        "parameters": result.before.params,
        "parameters_left": result.after.params / result.before.params,
        "parity": None,
        "groups": len(result.groups),
        "protected": [list(entry) for entry in result.skipped[:SHOWN_REASONS]],
        "reasons": collections.Counter(shape_of(why) for _, why in result.skipped),
        "n_protected": len(result.skipped),
    }
    pruned = outputs(model, inputs)
    size = max(largest(pruned), 1e-30)
    record["parity"] = result.error / size
    # How far pruning moves the outputs: what a wrong index would be seen by.
    record["change"] = largest([a - b for a, b in zip(dense, pruned, strict=True)]) / size
    # And how much the examples of the batch still differ: a dead net equals any other.
    record["signal"] = largest([t[:1] - t[1:2] for t in pruned if len(t) > 1]) / size
    record["finite"] = all(bool(torch.isfinite(tensor).all()) for tensor in pruned)
    for key, training in (("backward", False), ("training", True)):
        record[key] = learn(model, inputs, training)
        # A dense model that cannot take the step either is no fault of pruning.
        if record[key] and learn(item.build(), inputs, training):
            record[key] = None
    return record


def main() -> None:
    name, budget, criterion, out = sys.argv[1:]
    torch.manual_seed(0)
    record = attempt(name, float(budget), criterion)
    Path(out).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
