"""GraSP: keep what the gradient's flow depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from secateur.criteria.base import CRITERIA
from secateur.criteria.gradient_based import GradientCriterion, hand_over
from secateur.criteria.hessian import Product, each_hessian
from secateur.criteria.means import Mean
from secateur.errors import InputError
from secateur.observing.reading import Reading, Receive

__all__ = ["GraSP"]


@CRITERIA.register("grasp")
class GraSP(GradientCriterion):
    r"""Gradient flow that is lost with a weight, w · (H g).

    Wang et al. 2020 (arXiv:2002.07376). Taking weight w out changes the gradient's squared norm
    by −2 w (H g), to first order, with g the gradient over all data and all parameters, and H the
    Hessian. The paper
    scores −w (H g) and removes the *highest*, whose removal raises the flow; here the lowest go
    first, so the sign is the other. The score has a sign of its own, and a unit's is the sum over
    its parameters. The paper divides the logits by a temperature of 200 and works at
    initialisation: pass a `loss` that does so.

    The data is read twice, once for g and once for H g, so it must be iterable again.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which parameters count.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> import torch
    >>> GraSP().elements(torch.tensor([3.0]), torch.tensor([-2.0]))
    tensor([-6.])
    """

    name = "grasp"

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        # The flow is the whole model's, whichever weights are asked about.
        every = [name for name, _ in reading.model.named_parameters()]
        if iter(reading.data) is reading.data:
            raise InputError(
                "criterion 'grasp' reads data twice: pass a list or a DataLoader, not an iterator"
            )
        mean, flow = Mean(), Mean()

        def collect(gradients: dict[str, Tensor], product: Product) -> None:
            for name, gradient in gradients.items():
                mean.add(name, gradient)

        first = each_hessian(reading, every, collect)
        gradients = mean.over(first)

        def multiply(_: dict[str, Tensor], product: Product) -> None:
            for name, value in product(gradients).items():
                flow.add(name, value)

        second = each_hessian(reading, every, multiply)
        if first != second:
            raise InputError(
                f"data had {first} batches and then {second}; pass data that yields the same "
                "batches every time, such as a DataLoader or a list"
            )
        return hand_over(reading, names, flow.over(second), receive, after_batch)
