"""Taylor on activations: the change of the loss when a channel's output becomes zero."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar

import torch
from torch import Tensor

from secateur.criteria.activation_based import ActivationCriterion, Tally, channels_first
from secateur.criteria.base import CRITERIA
from secateur.criteria.gradient_based import hand_over
from secateur.errors import InputError
from secateur.observing.batches import batch_loss
from secateur.observing.following import Follower
from secateur.observing.reading import Reading, Receive, finite_loss
from secateur.observing.standins import forward, standing_in

__all__ = ["TaylorActivation"]


@CRITERIA.register("taylor_activation")
class TaylorActivation(ActivationCriterion):
    r"""First-order change of the loss when a channel's activation becomes zero.

    Molchanov et al. 2016 (arXiv:1611.06440): \|mean over places of a · ∂L/∂a\|, the absolute value
    taken for every sample and then averaged over samples, and divided by the layer's L2 norm,
    which makes layers comparable. ``taylor`` is the later criterion of the same authors, on
    weights.

    Measured behind the first activation that follows the layer, in eval mode; see
    `ActivationCriterion`. The loss of a batch is taken as the mean over its samples.

    Parameters
    ----------
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.
    """

    name = "taylor_activation"
    comparable: ClassVar[bool] = True

    def measure(self, values: Tensor) -> tuple[Tensor, int] | None:
        each = values.flatten(2).mean(dim=2) if values.ndim > 2 else values
        # A sample's own gradient is its share of the batch's, times their number.
        return each.abs().sum(dim=0) * len(values), len(values)

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names, tally, done = list(names), Tally(), 0
        seen: list[tuple[str, Tensor, int, bool]] = []

        def found(name: str, values: Tensor, dim: int, activated: bool) -> None:
            if tally.wants(name, activated):
                seen.append((name, values, dim, activated))

        with standing_in(reading.model, reading.seed) as stand_ins:
            for tensor in stand_ins.values():
                tensor.requires_grad_(tensor.is_floating_point())
            for inputs, targets in reading.batches():
                follower = Follower(reading.model, inputs, names, found, stand_ins)
                with follower.watching():
                    outputs = forward(reading.model, stand_ins, inputs)
                if follower.spoiled:
                    raise InputError(
                        f"the activation behind {min(follower.spoiled)!r} is written over in "
                        "place, so criterion 'taylor_activation' cannot see its gradient; build "
                        "the model with inplace=False, or take 'taylor'"
                    )
                value = finite_loss(batch_loss(outputs, targets, reading.loss), done)
                del outputs
                used = [entry for entry in seen if entry[1].requires_grad]
                slopes = torch.autograd.grad(value, [e[1] for e in used], allow_unused=True)
                for (name, values, dim, activated), slope in zip(used, slopes, strict=True):
                    given = torch.zeros_like(values) if slope is None else slope
                    product = channels_first(values, dim) * channels_first(given, dim)
                    measured = self.measure(product)
                    assert measured is not None
                    tally.add(name, activated, *measured)
                seen.clear()
                done += 1
        means = {
            name: None if mean is None else mean / mean.norm().clamp(min=1e-30)
            for name, mean in tally.means(names).items()
        }
        return hand_over(reading, names, means, receive, after_batch)
