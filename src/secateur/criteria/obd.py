"""Optimal brain damage: the second-order change of the loss, one weight at a time."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable
from typing import Literal, get_args

import torch
from torch import Tensor

from secateur.criteria.base import CRITERIA, View
from secateur.criteria.elementwise import working_dtype
from secateur.criteria.gradient_based import GradientCriterion, check_count, hand_over
from secateur.criteria.hessian import Product, each_hessian
from secateur.criteria.means import Mean, sample_gradients
from secateur.errors import InputError, suggestion
from secateur.observing.reading import Reading, Receive

__all__ = ["OBD", "Curvature"]

Curvature = Literal["fisher", "hutchinson"]


@CRITERIA.register("obd")
class OBD(GradientCriterion):
    """Change of the loss ½ h w² when a weight becomes zero, with h the Hessian's diagonal.

    LeCun, Denker and Solla 1989 (Optimal Brain Damage). The loss is taken as quadratic, cross
    terms are left out, and the gradient too, as if training had converged. A unit's score is the
    sum over its parameters. The diagonal is estimated over data:

    - ``"fisher"``: E[g²] with g the gradient of *one sample's* loss, which is the diagonal of the
      empirical Fisher matrix; never negative. One backward pass per sample;
    - ``"hutchinson"``: E[v ⊙ H v] with v random signs, an unbiased estimate of the Hessian's own
      diagonal, exact where that is diagonal; may be negative. Two backward passes per draw.

    Parameters
    ----------
    curvature : {"fisher", "hutchinson"}, default "fisher"
        How h is estimated.
    gradient : bool, default False
        Keep the gradient: ½ h w² − g w, the predicted change where the loss is not at a minimum.
    samples : int, default 1
        Draws of v per batch.
    view : {"group", "producer", "consumer"}, default "group"
        Which parameters count.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    What stands beside the weight is ½ h w, so the score of w = 3 under h = 2 is 9:

    >>> OBD().elements(torch.tensor([3.0]), torch.tensor([3.0]))
    tensor([9.])
    """

    name = "obd"

    def __init__(
        self,
        curvature: Curvature = "fisher",
        gradient: bool = False,
        samples: int = 1,
        view: View = "group",
        max_batches: int | None = None,
    ) -> None:
        super().__init__(view, max_batches)
        if curvature not in get_args(Curvature):
            raise InputError(
                f"criterion 'obd': unknown curvature {curvature!r}"
                + suggestion(str(curvature), get_args(Curvature))
            )
        check_count(self.name, "samples", samples)
        self.curvature = curvature
        self.gradient = gradient
        self.samples = samples

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        if self.curvature == "fisher":
            first, second = sample_gradients(reading, names)
        else:
            first, second = self._hutchinson(reading, names)
        weights = dict(reading.model.named_parameters())
        slopes: dict[str, Tensor] = {}
        for name in first.keys() | second.keys():
            weight = weights[name].detach()
            slope = torch.zeros_like(weight, dtype=working_dtype(weight.dtype))
            if name in second:
                slope += 0.5 * second.pop(name) * weight
            if self.gradient and name in first:
                slope -= first[name]
            slopes[name] = slope
        return hand_over(reading, names, slopes, receive, after_batch)

    def _hutchinson(
        self, reading: Reading, names: list[str]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        first, second = Mean(), Mean()
        # A stream of signs for each parameter, so that others do not shift them.
        sources = {
            name: torch.Generator().manual_seed(reading.seed ^ zlib.crc32(name.encode()))
            for name in names
        }

        def visit(gradients: dict[str, Tensor], product: Product) -> None:
            for name, gradient in gradients.items():
                first.add(name, gradient)
            for _ in range(self.samples):
                signs = {
                    name: _signs(gradient, sources[name]) for name, gradient in gradients.items()
                }
                for name, curved in product(signs).items():
                    second.add(name, curved * signs[name])

        done = each_hessian(reading, names, visit)
        return first.over(done), second.over(done * self.samples)


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    drawn = torch.randint(2, like.shape, generator=generator)
    return drawn.mul_(2).sub_(1).to(like.device, like.dtype)
