"""SNIP: connection sensitivity, from one mean gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from secateur.criteria.base import CRITERIA
from secateur.criteria.gradient_based import GradientCriterion, hand_over
from secateur.criteria.means import mean_gradients
from secateur.observing.reading import Reading, Receive

__all__ = ["SNIP"]


@CRITERIA.register("snip")
class SNIP(GradientCriterion):
    r"""Connection sensitivity \|ḡ w\|, with ḡ the gradient over all data.

    Lee et al. 2019 (arXiv:1810.02340): with a gate c on every weight, \|∂L/∂c\| at c = 1 is
    \|g w\|. The gradient is averaged over all batches first and the absolute value is taken last,
    as if all data were one batch; the paper takes one batch of it, at initialisation. A unit's
    score is the sum over its parameters. The paper divides by the sum over all weights, which
    changes no ranking.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which parameters count.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> import torch
    >>> SNIP().elements(torch.tensor([3.0]), torch.tensor([-2.0]))
    tensor([6.])
    """

    name = "snip"

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        return hand_over(reading, names, mean_gradients(reading, names), receive, after_batch)

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        return super().elements(weight, grad).abs_()
