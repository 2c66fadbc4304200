"""WoodFisher: optimal brain surgeon on the loss, with the Fisher matrix in blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor

from secateur.criteria.base import CRITERIA, View
from secateur.criteria.fisher_blocks import block_fisher, inverted, joint_update
from secateur.criteria.gradient_based import GradientCriterion, check_count, hand_over
from secateur.criteria.moment_based import check_share
from secateur.layerwise import Refit, Survivors
from secateur.observing import Reading, Receive
from secateur.surgery.apply import cut
from secateur.tensors import swap_data
from secateur.weights import parameter_names, prunable_weights

__all__ = ["WoodFisher"]


@CRITERIA.register("woodfisher")
class WoodFisher(GradientCriterion):
    """Least rise of the loss when a weight goes and its neighbours make up for it.

    Singh and Alistarh 2020 (arXiv:2004.14340). The Hessian of the loss is taken as the empirical
    Fisher matrix, the mean of g gᵀ over the gradients of single samples, within blocks of
    consecutive parameters of a tensor, with `damp` on its diagonal: the score is
    ``w² / (2 [F⁻¹]_qq)``. A unit's score is the sum (of parts of weights, the mean) over its
    entries. What survives in a block moves by ``−F⁻¹[:, M] (F⁻¹[M, M])⁻¹ w[M]`` for everything M
    that went, at once.

    One backward pass per sample, and as much memory as the parameters take, times the block.

    Parameters
    ----------
    block : int, default 50
        Parameters of a block, as in the Optimal BERT Surgeon (arXiv:2203.07259).
    damp : float, default 1e-5
        Added to the Fisher matrix's diagonal, as in the paper.
    update : bool, default True
        Move what survives.
    view : {"group", "producer", "consumer"}, default "group"
        Which parameters count.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> WoodFisher(block=64)
    WoodFisher('woodfisher:block=64')
    """

    name = "woodfisher"
    ordered: ClassVar[bool] = True

    def __init__(
        self,
        block: int = 50,
        damp: float = 1e-5,
        update: bool = True,
        view: View = "group",
        max_batches: int | None = None,
    ) -> None:
        super().__init__(view, max_batches)
        check_count(self.name, "block", block)
        check_share(self.name, "damp", damp)
        self.block, self.damp, self.update = block, damp, update

    @property
    def updates(self) -> bool:
        return self.update

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        # What `stream` hands over is the score; never negative.
        assert grad is not None
        return grad.abs_()

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        parameters = dict(reading.model.named_parameters())
        fisher = block_fisher(reading, names, self.block)
        signals: dict[str, Tensor] = {}
        for name in list(fisher):
            diagonal = inverted(fisher.pop(name), self.damp).diagonal(dim1=1, dim2=2)
            weight = parameters[name].detach()
            spread = diagonal.flatten()[: weight.numel()].view(weight.shape)
            signals[name] = weight.to(spread.dtype).square() / (2 * spread)
        return hand_over(reading, names, signals, receive, after_batch)

    def refit(self, survivors: Survivors) -> list[Refit]:
        gone = _gone(survivors)
        parameters = dict(survivors.model.named_parameters())
        dense = dict(survivors.dense.named_parameters())
        fisher = block_fisher(survivors.reading, gone, self.block)
        for name, lost in gone.items():
            old = dense[name].detach()
            new = old.masked_fill(lost, 0)
            if name in fisher:
                new = joint_update(old, lost, inverted(fisher.pop(name), self.damp))
            swap_data(parameters[name], cut(new, survivors.removed.get(name, {})))
        return []


def _gone(survivors: Survivors) -> dict[str, Tensor]:
    """Parameter of the dense model -> True where it loses entries."""
    dense = dict(survivors.dense.named_parameters())
    gone: dict[str, Tensor] = {}
    weights = [w for w in prunable_weights(survivors.dense) if w.name in survivors.masks]
    for weight, name in parameter_names(survivors.dense, weights).items():
        if name is not None:
            gone[name] = ~survivors.masks[weight].to(dense[name].device)
    for name, dims in survivors.removed.items():
        if name in dense and dense[name].is_floating_point():
            lost = torch.zeros(dense[name].shape, dtype=torch.bool, device=dense[name].device)
            for dim, indices in dims.items():
                lost.index_fill_(dim, torch.tensor(indices, device=lost.device), True)
            gone[name] = lost
    return gone
