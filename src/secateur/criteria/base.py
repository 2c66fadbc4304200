"""What a criterion is: it looks at some members of every coupled class and scores them."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

import numpy as np
from torch import Tensor

from secateur import specs
from secateur.criteria.gradients import stream_gradients
from secateur.errors import InputError, suggestion
from secateur.observing.reading import Reading, Receive
from secateur.registry import Registry

if TYPE_CHECKING:
    from secateur.graph.coupling import Member
    from secateur.layerwise import Refit, Survivors

__all__ = ["CRITERIA", "Criterion", "Kind", "Scores", "View", "is_matrix"]

View = Literal["producer", "consumer", "group"]
Kind = Literal["conv", "linear", "batchnorm", "norm", "embedding", "recurrent", "other"]

CRITERIA: Registry[type[Criterion]] = Registry("criterion")


@dataclasses.dataclass(frozen=True)
class Scores:
    """One score per unit, and which units the criterion could judge at all.

    Attributes
    ----------
    values : ndarray of float64, shape [units]
        Always finite. Lower goes first. 0 where `judged` is False.
    judged : ndarray of bool, shape [units]
        False for a unit that has nothing this criterion looks at (a channel without batch norm
        under ``bn_scale``). Such a unit is never removed.
    reason : str
        Why a unit is not judged, for the list of what was skipped.
    """

    values: np.ndarray
    judged: np.ndarray
    reason: str = ""


class Criterion(ABC):
    """Base of every criterion: the score of a unit, lower goes first.

    A criterion sees one *member* at a time: one dimension of one tensor, with a row for every
    position on that dimension. What it returns is added up over all members of a class, then
    `finish` turns the sums into scores. A sum over members is the same for every channel of one
    layer, so classes compare within a group; across groups an allocation normalises.

    Parameters
    ----------
    view : {"group", "producer", "consumer"}, default "group"
        Which members count: the weights that compute a channel (its filter), the weights that
        read it (the input slices of what follows), or every weight coupled to it.

    Attributes
    ----------
    name : str
        The name in messages and plans.
    needs_data : bool
        Whether it needs data; gradients of a loss over it, unless `stream` says otherwise.
    needs_inputs : bool
        Whether it needs the example inputs, and no data.
    asks_for : str
        What it takes from data, in messages.
    scope : str
        What scores compare within where parts of weights become zero: ``"layer"``, or ``"row"``
        for the entries of one output.
    squared : bool
        True if what is added up is a square, of which `finish` takes the root.
    reads_weights : bool
        False if the values of the weights do not matter to it.
    comparable : bool
        True if raw scores of different groups share one unit of measure, so that a global
        ranking must not normalise them.
    additive : bool
        True if `finish` returns the sums, so that the mean over batches of data may be taken of
        the sums: memory then does not grow with the number of batches.
    pairwise : bool
        True if what `stream` hands over for a weight is a matrix over its inputs, two by two: a
        member's `grad` is then ``[n, n]``, added up over the positions of every unit.
    ordered : bool
        True if scores depend on the order in which a tensor holds its entries, as a sweep over
        columns does, or blocks of neighbours.
    unjudged : str
        Why a class can be without a score.

    Examples
    --------
    A criterion of one's own is one class and one line of registration:

    >>> class MaxAbs(Criterion):
    ...     '''Largest absolute weight.'''
    ...     name = "max_abs"
    ...     def member_scores(self, member, weight, grad, kind):
    ...         return weight.abs().amax(dim=1)
    >>> MaxAbs(view="producer")
    MaxAbs('max_abs:view=producer')
    """

    name: ClassVar[str]
    needs_data: ClassVar[bool] = False
    needs_inputs: ClassVar[bool] = False
    asks_for: ClassVar[str] = "gradients"
    scope: ClassVar[Literal["layer", "row"]] = "layer"
    squared: ClassVar[bool] = False
    reads_weights: ClassVar[bool] = True
    comparable: ClassVar[bool] = False
    additive: bool = False
    pairwise: ClassVar[bool] = False
    ordered: ClassVar[bool] = False
    unjudged: ClassVar[str] = "no weight in the chosen view"

    def __init__(self, view: View = "group") -> None:
        if view not in get_args(View):
            raise InputError(
                f"criterion {self.name!r}: unknown view {view!r}"
                + suggestion(str(view), get_args(View))
            )
        self.view = view

    def looks_at(self, member: Member, shape: Sequence[int], kind: Kind) -> bool:
        """Return whether a member counts. Override for other rules than the view's.

        Weight matrices count: convolutions, linears, embeddings, recurrent weights. Biases and
        the scales of normalisations and layers are of other units of measure, and do not.
        """
        if kind in ("norm", "batchnorm") or len(shape) < 2:
            return False
        if kind == "other" and not is_matrix(shape):
            return False
        return self.view in ("group", member.role)

    @abstractmethod
    def member_scores(
        self, member: Member, weight: Tensor, grad: Tensor | None, kind: Kind
    ) -> Tensor | None:
        """Score the rows of one member.

        Parameters
        ----------
        member : Member
            Name of the tensor, dimension, role.
        weight : Tensor of float32 or float64, shape [n, rest]
            One row for every unit on that dimension. Read-only.
        grad : Tensor or None, shape [n, rest]
            What `stream` handed over, where data is read: the gradient of the loss, if nothing
            else is said.
        kind : str
            Family of the module that owns the tensor.

        Returns
        -------
        Tensor of shape [n] or None
            Scores to be added up over members; None if it does not judge this member.
        """

    def finish(self, sums: np.ndarray, counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Turn the sums over members into scores.

        Parameters
        ----------
        sums : ndarray of float64, shape [units]
            What `member_scores` returned, added up for every unit.
        counts : ndarray of int, shape [units]
            How many rows each sum is made of.
        rng : numpy.random.Generator
            Seeded by the caller.
        """
        return sums

    @property
    def updates(self) -> bool:
        """Whether what survives is changed as well; see `refit`."""
        return False

    def refit(self, survivors: Survivors) -> list[Refit]:
        """Change what survives, in ``survivors.model``, to make up for what went.

        Parameters
        ----------
        survivors : Survivors
            A pruned copy of the model, to be changed, beside the model, which is not.

        Returns
        -------
        list of Refit
            What the change gained, weight by weight, where that is known.
        """
        return []

    @property
    def streams(self) -> bool:
        """Whether the model has to run before anything can be scored."""
        return self.needs_data or self.needs_inputs

    def stream(
        self,
        reading: Reading,
        names: Iterable[str],
        receive: Receive,
        after_batch: Callable[[], None],
    ) -> int:
        """Read the data, and hand over what stands beside every weight in the score.

        By default that is the gradient of each batch, and scores are averaged over batches. A
        criterion that needs something of all batches together (a mean gradient, the norm of all
        inputs) accumulates it, in memory that does not grow with their number, hands it over
        once, and calls `after_batch` once.

        Parameters
        ----------
        reading : Reading
        names : iterable of str
            Parameters that count.
        receive : callable
            ``(name, parameter, signal)``; a parameter left out has a signal of zeros, and one
            with None cannot be judged.
        after_batch : callable
            To be called when everything of a batch, or of all of them, is handed over.

        Returns
        -------
        int
            How often `after_batch` was called.
        """
        return stream_gradients(
            reading.model,
            names,
            reading.data,
            receive,
            after_batch=after_batch,
            loss=reading.loss,
            max_batches=reading.max_batches,
            seed=reading.seed,
            progress=reading.progress,
        )

    @property
    def spec(self) -> str:
        """The line of text that builds this criterion again."""
        return specs.spec(self, self.name)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.spec!r})"


def is_matrix(shape: Sequence[int]) -> bool:
    """Return whether a tensor has at least two dimensions that are longer than one.

    Examples
    --------
    >>> is_matrix([64, 3, 7, 7]), is_matrix([64]), is_matrix([64, 1, 1])
    (True, False, False)
    """
    return sum(size > 1 for size in shape) > 1
