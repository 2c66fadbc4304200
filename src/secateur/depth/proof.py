"""The proof that leaving blocks out does what passing their input on does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from secateur.inputs import Inputs, evaluating, named_tensors, run
from secateur.plan import Plan
from secateur.surgery.apply import apply_plan
from secateur.surgery.transaction import Snapshot
from secateur.verify import TOLERANCE, difference

__all__ = ["passing_error", "tolerance_of"]


def tolerance_of(model: nn.Module) -> float:
    """What rounding explains, relative to the largest output."""
    return max((TOLERANCE.get(p.dtype, 1e-4) for p in model.parameters()), default=1e-4)


def passing_error(model: nn.Module, inputs: Inputs, plan: Plan) -> tuple[float, float]:
    """How far the model without the blocks is from the one in which their input goes on."""
    with _passing_on(model, plan.dropped):
        expected = _outputs(model, inputs)
    snapshot = Snapshot(model)
    try:
        apply_plan(plan, model)
        found = _outputs(model, inputs)
    except Exception:
        return float("inf"), float("inf")
    finally:
        snapshot.restore()
    return difference(found, expected)


@contextlib.contextmanager
def _passing_on(model: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Run with some blocks returning what they are given, in place of what they compute."""

    def swap(output: Any, given: Tensor) -> Any:
        if isinstance(output, Tensor):
            return given
        kind: Callable[..., Any] = type(output)
        return kind((swap(output[0], given), *output[1:]))

    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda module, args, output: swap(output, args[0])
        )
        for path in paths
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _outputs(model: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
    with evaluating(model):
        return {name: tensor.clone() for name, tensor in named_tensors(run(model, inputs))}
