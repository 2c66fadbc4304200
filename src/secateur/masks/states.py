"""Keepers as a whole: put back with a model, carried to another one."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn

from secateur.masks.keeper import keeper_of, keepers, kept_here, link

__all__ = ["KeeperStates", "carry_over", "forget_values"]


class KeeperStates:
    """What the keepers of some modules are, to be put back.

    Nothing is copied: keepers replace their tensors and never write into them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._states = [(keeper, keeper.state()) for keeper in keepers(modules)]

    def restore(self, present: Iterable[nn.Module]) -> None:
        """Put every keeper back, and let go of the ones that came since.

        Parameters
        ----------
        present : iterable of Module
            As they are before their own attributes are put back.
        """
        before = {id(keeper) for keeper, _ in self._states}
        for keeper in keepers(present):
            if id(keeper) not in before:
                keeper.detach()
        for keeper, state in self._states:
            keeper.put_state(state)


def carry_over(source: nn.Module, target: nn.Module) -> None:
    """Keep in a model's copy, tensor for tensor under the same names, what the model keeps."""
    modules = dict(target.named_modules(remove_duplicate=False))
    for path, module in source.named_modules(remove_duplicate=False):
        for leaf, keeper in kept_here(module).items():
            owner = modules.get(path)
            tensor = None if owner is None else getattr(owner, leaf, None)
            if owner is not None and tensor is not None:
                link(owner, leaf, keeper_of(tensor) or keeper.moved(tensor))


def forget_values(model: nn.Module) -> None:
    """Forget what masked entries were: they come back as zeros."""
    for keeper in keepers(model.modules()):
        keeper.values = None
