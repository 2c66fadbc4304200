"""Only-train-once: half-space projection of zero-invariant groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.attached.checks import checked
from secateur.attached.targets import wide
from secateur.errors import InputError
from secateur.graph.coupling import Member
from secateur.inputs import ExampleInputs
from secateur.regularizers.base import REGULARIZERS, Regularizer
from secateur.regularizers.coupled import CoupledUnits, find_coupled

__all__ = ["OTO"]


@REGULARIZERS.register("oto")
class OTO(Regularizer):
    """Half-space projection of zero-invariant groups (only-train-once, arXiv:2107.07467).

    Chen et al. 2021: a group is all that makes one channel, rows of weights with their biases
    and the scales and shifts of their norms, so that a zero group emits zero and can be taken
    out without changing the output (where the activation maps zero to zero). Training adds
    λ Σ_g ‖x_g‖₂. After `warmup` steps, every update is a trial: a group x_g that it takes to x̂_g
    with ⟨x_g, x̂_g⟩ < ε ‖x_g‖² becomes exactly zero, and stays zero.

    Parameters
    ----------
    strength : float, default 1e-3
        λ; the paper's value.
    epsilon : float, default 0.0
        ε, 0 to 1; more projects more.
    warmup : int, default 0
        Steps without projection.

    Raises
    ------
    InputError
        Also from `after_step` if `add_gradients` was not called before ``optimizer.step``: it
        takes note of where the step starts.
    NothingToPruneError

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> reg = OTO().attach(net, torch.zeros(1, 1))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[1.0], [0.1]]))
    >>> reg.add_gradients()
    >>> with torch.no_grad():  # what an optimizer might do
    ...     net[0].weight -= 0.2
    >>> reg.after_step()
    >>> net[0].weight.flatten().tolist(), reg.zeros()
    ([0.8, 0.0], {'0.weight': [1]})
    """

    name = "oto"
    needs_inputs = True

    def __init__(self, strength: float = 1e-3, epsilon: float = 0.0, warmup: int = 0) -> None:
        self.strength = checked(self.name, "strength", strength)
        self.epsilon = checked(self.name, "epsilon", epsilon, high=1.0)
        self.warmup = int(checked(self.name, "warmup", warmup))

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        assert example_inputs is not None
        self.groups, self.skipped = find_coupled(model, example_inputs, ignore, _makes)
        self.gone = {
            group.name: torch.zeros(group.size, dtype=torch.bool, device=_device(group))
            for group in self.groups
        }
        self._started: list[list[Tensor]] | None = None

    def penalty(self) -> Tensor:
        terms = []
        for group in self.groups:
            squares = group.squares()
            some = squares > 0
            terms.append((torch.where(some, squares, 1.0).sqrt() * some).sum())
        return self.strength * torch.stack(terms).sum()

    def add_gradients(self) -> None:
        super().add_gradients()
        if self.steps_done >= self.warmup:
            self._started = [
                [rows.parameter.detach().clone() for rows in group.rows] for group in self.groups
            ]

    def after_step(self, lr: float | None = None) -> None:
        if self.steps_done >= self.warmup:
            if self._started is None:
                raise InputError(
                    "oto: call add_gradients() before optimizer.step(), so that the step's start "
                    "is known"
                )
            for group, before in zip(self.groups, self._started, strict=True):
                self._project(group, before)
            self._started = None
        super().after_step(lr)

    @torch.no_grad()
    def _project(self, group: CoupledUnits, before: list[Tensor]) -> None:
        along, length = torch.zeros((2, group.size), device=_device(group))
        for rows, start in zip(group.rows, before, strict=True):
            start = wide(start)
            along += rows.sums(start * wide(rows.parameter), group.size)
            length += rows.sums(start.square(), group.size)
        gone = self.gone[group.name]
        gone |= along < self.epsilon * length
        for rows in group.rows:
            rows.parameter.masked_fill_(rows.spread(gone, False), 0.0)

    def zeros(self) -> dict[str, list[int]]:
        """Units that are zero, by the name of their group."""
        return {name: gone.nonzero()[:, 0].tolist() for name, gone in self.gone.items()}

    def state(self) -> dict[str, Any]:
        return {"gone": {name: gone.clone() for name, gone in self.gone.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        for name, gone in self.gone.items():
            gone.copy_(state["gone"][name])


def _device(group: CoupledUnits) -> torch.device:
    return group.rows[0].parameter.device


def _makes(name: str, member: Member) -> bool:
    """Whether a zero there makes the channel zero: a weight that makes it, a bias, a norm."""
    return member.role != "consumer"
