"""Scores of units: one vector per member, added up by class, linear in the number of members."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.criteria.base import Criterion, Scores
from secateur.criteria.checks import check_finished, check_rows, not_finite
from secateur.criteria.elementwise import ElementwiseCriterion, Workspace, sums_along, working_dtype
from secateur.criteria.entries import Entry, Key, Piece, collect, pieces_of
from secateur.criteria.resolve import as_criterion, reading_for
from secateur.criteria.rows import blocks_at, rows_at
from secateur.criteria.weights import effective_weight
from secateur.errors import InputError
from secateur.inputs import ExampleInputs
from secateur.observing.batches import Loss
from secateur.observing.reading import Progress

if TYPE_CHECKING:
    from secateur.graph import Graph

__all__ = ["Scorer", "score_classes", "score_units"]

Found = dict[Key, "Tensor | None"]


def score_classes(
    graph: Graph,
    model: nn.Module,
    criterion: str | Criterion | Callable[[Tensor], Any],
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    inputs: ExampleInputs | None = None,
) -> Scores:
    """Score every class of a graph that is not protected: `Scorer.classes`, once."""
    return Scorer(model, criterion, data, loss, seed, progress, inputs).classes(graph)


def score_units(
    graph: Graph,
    model: nn.Module,
    criterion: str | Criterion | Callable[[Tensor], Any],
    units: Sequence[np.ndarray],
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    inputs: ExampleInputs | None = None,
) -> Scores:
    """Score units of several classes: `Scorer.units`, once."""
    return Scorer(model, criterion, data, loss, seed, progress, inputs).units(graph, units)


class Scorer:
    """Scores a model, as often as its graph is amended, reading weights and data once.

    Parameters
    ----------
    model : nn.Module
        Its weights as they are; it is not changed, and must not change in between.
    criterion : str, Criterion or callable
        See `as_criterion`.
    data : iterable of batches or None
        ``(inputs, targets)`` or dicts, for criteria that need gradients.
    loss : callable or None
        ``loss(outputs, targets)``; None for the output's own loss, or cross entropy.
    seed : int
        Decides everything random.
    progress : callable or None
        ``(batches done, batches in all or None)``.
    inputs : tensor, tuple, dict or None
        The example inputs, for criteria that run the model without data.

    Raises
    ------
    InputError
        When data or inputs are missing.

    Examples
    --------
    >>> from secateur.graph import trace
    >>> net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = net[0].weight.copy_(torch.tensor([[3.0] * 4, [1.0] * 4, [2.0] * 4]))
    >>> graph = trace(net, torch.zeros(1, 4))
    >>> Scorer(net, "l1:view=producer").classes(graph).values[graph.groups[0].classes]
    array([12., 4., 8.])
    """

    def __init__(
        self,
        model: nn.Module,
        criterion: str | Criterion | Callable[[Tensor], Any],
        data: Iterable[Any] | None = None,
        loss: Loss | None = None,
        seed: int = 0,
        progress: Progress | None = None,
        inputs: ExampleInputs | None = None,
    ) -> None:
        self.model, self.seed = model, seed
        self.criterion = as_criterion(criterion)
        self.reading = reading_for(self.criterion, model, data, inputs, loss, seed, progress)
        # One table of vectors; one per batch where their scores cannot be averaged beforehand.
        self._found: list[Found] = []
        self._workspace = Workspace()
        # What a pairwise criterion found for every tensor, by its id.
        self._pairs: dict[int, Tensor] = {}

    def classes(self, graph: Graph) -> Scores:
        """Score every class that is not protected; the others count as not judged.

        Returns
        -------
        Scores
            With one value per class id.
        """
        groups = [np.asarray(group.classes) for group in graph.groups if not group.protected]
        classes = np.concatenate(groups or [np.zeros(0, dtype=np.int64)])
        unit_of_class = np.full(graph.n_classes, -1, dtype=np.int64)
        unit_of_class[classes] = classes
        return self._score(graph, unit_of_class, graph.n_classes)

    def units(self, graph: Graph, units: Sequence[np.ndarray]) -> Scores:
        """Score sets of classes that are removed together.

        What a criterion adds up, it adds up over all classes of a unit before
        `Criterion.finish`: the L2 score of a head is the norm of the whole head.

        Parameters
        ----------
        graph : Graph
        units : sequence of integer arrays
            The class ids of every unit. No class belongs to two units.

        Returns
        -------
        Scores
            With one value per unit.

        Raises
        ------
        CriterionError
            When the criterion returns NaN, infinity or a wrong shape; names criterion and layer.
        InputError
            When data cannot be used, or the model's weights are NaN.
        """
        unit_of_class = np.full(graph.n_classes, -1, dtype=np.int64)
        if len(units):
            sizes = [len(classes) for classes in units]
            classes = np.concatenate(list(units)).astype(np.int64)
            unit_of_class[classes] = np.repeat(np.arange(len(units)), sizes)
        return self._score(graph, unit_of_class, len(units))

    def _score(self, graph: Graph, unit_of_class: np.ndarray, count: int) -> Scores:
        criterion = self.criterion
        entries = collect(graph, self.model, criterion, unit_of_class)
        pieces = pieces_of(criterion, entries, _group_of_unit(graph, unit_of_class, count))
        known = self._found[0] if self._found else {}
        missing = [piece for piece in pieces if piece.key not in known]
        if missing:
            if criterion.pairwise:
                self._read_pairs(missing, entries)
            elif criterion.streams:
                self._read_data(missing)
            else:
                self._read_weights(missing)
            self._workspace = Workspace()
        rng = np.random.default_rng(self.seed)
        mean, judged = np.zeros(count), np.zeros(count, dtype=bool)
        for done, found in enumerate(self._found, start=1):
            sums, rows = self._total(pieces, found, count)
            values = check_finished(criterion, criterion.finish(sums, rows, rng), rows)
            mean += (values - mean) / done
            judged |= rows > 0
        return Scores(np.where(judged, mean, 0.0), judged, criterion.unjudged)

    def _read_weights(self, missing: list[Piece]) -> None:
        if not self._found:
            self._found.append({})
        for same in _by_tensor(missing).values():
            entry = same[0].entry
            weight: Tensor | None = entry.tensor
            if self.criterion.reads_weights:
                weight = effective_weight(entry.owner, entry.leaf, entry.tensor)
            if weight is None:
                self._found[0].update((piece.key, None) for piece in same)
            else:
                self._found[0].update(self._member_scores(same, weight, None))

    def _read_data(self, missing: list[Piece]) -> None:
        together = _by_tensor(missing)
        owners = {
            name: together[id(parameter)]
            for name, parameter in self.model.named_parameters()
            if id(parameter) in together
        }
        batch: Found = {}
        before, done = len(self._found), 0

        def receive(name: str, weight: Tensor, signal: Tensor | None) -> None:
            if signal is None:
                batch.update((piece.key, None) for piece in owners[name])
            else:
                batch.update(self._member_scores(owners[name], weight, signal))

        def after_batch() -> None:
            nonlocal done
            for piece in missing:
                # The loss does not depend on this parameter: nothing is lost without it.
                if piece.key not in batch:
                    batch[piece.key] = torch.zeros(
                        len(piece.units), device=piece.entry.tensor.device
                    )
            at = 0 if self.criterion.additive else done
            if at == len(self._found):
                self._found.append({})
            _average(self._found[at], batch, done if self.criterion.additive else 0)
            batch.clear()
            done += 1

        self.criterion.stream(self.reading, list(owners), receive, after_batch)
        if before and not self.criterion.additive and done != before:
            raise InputError(
                f"data had {before} batches and then {done}; pass data that yields the same "
                "batches every time, such as a DataLoader or a list"
            )

    def _read_pairs(self, missing: list[Piece], entries: list[Entry]) -> None:
        """Score from matrices that are kept: other units are other blocks of them."""
        if not self._found:
            self._found.append({})
            tensors = {id(entry.tensor) for entry in entries}
            names = [name for name, p in self.model.named_parameters() if id(p) in tensors]

            def receive(name: str, weight: Tensor, signal: Tensor | None) -> None:
                assert signal is not None
                self._pairs[id(self.model.get_parameter(name))] = signal

            self.criterion.stream(self.reading, names, receive, lambda: None)
        for key, same in _by_tensor(missing).items():
            weight = same[0].entry.tensor
            self._found[0].update(self._member_scores(same, weight, self._pairs[key]))

    def _member_scores(self, pieces: list[Piece], weight: Tensor, grad: Tensor | None) -> Found:
        """Score the pieces of one tensor."""
        criterion, found = self.criterion, Found()
        weight = weight.detach()
        with torch.no_grad():
            if isinstance(criterion, ElementwiseCriterion):
                dims = [piece.entry.member.dim for piece in pieces]
                vectors = sums_along(criterion.elements, weight, grad, dims, self._workspace)
                return {piece.key: one for piece, one in zip(pieces, vectors, strict=True)}
            dtype = working_dtype(weight.dtype)
            for piece in pieces:
                entry, rows, grad_rows = piece.entry, weight.new_empty(len(piece.units), 0), None
                if piece.where is None:
                    # One number a position, of a criterion that reads no weights.
                    grad_rows = None if grad is None else grad[:, None]
                else:
                    rows = rows_at(weight, entry.member.dim, piece.where).to(dtype)
                    if grad is not None and criterion.pairwise:
                        grad_rows = blocks_at(grad, piece.where)
                    elif grad is not None:
                        grad_rows = rows_at(grad, entry.member.dim, piece.where).to(dtype)
                scores = criterion.member_scores(entry.member, rows, grad_rows, entry.kind)
                if scores is not None:
                    scores = check_rows(criterion, piece, scores).to(weight.device)
                found[piece.key] = scores
        return found

    def _total(
        self, pieces: list[Piece], found: Found, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Add the vectors up by unit; also how many rows make each sum."""
        used = [(piece, scores) for piece in pieces if (scores := found[piece.key]) is not None]
        if not used:
            return np.zeros(count), np.zeros(count, dtype=np.int64)
        units = np.concatenate([piece.units for piece, _ in used])
        # One transfer from an accelerator, not one per member.
        values = torch.cat([scores for _, scores in used]).cpu().double().numpy()
        keep = units >= 0
        units, values = units[keep], values[keep]
        if not np.isfinite(values).all():
            raise not_finite(self.criterion, used)
        sums = np.bincount(units, weights=values, minlength=count)
        return sums, np.bincount(units, minlength=count)


def _group_of_unit(graph: Graph, unit_of_class: np.ndarray, count: int) -> np.ndarray:
    groups = np.full(count, -1, dtype=np.int64)
    for index, group in enumerate(graph.groups):
        units = unit_of_class[np.asarray(group.classes, dtype=np.int64)]
        groups[units[units >= 0]] = index
    return groups


def _by_tensor(pieces: list[Piece]) -> dict[int, list[Piece]]:
    together: dict[int, list[Piece]] = {}
    for piece in pieces:
        together.setdefault(id(piece.entry.tensor), []).append(piece)
    return together


def _average(mean: Found, new: Found, done: int) -> None:
    """Take a batch into the mean of so many batches before it."""
    for key, scores in new.items():
        before = mean.get(key)
        if scores is None or before is None:
            mean[key] = scores
        else:
            before += (scores - before) / (done + 1)
