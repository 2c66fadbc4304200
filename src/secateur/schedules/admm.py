"""ADMM: draw weights to their own sparse projection, then prune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from secateur.attached import Target, as_units, lowest
from secateur.attached.checks import checked
from secateur.attached.targets import wide
from secateur.schedules.moving import DYNAMICS, Dynamic, squares

__all__ = ["ADMM"]


@DYNAMICS.register("admm")
class ADMM(Dynamic):
    """Loss + ρ/2 ‖W − Z + U‖², with Z the projection to the sparse weights (arXiv:1804.03294).

    Zhang et al. 2018: `add_gradients` adds ρ (W − Z + U); every `every` steps Z becomes the
    projection of W + U, the units of largest norm, exactly so many, and U grows by W − Z.
    `finish` prunes W for good; train on with its mask.

    Parameters
    ----------
    sparsity : float, default 0.9
        Share of the units of every layer.
    rho : float, default 1e-3
        ρ.
    every : int, default 100
        Steps between two updates of Z and U.
    granularity : str, default "element"

    Raises
    ------
    InputError, UnknownNameError, NothingToPruneError

    Examples
    --------
    >>> layer = nn.Linear(2, 1, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[3.0, 1.0]]))
    >>> method = ADMM(sparsity=0.5, rho=0.1).attach(layer)
    >>> method.add_gradients()
    >>> layer.weight.grad
    tensor([[0.0000, 0.1000]])
    >>> method.finish()
    >>> layer.weight.tolist()
    [[3.0, 0.0]]
    """

    name = "admm"

    def __init__(
        self,
        sparsity: float = 0.9,
        rho: float = 1e-3,
        every: int = 100,
        granularity: str = "element",
    ) -> None:
        self.granularity, self.units = granularity, as_units(granularity)
        self.sparsity = checked(self.name, "sparsity", sparsity, high=1.0)
        self.rho = checked(self.name, "rho", rho)
        self.every = int(checked(self.name, "every", every, low=1))

    @torch.no_grad()
    def begin(self, model: nn.Module) -> None:
        self.z, self.u = {}, {}
        for target in self.targets:
            weight = target.parameter()
            self.z[target.name] = self._projection(target, weight)
            self.u[target.name] = torch.zeros_like(weight)

    @torch.no_grad()
    def add_gradients(self) -> None:
        for target in self.targets:
            weight = target.parameter()
            pull = self.rho * (weight - self.z[target.name] + self.u[target.name])
            weight.grad = pull if weight.grad is None else weight.grad.add_(pull)

    @torch.no_grad()
    def update(self) -> None:
        if self.steps_done % self.every:
            return
        for target in self.targets:
            weight, u = target.parameter(), self.u[target.name]
            self.z[target.name] = self._projection(target, weight + u)
            u += weight - self.z[target.name]

    def finish(self) -> None:
        for target in self.targets:
            self.zeros[target.name] = lowest(squares(target), self.sparsity)
        self.zero(state=True)

    def _projection(self, target: Target, tensor: Tensor) -> Tensor:
        """The nearest tensor with so many zero units: the largest norms stay."""
        norms = target.tiling.sums(wide(target.weight.canonical(tensor)).square())
        return tensor.detach().masked_fill(target.each(lowest(norms, self.sparsity)), 0.0)

    def state(self) -> dict[str, Any]:
        return {
            key: {name: value.clone() for name, value in held.items()}
            for key, held in (("z", self.z), ("u", self.u))
        }

    def load(self, state: Mapping[str, Any]) -> None:
        for key, held in (("z", self.z), ("u", self.u)):
            for name, value in held.items():
                value.copy_(state[key][name])
