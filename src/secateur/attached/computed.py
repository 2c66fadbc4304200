"""Weights that are computed while a model trains, and become plain weights again, exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from secateur.attached.renaming import rename
from secateur.attached.targets import Skipped, Target, owners
from secateur.masks import keeper_of, mask_at, put_masks
from secateur.parametrizations import remove_parametrizations

__all__ = ["Computed", "compute_weights"]


class Computed:
    """One weight that a module computes from its own tensor.

    The tensor that was trained stays the same object throughout, so an optimizer that holds it
    goes on holding it.

    Attributes
    ----------
    target : Target
    rule : nn.Module
        Called with the plain tensor, returns the weight that acts.
    """

    def __init__(self, model: nn.Module, target: Target, rule: nn.Module) -> None:
        self.target = target
        # Each method knows its own rules' attributes.
        self.rule: Any = rule
        self.plain = target.parameter()
        rule.to(self.plain.device)
        self._model = model
        self._owners = list(owners(model, self.plain))
        self._orders = [list(module._parameters) for module, _ in self._owners]
        for module, leaf in self._owners:
            # Which mode a rule is in follows its module.
            rule.train(module.training)
            parametrize.register_parametrization(module, leaf, rule)

    def fold(self) -> None:
        """Make the weight that acts in eval mode the plain one, under its old name.

        What was masked meanwhile stays masked, and a tied weight is under all of its names.
        """
        keeper = keeper_of(self.plain)
        found = [mask_at(module, leaf) for module, leaf in self._owners]
        found.append(None if keeper is None else keeper.mask)
        masks = [mask for mask in found if mask is not None]
        with torch.no_grad():
            value = self.rule.eval()(self.plain).clone()
        for (module, leaf), order in zip(self._owners, self._orders, strict=True):
            remove_parametrizations(module, leaf, leave_parametrized=False)
            # Removal puts the tensor last; files and optimizers go by the order.
            held = dict(module._parameters)
            module._parameters.clear()
            for name in [*(name for name in order if name in held), *held]:
                module._parameters[name] = held[name]
        with torch.no_grad():
            self.plain.copy_(value)
        # What was pruned meanwhile was pruned under names that are gone.
        rename(self._model, self._plain_name)
        if masks:
            name = next(name for name, p in self._model.named_parameters() if p is self.plain)
            put_masks(self._model, {name: torch.stack(masks).all(0)})

    @property
    def modules(self) -> list[nn.Module]:
        """The modules that hold the weight: several where it is tied."""
        return [module for module, _ in self._owners]

    def _plain_name(self, name: str) -> str | None:
        paths = {id(module): path for path, module in self._model.named_modules()}
        for module, leaf in self._owners:
            before = f"{paths[id(module)]}." if paths[id(module)] else ""
            inside = f"{before}parametrizations.{leaf}."
            if name.startswith(inside):
                return before + leaf if name == f"{inside}original" else None
        return name


def compute_weights(
    model: nn.Module, targets: list[Target], rule: Callable[[Target], nn.Module]
) -> tuple[list[Computed], Skipped]:
    """Let every target be computed by a rule of its own.

    Returns
    -------
    (list of Computed, list of (name, reason))
        Recurrent layers read their weights past any rule, so they are skipped.

    Raises
    ------
    InputError
        When a weight is computed from others already; no weight is changed then.

    Examples
    --------
    >>> from secateur.attached import as_units, find_targets
    >>> net = nn.Sequential(nn.Linear(2, 2))
    >>> class Doubled(nn.Module):
    ...     def forward(self, plain: Tensor) -> Tensor:
    ...         return 2 * plain
    >>> before = net[0].weight.detach().clone()
    >>> computed, _ = compute_weights(
    ...     net, find_targets(net, as_units("element"))[0], lambda target: Doubled())
    >>> bool((net[0].weight == 2 * before).all())
    True
    >>> computed[0].fold()
    >>> list(net.state_dict()), bool((net[0].weight == 2 * before).all())
    (['0.weight', '0.bias'], True)
    """
    fit, skipped = [], []
    for target in targets:
        if isinstance(target.module, nn.RNNBase):
            skipped.append((target.name, "a recurrent layer reads its weights past any rule"))
        else:
            target.parameter()
            fit.append(target)
    return [Computed(model, target, rule(target)) for target in fit], skipped
