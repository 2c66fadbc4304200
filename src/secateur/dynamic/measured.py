"""What inputs cost a gated model: mean, spread and quantiles, per layer and per input."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.dynamic.expected import Costs
from secateur.dynamic.gates import Gate
from secateur.dynamic.sites import Site
from secateur.errors import InputError
from secateur.inputs import Inputs, as_inputs, evaluating, run
from secateur.observing.batches import read_batch

__all__ = ["Measured", "measure"]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclasses.dataclass(frozen=True)
class Measured:
    """What gates opened for some inputs, and what that costs.

    Parameters are not in it: gates leave out work, never weights.

    Attributes
    ----------
    macs : Tensor of float64
        ``[inputs]``: multiply-accumulates of each, gates included.
    dense : int
        Multiply-accumulates of one input without gates.
    gates : int
        Those of the gates themselves.
    sites : list of str
    open : Tensor of float64
        ``[inputs, sites]``: the share of each site's units that was open.
    units : list of Tensor
        For every site ``[units]``: the share of inputs for which each unit was open.
    site_macs : list of int
        Multiply-accumulates that each site decides about.
    """

    macs: Tensor
    dense: int
    gates: int
    sites: list[str]
    open: Tensor
    units: list[Tensor]
    site_macs: list[int]

    @property
    def ratio(self) -> float:
        """Mean multiply-accumulates over those of the model without gates."""
        return float(self.macs.mean()) / self.dense

    @property
    def spread(self) -> float:
        """Standard deviation over inputs, over the multiply-accumulates without gates."""
        return float(self.macs.std(unbiased=False)) / self.dense

    @property
    def density(self) -> float:
        """Mean share of open units: over inputs, and every gate alike."""
        return float(self.open.mean())

    @property
    def weighted_density(self) -> float:
        """Mean share of open units, every gate by the multiply-accumulates it decides about."""
        weights = torch.tensor(self.site_macs, dtype=torch.float64)
        return float((self.open.mean(0) * weights).sum() / weights.sum())

    @property
    def rates(self) -> dict[str, float]:
        """Name of a site -> the mean share of its units that was open."""
        return dict(zip(self.sites, self.open.mean(0).tolist(), strict=True))

    def quantiles(self, at: Sequence[float] = QUANTILES) -> dict[float, float]:
        """Quantiles over inputs of the multiply-accumulates, over those without gates."""
        found = torch.quantile(self.macs / self.dense, torch.tensor(at, dtype=torch.float64))
        return dict(zip(at, found.tolist(), strict=True))

    def easiest(self, count: int = 8) -> list[int]:
        """Inputs that cost least, by their number, the cheapest first."""
        return self.macs.argsort(stable=True)[:count].tolist()  # type: ignore[no-any-return]

    def hardest(self, count: int = 8) -> list[int]:
        """Inputs that cost most, by their number, the dearest first."""
        order = self.macs.argsort(stable=True, descending=True)
        return order[:count].tolist()  # type: ignore[no-any-return]

    def never(self) -> dict[str, list[int]]:
        """Units that no input opened: name of a site -> their indices."""
        return {
            name: torch.nonzero(units == 0)[:, 0].tolist()
            for name, units in zip(self.sites, self.units, strict=True)
            if bool((units == 0).any())
        }

    def __str__(self) -> str:
        low, high = self.quantiles((0.05, 0.95)).values()
        return (
            f"{len(self.macs)} inputs: {100 * self.ratio:.1f} % of the dense model's MACs on "
            f"average (standard deviation {100 * self.spread:.1f}, 5 to 95 % of inputs "
            f"{100 * low:.1f} to {100 * high:.1f}), of which the gates "
            f"{100 * self.gates / self.dense:.2f}; parameters as before, and the gates'"
        )


def measure(
    model: nn.Module,
    sites: Sequence[Site],
    gates: Sequence[Gate],
    costs: Costs,
    batches: Iterable[Any],
) -> Measured:
    """Run a gated model over data in eval mode, and note what its gates open."""
    macs: list[Tensor] = []
    shares: list[Tensor] = []
    counts = [torch.zeros(gate.units, dtype=torch.float64) for gate in gates]
    device = next(model.parameters()).device
    for batch in batches:
        inputs = _inputs(batch, device)
        with evaluating(model):
            run(model, inputs)
            opened = [gate.decision.open.double().cpu() for gate in gates if gate.decision]
        macs.append(costs.of(opened))
        shares.append(torch.stack([each.mean(1) for each in opened], 1))
        for count, each in zip(counts, opened, strict=True):
            # Positions of images of another size are not those of the example inputs.
            if each.shape[1] == len(count):
                count += each.sum(0)
    if not macs or not sum(len(each) for each in macs):
        raise InputError("no inputs to measure; pass at least one batch that is not empty")
    total = torch.cat(macs)
    return Measured(
        macs=total,
        dense=costs.dense,
        gates=costs.gates,
        sites=[site.name for site in sites],
        open=torch.cat(shares),
        units=[count / len(total) for count in counts],
        site_macs=[site.macs for site in sites],
    )


def _inputs(batch: Any, device: torch.device) -> Inputs:
    if isinstance(batch, Tensor):
        return as_inputs(batch.to(device))
    return read_batch(batch, device)[0]
