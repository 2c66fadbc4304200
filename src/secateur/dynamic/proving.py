"""Whether a model computes the same with closed units left out as with closed units at zero."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from secateur.dynamic.attach import Attachment
from secateur.dynamic.dataflow import doubled
from secateur.dynamic.gates import Gate
from secateur.errors import ParityError
from secateur.inputs import Inputs, evaluating, named_tensors
from secateur.verify import TOLERANCE, difference

__all__ = ["forcing", "prove", "skipping"]

Outputs = dict[str, Tensor]
Opened = Sequence["Tensor | None"]


@contextmanager
def forcing(gates: Sequence[Gate], opened: Opened) -> Iterator[None]:
    """Open what is given, whatever the gates decide."""
    before = [gate.forced for gate in gates]
    for gate, chosen in zip(gates, opened, strict=True):
        gate.forced = chosen
    try:
        yield
    finally:
        for gate, chosen in zip(gates, before, strict=True):
            gate.forced = chosen


@contextmanager
def skipping(gates: Sequence[Gate], on: bool) -> Iterator[None]:
    """Leave out what is closed, or multiply it by zero."""
    before = [gate.skipping for gate in gates]
    for gate in gates:
        gate.skipping = on
    try:
        yield
    finally:
        for gate, was in zip(gates, before, strict=True):
            gate.skipping = was


def prove(model: nn.Module, inputs: Inputs, gates: Sequence[Gate], attachment: Attachment) -> float:
    """Compare skipping with masking for random decisions; gates that cannot be narrow are widened.

    Code between two layers may expect the width that it was written for. Tensors there then stay
    as wide as ever, and only the layers themselves do less.

    Returns
    -------
    float
        The largest relative difference.

    Raises
    ------
    ParityError
        When the two differ all the same.
    """
    inputs = doubled(inputs)
    rows = next(tensor.shape[0] for _, tensor in inputs.tensors() if tensor.dim())
    generator = torch.Generator().manual_seed(0)
    device = gates[0].pace.device

    def draw(gate: Gate, apart: bool, none: bool = False) -> Tensor:
        opened = torch.rand(rows if apart else 1, gate.units, generator=generator) < 0.5
        if gate.routed:
            opened[:, 0] = True
        elif none:
            opened[:] = False
        return opened.to(device)

    trials = [
        [draw(gate, apart, none) for gate in gates]
        for apart, none in ((False, False), (True, False), (False, True))
    ]
    tolerance = TOLERANCE.get(next(_floating(model)).dtype, 1e-4)

    def worst(only: Sequence[Gate] | None = None) -> float:
        found = 0.0
        for trial in trials:
            chosen: list[Tensor | None] = [
                opened if only is None or gate in only else torch.ones_like(opened)
                for gate, opened in zip(gates, trial, strict=True)
            ]
            masked = _outputs(model, inputs, gates, chosen, False)
            try:
                skipped = _outputs(model, inputs, gates, chosen, True)
            except Exception:
                return float("inf")
            finally:
                attachment.clear()
            found = max(found, difference(skipped, masked)[1])
        return found

    error = worst()
    if error > tolerance:
        for together in _together(gates, attachment):
            if worst(together) > tolerance:
                for gate in together:
                    gate.narrow = False
        error = worst()
    if error > tolerance:
        raise ParityError(
            f"leaving closed units out changes the output by {error:.2g} of its largest entry, "
            "where they should count as zero; name the layers to leave alone in ignore="
        )
    return error


def _together(gates: Sequence[Gate], attachment: Attachment) -> list[list[Gate]]:
    """Gates whose units stand side by side in one tensor, which is narrow for all or for none."""
    groups = [[gate] for gate in gates]
    for links in attachment.links.values():
        for lanes in (links.makes, links.carries, links.reads):
            if lanes is not None and len(lanes.gates) > 1:
                meeting = [group for group in groups if any(gate in lanes.gates for gate in group)]
                groups = [group for group in groups if group not in meeting]
                groups.append([gate for group in meeting for gate in group])
    return groups


def _outputs(
    model: nn.Module, inputs: Inputs, gates: Sequence[Gate], chosen: Opened, skip: bool
) -> Outputs:
    with evaluating(model), forcing(gates, chosen), skipping(gates, skip):
        # A model may write into what it is given.
        fresh = inputs.fresh()
        result = model(*fresh.args, **fresh.kwargs)
        return {name: tensor.clone() for name, tensor in named_tensors(result)}


def _floating(model: nn.Module) -> Iterator[Tensor]:
    yield from (each for each in model.parameters() if each.is_floating_point())
