"""Group sparsity over coupled channels: the weaker a group's unit, the harder it is pressed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from secateur.attached.checks import checked
from secateur.graph.coupling import Member
from secateur.inputs import ExampleInputs
from secateur.regularizers.base import REGULARIZERS, Regularizer
from secateur.regularizers.coupled import CoupledUnits, find_coupled

__all__ = ["GroupSparsity"]


@REGULARIZERS.register("group_sparsity")
class GroupSparsity(Regularizer):
    """Coupled channels, ½ λ Σ_k 2^(α (I_max − I_k) / (I_max − I_min)) ‖w_k‖² (arXiv:2301.12900).

    Fang et al. 2023 (DepGraph) train whole coupled groups towards zero consistently: I_k is the
    L2 norm of all that leaves with unit k, the weights that make it, those that read it, and its
    norm's scales; biases are left out. The factor runs from 1 for the strongest unit of a group
    to 2^α = 16 for the weakest. Where all units are equally strong it is 1. The gradient takes
    the factors as constants.

    Parameters
    ----------
    strength : float, default 5e-4
        λ; the paper's value on CIFAR.
    alpha : float, default 4.0

    Raises
    ------
    InputError, NothingToPruneError

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(1, 3, bias=False), nn.Linear(3, 1, bias=False))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[1.0], [2.0], [3.0]]))
    ...     _ = net[1].weight.zero_()
    >>> reg = GroupSparsity(strength=1.0).attach(net, torch.zeros(1, 1))
    >>> reg.add_gradients()
    >>> net[0].weight.grad.flatten().tolist()
    [16.0, 8.0, 3.0]
    """

    name = "group_sparsity"
    needs_inputs = True

    def __init__(self, strength: float = 5e-4, alpha: float = 4.0) -> None:
        self.strength = checked(self.name, "strength", strength)
        self.alpha = checked(self.name, "alpha", alpha)

    def find(
        self,
        model: nn.Module,
        example_inputs: ExampleInputs | None,
        ignore: Sequence[str | nn.Module],
    ) -> None:
        assert example_inputs is not None
        self.groups, self.skipped = find_coupled(model, example_inputs, ignore, _is_weight)

    def penalty(self) -> Tensor:
        return 0.5 * self.strength * torch.stack([self._term(group) for group in self.groups]).sum()

    def _term(self, group: CoupledUnits) -> Tensor:
        squares = group.squares()
        importance = squares.detach().sqrt()
        high, low = importance.max(), importance.min()
        exponent = torch.where(high > low, (high - importance) / (high - low), 0.0)
        return (2.0 ** (self.alpha * exponent) * squares).sum()


def _is_weight(name: str, member: Member) -> bool:
    return "bias" not in name.rpartition(".")[2]
