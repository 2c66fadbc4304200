"""Growing regularisation: a penalty that grows until the units it presses on are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from secateur.attached import Target, as_units, find_targets, lowest
from secateur.attached.checks import checked
from secateur.attached.targets import wide
from secateur.inputs import ExampleInputs
from secateur.plan import Plan
from secateur.regularizers.base import REGULARIZERS, Regularizer

__all__ = ["GReg1", "GReg2"]


@REGULARIZERS.register("greg1")
class GReg1(Regularizer):
    """L2 that grows on the lowest units, ½ Σ_g c_g ‖w_g‖² (arXiv:2012.09243).

    Wang et al. 2021: choose, in every layer, the units of lowest L1 norm; add `delta` to their
    coefficient c every `every` steps up to `ceiling`; when they have shrunk to nothing, remove
    them (`plan`) and fine-tune. Exactly ``floor(sparsity * n)`` of n units go, never all, ties
    by index.

    Parameters
    ----------
    granularity : str, default "filter"
        ``"filter"``, ``"channel"`` or any sparse granularity.
    sparsity : float, default 0.5
        Share of the units of every layer that goes.
    delta : float, default 1e-4
        Growth of the coefficient.
    every : int, default 5
        Steps between two growths; the paper also uses 10.
    ceiling : float, default 1.0
        Where growth stops.

    Raises
    ------
    InputError, UnknownNameError, NothingToPruneError

    Examples
    --------
    >>> layer = nn.Linear(2, 2, bias=False)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[3.0, 3.0], [1.0, 1.0]]))
    >>> reg = GReg1(delta=0.5, every=1).attach(layer)
    >>> reg.after_step()
    >>> reg.add_gradients()
    >>> layer.weight.grad.tolist(), reg.done
    ([[0.0, 0.0], [0.5, 0.5]], False)
    >>> reg.plan().masks["weight"].tolist()
    [[True, True], [False, False]]
    """

    name = "greg1"

    def __init__(
        self,
        granularity: str = "filter",
        sparsity: float = 0.5,
        delta: float = 1e-4,
        every: int = 5,
        ceiling: float = 1.0,
    ) -> None:
        self.granularity, self._units = granularity, as_units(granularity)
        self.sparsity = checked(self.name, "sparsity", sparsity, high=1.0)
        self.delta = checked(self.name, "delta", delta)
        self.every = int(checked(self.name, "every", every, low=1))
        self.ceiling = checked(self.name, "ceiling", ceiling)

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        self.targets, self.skipped = find_targets(model, self._units, ignore)
        self.coefficients = {
            target.name: torch.zeros(target.tiling.grid, device=target.value.device)
            for target in self.targets
        }
        self.chosen: dict[str, Tensor] = {}
        self.begin()

    def begin(self) -> None:
        """Choose at once."""
        self.choose()

    def choose(self) -> None:
        """The units of lowest L1 norm, exactly so many of every layer."""
        with torch.no_grad():
            for target in self.targets:
                sums = target.tiling.sums(wide(target.canonical()).abs())
                means = sums / target.tiling.sizes().to(sums.device)
                self.chosen[target.name] = lowest(means, self.sparsity)

    @property
    def done(self) -> bool:
        """Whether the coefficients of all chosen units stand at the ceiling."""
        return bool(self.chosen) and all(
            bool((self.coefficients[name][chosen] >= self.ceiling).all())
            for name, chosen in self.chosen.items()
        )

    def penalty(self) -> Tensor:
        terms = [
            (self.coefficients[target.name] * self._squares(target)).sum()
            for target in self.targets
        ]
        return 0.5 * torch.stack(terms).sum()

    def after_step(self, lr: float | None = None) -> None:
        super().after_step(lr)
        if self.steps_done % self.every == 0:
            self.grow()

    def grow(self) -> None:
        """One growth of the coefficients of the chosen units."""
        for name, chosen in self.chosen.items():
            values = self.coefficients[name]
            # Steps of floating point must not leave it a hair below.
            grown = (values + self.delta).clamp_max(self.ceiling)
            values[chosen] = grown[chosen]

    def plan(self) -> Plan:
        """Masks that remove the chosen units."""
        plan = Plan(settings={"regularizer": self.spec})
        for target in self.targets:
            if target.name in self.chosen:
                mask = target.each(~self.chosen[target.name]).contiguous()
                plan.masks[target.name] = mask
                plan.shapes[target.name] = list(mask.shape)
        return plan

    def state(self) -> dict[str, Any]:
        return {
            "coefficients": {name: value.clone() for name, value in self.coefficients.items()},
            "chosen": {name: value.clone() for name, value in self.chosen.items()},
        }

    def load(self, state: Mapping[str, Any]) -> None:
        for name, value in self.coefficients.items():
            value.copy_(state["coefficients"][name])
        self.chosen = {
            name: value.to(self.coefficients[name].device)
            for name, value in state["chosen"].items()
        }

    @staticmethod
    def _squares(target: Target) -> Tensor:
        return target.tiling.sums(wide(target.canonical()).square())


@REGULARIZERS.register("greg2")
class GReg2(GReg1):
    """L2 that grows on all units first, which parts them, then on the lowest (arXiv:2012.09243).

    Wang et al. 2021: the same growing penalty on every unit drives apart the magnitudes of units
    of different curvature. At `pick_ceiling` the lowest are chosen and pressed on as by
    ``greg1``, and the kept ones get the coefficient −`recover`, which lets them grow back.

    Parameters
    ----------
    granularity, sparsity, delta, every, ceiling
        As for ``greg1``.
    pick_delta : float, default 1e-5
        Growth while all units are pressed on.
    pick_ceiling : float, default 1e-2
        Coefficient at which units are chosen.
    recover : float, default 1e-4
        What the kept units get, with a minus.

    Raises
    ------
    InputError, UnknownNameError, NothingToPruneError

    Examples
    --------
    >>> reg = GReg2(every=1, pick_delta=0.5, pick_ceiling=1.0).attach(nn.Linear(2, 2))
    >>> reg.after_step(), bool(reg.chosen), reg.after_step(), bool(reg.chosen)
    (None, False, None, True)
    """

    name = "greg2"

    def __init__(
        self,
        granularity: str = "filter",
        sparsity: float = 0.5,
        delta: float = 1e-4,
        every: int = 5,
        ceiling: float = 1.0,
        pick_delta: float = 1e-5,
        pick_ceiling: float = 1e-2,
        recover: float = 1e-4,
    ) -> None:
        super().__init__(granularity, sparsity, delta, every, ceiling)
        self.pick_delta = checked(self.name, "pick_delta", pick_delta)
        self.pick_ceiling = checked(self.name, "pick_ceiling", pick_ceiling)
        self.recover = checked(self.name, "recover", recover)

    def begin(self) -> None:
        """Nothing is chosen before all units were pressed on."""

    def grow(self) -> None:
        if self.chosen:
            super().grow()
            return
        for value in self.coefficients.values():
            value += self.pick_delta
        if all(bool((value >= self.pick_ceiling * (1 - 1e-6)).all())
               for value in self.coefficients.values()):  # fmt: skip
            self.choose()
            for name, chosen in self.chosen.items():
                self.coefficients[name][~chosen] = -self.recover
