"""Wanda: weights times the size of what they multiply."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor

from secateur.criteria.base import CRITERIA, Criterion, Kind, View
from secateur.criteria.elementwise import ElementwiseCriterion
from secateur.criteria.gradient_based import check_count, hand_over
from secateur.errors import InputError
from secateur.observing.reading import Reading, Receive
from secateur.observing.standins import forward, standing_in
from secateur.observing.watching import Product, Watcher

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["Wanda"]


@CRITERIA.register("wanda")
class Wanda(ElementwiseCriterion):
    r"""Weight times the norm of the input it multiplies, \|W_ij\| · ‖X_j‖₂.

    Sun et al. 2023 (arXiv:2306.11695). X_j is everything that input j was over the data: all
    samples, tokens and places. The norm is streamed, one number per input. For a convolution an
    input is one channel *at one position of the kernel*, as in its matrix form: pixels that a
    position never meets do not count for it, and padding counts as zero. A transposed convolution
    takes one norm per channel.

    Where parts of weights become zero, scores compare within one output, as in the paper: under
    allocation ``uniform`` every row of a weight loses exactly ``floor(inputs * sparsity)``. A
    coupled channel's score is the sum over the weights in the view. All layers see the dense
    model's inputs; the paper's recomputation after each block is a schedule's business.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which weights count, for coupled channels; see `Criterion`.
    max_batches : int or None, default None
        How many batches to take from the data; None takes all of them.

    Examples
    --------
    >>> Wanda().elements(torch.tensor([-3.0]), torch.tensor([2.0]))
    tensor([6.])
    """

    name = "wanda"
    needs_data: ClassVar[bool] = True
    asks_for: ClassVar[str] = "the inputs of layers"
    scope: ClassVar[Literal["layer", "row"]] = "row"
    additive = True

    def __init__(self, view: View = "group", max_batches: int | None = None) -> None:
        super().__init__(view)
        check_count(self.name, "max_batches", max_batches)
        self.max_batches = max_batches

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        # An embedding multiplies nothing.
        return kind != "embedding" and Criterion.looks_at(self, member, shape, kind)

    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        assert grad is not None
        return weight.mul_(grad).abs_()

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        names = list(names)
        parameters = dict(reading.model.named_parameters())
        squares: dict[str, Tensor] = {}

        def product(seen: Product, result: Any) -> None:
            if seen.node.op == "aten::embedding":
                return
            found = _squares(seen)
            for name in seen.names:
                shape = parameters[name].shape
                if _shape_of(seen) == shape:
                    squares[name] = squares.get(name, 0) + found.expand(shape)

        with standing_in(reading.model, reading.seed) as stand_ins, torch.no_grad():
            for inputs, _ in reading.batches():
                watcher = Watcher(reading.model, inputs, names, product, stand_ins=stand_ins)
                with watcher.watching():
                    forward(reading.model, stand_ins, inputs)
        for name in names:
            if name not in squares:
                raise InputError(
                    f"criterion 'wanda' saw no input of {name!r}, which no plain product or "
                    "convolution uses; ignore that layer, or take another criterion"
                )
        norms: dict[str, Tensor | None] = {name: each.sqrt() for name, each in squares.items()}
        return hand_over(reading, names, norms, receive, after_batch)


def _shape_of(seen: Product) -> torch.Size:
    """The shape of the weight as the parameter stores it."""
    if seen.node.op == "aten::convolution":
        return seen.weight.shape
    matrix = seen.weight.shape[-2:]
    return torch.Size(reversed(matrix)) if seen.turned else matrix


def _squares(seen: Product) -> Tensor:
    """Sum of squares of every input, of a shape that expands to the parameter's."""
    given = seen.given.detach()
    # Sums over many tokens lose digits in less than double precision.
    given = given.double() if given.device.type != "mps" else given.float()
    if seen.node.op == "aten::convolution":
        return _of_convolution(seen, given.square())
    total = given.square().sum(dim=-1 if seen.first else -2)
    total = total.reshape(-1, total.shape[-1]).sum(dim=0)
    # [inputs] lies along the weight's dimension that the product sums over.
    last = seen.first != seen.turned
    return total[None, :] if last else total[:, None]


def _of_convolution(seen: Product, squares: Tensor) -> Tensor:
    bound = seen.node.bound
    kernel = seen.weight.shape[2:]
    if squares.ndim == len(kernel) + 1:
        squares = squares[None]
    if bound["transposed"]:
        channels = squares.sum(dim=[0, *range(2, squares.ndim)])
        return channels.view(-1, 1, *(1 for _ in kernel))
    padding = [side for size in reversed(bound["padding"]) for side in (size, size)]
    squares = torch.nn.functional.pad(squares, padding)
    steps = list(zip(bound["stride"], bound["dilation"], kernel, squares.shape[2:], strict=True))
    each: list[Tensor] = []
    for place in itertools.product(*(range(size) for size in kernel)):
        # What this position of the kernel meets as the kernel moves.
        met = squares
        for axis, (at, (stride, dilation, size, length)) in enumerate(
            zip(place, steps, strict=True), start=2
        ):
            start, count = at * dilation, (length - dilation * (size - 1) - 1) // stride + 1
            met = met.narrow(axis, start, (count - 1) * stride + 1)
            met = met.unfold(axis, 1, stride).squeeze(-1)
        each.append(met.sum(dim=[0, *range(2, met.ndim)]))
    # Outputs of one group read its inputs only.
    groups = bound["groups"]
    total = torch.stack(each, dim=1).view(groups, -1, *kernel)
    return total.repeat_interleave(seen.weight.shape[0] // groups, dim=0)
