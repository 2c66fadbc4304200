"""When leaving out pays: the layers of every site, timed on this machine."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.dynamic.attach import Attachment
from secateur.dynamic.flow import Policy
from secateur.dynamic.gates import Gate
from secateur.dynamic.proving import forcing, skipping
from secateur.dynamic.sites import Site
from secateur.inputs import Inputs, evaluating

__all__ = ["calibrate", "examples"]

SHARES = (0.25, 0.5, 0.75)
ROUNDS = 7
# A first round finds caches cold and memory not yet mapped.
WARMUP = 1


def examples(inputs: Inputs, count: int) -> Inputs:
    """The same inputs with so many examples, repeated from the first.

    Examples
    --------
    >>> examples(Inputs((torch.zeros(2, 3),)), 5).args[0].shape
    torch.Size([5, 3])
    """
    batch = next(tensor.shape[0] for _, tensor in inputs.tensors() if tensor.dim())
    rows = torch.arange(count) % batch
    return inputs.replaced(
        lambda name, tensor: (
            tensor.detach()[rows.to(tensor.device)]
            if tensor.dim() and tensor.shape[0] == batch
            else tensor
        )
    )


def calibrate(
    model: nn.Module,
    inputs: Inputs,
    sites: Sequence[Site],
    gates: Sequence[Gate],
    attachment: Attachment,
    batch: int,
) -> None:
    """Give every gate a policy from measured times of its site's layers."""
    layers = [attachment.layers(site) for site in sites]
    spent: dict[tuple[float, int], list[list[float]]] = defaultdict(list)
    for gate in gates:
        gate.policy = Policy()
    sizes = (1, batch) if batch > 1 else (1,)
    given = {size: examples(inputs, size) for size in sizes}
    with evaluating(model), skipping(gates, True):
        for round_ in range(WARMUP + ROUNDS):
            for size in sizes:
                for share in (1.0, *SHARES):
                    opened: list[Tensor | None] = [
                        (gate.pattern(share) if share < 1 else torch.ones(gate.units) > 0).to(
                            gate.pace.device
                        )
                        for gate in gates
                    ]
                    # Choosing weights is part of the work; kept ones would hide it.
                    attachment.clear()
                    with forcing(gates, opened), _watched(layers) as clock:
                        fresh = given[size].fresh()
                        model(*fresh.args, **fresh.kwargs)
                    if round_ >= WARMUP:
                        spent[share, size].append([clock.of(each) for each in layers])
    attachment.clear()
    for at, gate in enumerate(gates):

        def seconds(share: float, at: int = at) -> tuple[float, float]:
            # The least is what the layers take when nothing else runs on the machine.
            first = min(each[at] for each in spent[share, 1])
            if batch <= 1:
                return first, first
            return first, (min(each[at] for each in spent[share, batch]) - first) / (batch - 1)

        gate.policy = Policy(seconds(1.0), [(share, *seconds(share)) for share in SHARES])


class _Clock(dict[int, float]):
    """Seconds, by the id of a layer."""

    def of(self, layers: Sequence[nn.Module]) -> float:
        return sum(self.get(id(layer), 0.0) for layer in layers)


@contextmanager
def _watched(layers: Sequence[Sequence[nn.Module]]) -> Iterator[_Clock]:
    """Measure the seconds that each layer takes."""
    clock = _Clock()
    begun: dict[int, float] = {}

    def start(module: nn.Module, args: Any) -> None:
        begun[id(module)] = time.perf_counter()

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        took = time.perf_counter() - begun[id(module)]
        clock[id(module)] = clock.get(id(module), 0.0) + took

    handles = []
    for module in {id(each): each for group in layers for each in group}.values():
        handles.append(module.register_forward_pre_hook(start))
        handles.append(module.register_forward_hook(stop))
    try:
        yield clock
    finally:
        for handle in handles:
            handle.remove()
