"""What a dynamic method is: it changes what is zero while the user trains."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from secateur import specs
from secateur.attached import Method, Target, find_targets
from secateur.attached.targets import wide
from secateur.errors import InputError
from secateur.plan import Plan
from secateur.registry import Registry
from secateur.sparsity.table import SparseGranularity

__all__ = ["DYNAMICS", "Dynamic", "dynamic_sparsity"]

Self = TypeVar("Self", bound="Dynamic")


class Dynamic(Method):
    """Base of every dynamic method: three calls in a training loop, the same for all.

    ::

        method = sc.dynamic_sparsity("rigl:sparsity=0.9,steps=10000", model, optimizer)
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss(model(inputs), targets).backward()
            method.add_gradients()
            optimizer.step()
            method.step()
        method.finish()

    Attributes
    ----------
    name : str
        Its name in the registry.
    steps_done : int
        How often `step` was called.
    zeros : dict
        Weight name -> units that are zero, ``[*grid]`` of bool.
    skipped : list of (str, str)
        Weights it leaves alone, and why.
    """

    units: SparseGranularity

    def attach(
        self: Self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer | None = None,
        ignore: Sequence[str | nn.Module] = (),
    ) -> Self:
        """Find the weights to work on.

        Parameters
        ----------
        model : nn.Module
        optimizer : torch.optim.Optimizer, optional
            The methods that hold weights at zero then hold its momentum there at zero too.
        ignore : sequence of str or Module
            Layers to leave alone: names, patterns or modules.

        Raises
        ------
        InputError, NothingToPruneError, UnknownNameError
        """
        self.count_from_zero()
        self.optimizer = optimizer
        self.targets, self.skipped = find_targets(model, self.units, ignore)
        for target in self.targets:
            target.parameter()
        self.zeros: dict[str, Tensor] = {
            target.name: torch.zeros(
                target.tiling.grid, dtype=torch.bool, device=target.value.device
            )
            for target in self.targets
        }
        self.begin(model)
        self.model = model
        return self

    def begin(self, model: nn.Module) -> None:
        """Do what comes before the first step."""

    def add_gradients(self) -> None:
        """Add the method's own gradient, if it has one; call before ``optimizer.step``."""

    def step(self) -> None:
        """Do what follows an update; call after ``optimizer.step``, before ``zero_grad``."""
        self.steps_done += 1
        self.update()

    @abstractmethod
    def update(self) -> None:
        """What a subclass does after every update."""

    @property
    def current(self) -> float:
        """Share of the entries of all its weights that are zero by its choice."""
        total = sum(target.weight.numel for target in self.targets)
        gone = sum(
            int(target.tiling.sizes()[self.zeros[target.name].cpu()].sum())
            for target in self.targets
        )
        return gone / total

    def plan(self) -> Plan:
        """What is zero, as masks: to keep it so, to save it, or to prune by."""
        plan = Plan(settings={"dynamic": self.spec})
        for target in self.targets:
            mask = target.each(~self.zeros[target.name]).contiguous()
            plan.masks[target.name] = mask
            plan.shapes[target.name] = list(mask.shape)
        return plan

    @torch.no_grad()
    def zero(self, *, state: bool) -> None:
        """Set what is to be zero to zero, with the optimizer's state there if wanted."""
        for target in self.targets:
            gone = target.each(self.zeros[target.name])
            weight = target.parameter()
            weight.masked_fill_(gone, 0.0)
            if state and self.optimizer is not None:
                for held in self.optimizer.state.get(weight, {}).values():
                    if isinstance(held, Tensor) and held.shape == weight.shape:
                        held.masked_fill_(gone, 0.0)

    def state_dict(self) -> dict[str, Any]:
        zeros = {name: value.clone() for name, value in self.zeros.items()}
        return {**super().state_dict(), "zeros": zeros}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state.get("name") == self.name:
            for name, value in self.zeros.items():
                value.copy_(state["zeros"][name])
        super().load_state_dict(state)


DYNAMICS: Registry[type[Dynamic]] = Registry("dynamic method")


def dynamic_sparsity(
    text: str | Dynamic,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    ignore: Sequence[str | nn.Module] = (),
) -> Any:
    """Attach a dynamic method to a model that is being trained.

    Parameters
    ----------
    text : str or Dynamic
        A name with options, ``"soft_filter:sparsity=0.3,every=390"``, or an object.
    model : nn.Module
    optimizer : torch.optim.Optimizer, optional
        The methods that hold weights at zero then hold its momentum there at zero too.
    ignore : sequence of str or Module
        Layers to leave alone: names, patterns or modules.

    Returns
    -------
    Dynamic

    Raises
    ------
    UnknownNameError, InputError, NothingToPruneError

    Examples
    --------
    >>> method = dynamic_sparsity("set:sparsity=0.75", nn.Linear(8, 4))
    >>> method.current, int((method.model.weight == 0).sum())
    (0.75, 24)
    """
    if isinstance(text, str):
        built = specs.build(DYNAMICS, text)
    elif isinstance(text, Dynamic):
        built = text
    else:
        raise InputError(f"a dynamic method is a name or an object, not {type(text).__name__}")
    return built.attach(model, optimizer, ignore)


def squares(target: Target) -> Tensor:
    """Sum of squares of every unit of a weight."""
    return target.tiling.sums(wide(target.canonical().detach()).square())
