"""The weights that a training method works on, looked up again at every step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence

from torch import Tensor, nn
from torch.nn.utils import parametrize

from secateur.criteria.elementwise import working_dtype
from secateur.errors import InputError, NothingToPruneError
from secateur.ignored import ignored_tensors
from secateur.sparsity.table import SparseGranularity
from secateur.sparsity.tiles import Tiling
from secateur.weights import Weight, prunable_weights

__all__ = ["Skipped", "Target", "find_targets", "require_plain"]

Skipped = list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class Target:
    """One weight of a model, and the units it is cut into.

    Nothing is cached: surgery between two steps may make the weight smaller.

    Attributes
    ----------
    known : Weight
        As it was when it was found.
    module : nn.Module
    units : SparseGranularity
    """

    known: Weight
    module: nn.Module
    units: SparseGranularity

    @property
    def name(self) -> str:
        return self.known.name

    @property
    def value(self) -> Tensor:
        """The weight that acts; gradients flow through it."""
        found: Tensor = getattr(self.module, self.known.leaf)
        return found

    @property
    def weight(self) -> Weight:
        """Its present shape."""
        groups = int(getattr(self.module, "groups", 1))
        return dataclasses.replace(self.known, shape=tuple(self.value.shape), groups=groups)

    @property
    def tiling(self) -> Tiling:
        return self.units.tiling(self.weight)

    def canonical(self) -> Tensor:
        """The acting weight as ``[outputs, inputs, *kernel]``."""
        return self.weight.canonical(self.value)

    def each(self, units: Tensor) -> Tensor:
        """One value per unit ``[*grid]``, spread over the weight as the module stores it."""
        return self.weight.stored(self.tiling.spread(units))

    def parameter(self) -> nn.Parameter:
        """The tensor that is trained.

        Raises
        ------
        InputError
            When the weight is computed from other parameters.
        """
        require_plain(self.module, self.known)
        found = self.value
        assert isinstance(found, nn.Parameter)
        return found


def require_plain(module: nn.Module, weight: Weight) -> None:
    """Raise unless a weight is a parameter of its own."""
    found = getattr(module, weight.leaf)
    if parametrize.is_parametrized(module, weight.leaf) or not isinstance(found, nn.Parameter):
        raise InputError(
            f"{weight.name!r} is computed from other parameters; ignore that layer, or remove "
            "its parametrisation first"
        )


def find_targets(
    model: nn.Module, units: SparseGranularity, ignore: Sequence[str | nn.Module] = ()
) -> tuple[list[Target], Skipped]:
    """Every trained weight that has such units, and why the others have none.

    A tied weight comes once, a frozen one is skipped.

    Raises
    ------
    NothingToPruneError
        When no weight is left.

    Examples
    --------
    >>> from secateur.attached.units import as_units
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Linear(4, 2))
    >>> found, skipped = find_targets(net, as_units("kernel"))
    >>> [target.name for target in found], skipped
    (['0.weight'], [('2.weight', "granularity 'kernel' needs a kernel, and this weight has none")])
    """
    ignored = ignored_tensors(model, ignore)
    targets: list[Target] = []
    skipped: Skipped = []
    for weight in prunable_weights(model):
        module = model.get_submodule(weight.module)
        reason = ignored.get(weight.name) or units.misfit(weight)
        if reason is None and not getattr(module, weight.leaf).requires_grad:
            reason = "it is frozen: requires_grad is False"
        if reason is None:
            targets.append(Target(weight, module, units))
        else:
            skipped.append((weight.name, reason))
    if not targets:
        raise NothingToPruneError(
            f"no weight of the model has units of granularity {units.name!r} to train on"
            f"{_listed(skipped)}"
        )
    return targets, skipped


def _listed(skipped: Skipped) -> str:
    first = [f"{name}: {reason}" for name, reason in skipped[:3]]
    return f" ({'; '.join(first)})" if first else ""


def wide(tensor: Tensor) -> Tensor:
    """The values in float32 or better, which sums over many of them need.

    Examples
    --------
    >>> import torch
    >>> wide(torch.ones(1, dtype=torch.bfloat16)).dtype, wide(torch.ones(1).double()).dtype
    (torch.float32, torch.float64)
    """
    return tensor.to(working_dtype(tensor.dtype))


def owners(model: nn.Module, parameter: Tensor) -> Iterator[tuple[nn.Module, str]]:
    """Every module that holds a parameter, and under which name: several where it is tied."""
    for module in model.modules():
        for leaf, found in module._parameters.items():
            if found is parameter:
                yield module, leaf
