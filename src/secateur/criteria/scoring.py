"""Scores of units: one vector per member, added up by class, linear in the number of members."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from secateur.criteria.base import Criterion, Kind, Scores
from secateur.criteria.batches import Loss
from secateur.criteria.elementwise import ElementwiseCriterion, sums_along, working_dtype
from secateur.criteria.gradients import Progress, stream_gradients
from secateur.criteria.resolve import as_criterion
from secateur.criteria.rows import rows_of
from secateur.criteria.weights import effective_weight, kind_of, owner_of
from secateur.errors import CriterionError, InputError

if TYPE_CHECKING:
    from secateur.graph import Graph, Member

__all__ = ["score_classes", "score_units"]


@dataclasses.dataclass
class _Entry:
    """A member that counts: its tensor, and the unit of every position (-1 for none)."""

    member: Member
    tensor: Tensor
    owner: nn.Module
    leaf: str
    kind: Kind
    units: np.ndarray


@dataclasses.dataclass
class _Part:
    """A vector of scores and the units its numbers belong to."""

    entry: _Entry
    scores: Tensor
    units: np.ndarray


def score_classes(
    graph: Graph,
    model: nn.Module,
    criterion: str | Criterion | Callable[[Tensor], Any],
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Score every class of a graph that is not protected.

    Returns
    -------
    Scores
        With one value per class id. Classes of protected groups are not judged.

    See Also
    --------
    score_units : the same for units of several classes, and the errors raised.
    """
    open_groups = [np.asarray(group.classes) for group in graph.groups if not group.protected]
    classes = np.concatenate(open_groups or [np.zeros(0, dtype=np.int64)])
    scores = score_units(
        graph, model, criterion, list(classes[:, None]), data, loss, seed, progress
    )
    values, judged = np.zeros(graph.n_classes), np.zeros(graph.n_classes, dtype=bool)
    values[classes], judged[classes] = scores.values, scores.judged
    return Scores(values, judged, scores.reason)


def score_units(
    graph: Graph,
    model: nn.Module,
    criterion: str | Criterion | Callable[[Tensor], Any],
    units: Sequence[np.ndarray],
    data: Iterable[Any] | None = None,
    loss: Loss | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Scores:
    """Score units: sets of classes that are removed together.

    What a criterion adds up, it adds up over all classes of a unit before `Criterion.finish`:
    the L2 score of a head is the norm of the whole head.

    Parameters
    ----------
    graph : Graph
        The coupling of the model.
    model : nn.Module
        Its current weights are scored; it is not changed.
    criterion : str, Criterion or callable
        See `as_criterion`.
    units : sequence of integer arrays
        The class ids of every unit. No class belongs to two units.
    data : iterable of batches or None
        ``(inputs, targets)`` or dicts, for criteria that need gradients.
    loss : callable or None
        ``loss(outputs, targets)``; None for the output's own loss, or cross entropy.
    seed : int
        Decides everything random.
    progress : callable or None
        ``(batches done, batches in all or None)``.

    Returns
    -------
    Scores
        With one value per unit.

    Raises
    ------
    CriterionError
        When the criterion returns NaN, infinity or a wrong shape; names criterion and layer.
    InputError
        When data is missing, or the model's weights are NaN.
    """
    criterion = as_criterion(criterion)
    if criterion.needs_data and data is None:
        raise InputError(
            f"criterion {criterion.name!r} needs gradients: pass data=, an iterable of "
            "(inputs, targets) batches, or of dicts for models that return a loss"
        )
    count = len(units)
    unit_of_class = np.full(graph.n_classes, -1, dtype=np.int64)
    if count:
        sizes = [len(classes) for classes in units]
        unit_of_class[np.concatenate(list(units)).astype(np.int64)] = np.repeat(
            np.arange(count), sizes
        )
    entries = _entries(graph, model, criterion, unit_of_class)
    group_of_unit = _group_of_unit(graph, unit_of_class, count)
    rng = np.random.default_rng(seed)
    if not criterion.needs_data:
        parts = list(_weight_parts(criterion, entries, group_of_unit))
        sums, rows = _total(criterion, parts, count)
        values = _finish(criterion, sums, rows, rng)
        judged = rows > 0
    else:
        assert data is not None
        values, judged = _gradient_scores(
            model, criterion, entries, group_of_unit, count, rng, data, loss, seed, progress
        )
    return Scores(np.where(judged, values, 0.0), judged, criterion.unjudged)


def _entries(
    graph: Graph, model: nn.Module, criterion: Criterion, unit_of_class: np.ndarray
) -> list[_Entry]:
    tensors: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    if not criterion.needs_data:
        tensors |= dict(model.named_buffers(remove_duplicate=False))
    modules = dict(model.named_modules(remove_duplicate=False))
    kinds: dict[nn.Module, Kind] = {}
    entries: list[_Entry] = []
    seen: set[tuple[int, int]] = set()
    for member in graph.members:
        tensor = tensors.get(member.name)
        # A tied weight may be listed under each of its names; it is one tensor and counts once.
        key = (id(tensor), member.dim)
        if tensor is None or key in seen or not tensor.is_floating_point():
            continue
        owner, leaf = owner_of(modules, member.name)
        kind = kinds.get(owner) or kinds.setdefault(owner, kind_of(owner))
        if not criterion.looks_at(member, tensor.shape, kind):
            continue
        classes = np.asarray(member.classes)
        units = np.where(classes >= 0, unit_of_class[classes], -1)
        if (units >= 0).any():
            seen.add(key)
            entries.append(_Entry(member, tensor, owner, leaf, kind, units))
    return entries


def _group_of_unit(graph: Graph, unit_of_class: np.ndarray, count: int) -> np.ndarray:
    groups = np.full(count, -1, dtype=np.int64)
    for index, group in enumerate(graph.groups):
        units = unit_of_class[np.asarray(group.classes, dtype=np.int64)]
        groups[units[units >= 0]] = index
    return groups


def _by_tensor(entries: list[_Entry]) -> dict[int, list[_Entry]]:
    together: dict[int, list[_Entry]] = {}
    for entry in entries:
        together.setdefault(id(entry.tensor), []).append(entry)
    return together


def _weight_parts(
    criterion: Criterion, entries: list[_Entry], group_of_unit: np.ndarray
) -> Iterator[_Part]:
    for same in _by_tensor(entries).values():
        weight: Tensor | None = same[0].tensor
        if criterion.reads_weights:
            weight = effective_weight(same[0].owner, same[0].leaf, same[0].tensor)
        if weight is not None:
            yield from _parts(criterion, same, weight, None, group_of_unit)


def _parts(
    criterion: Criterion,
    entries: list[_Entry],
    weight: Tensor,
    grad: Tensor | None,
    group_of_unit: np.ndarray,
) -> Iterator[_Part]:
    """Score one tensor for all the dimensions that entries name."""
    with torch.no_grad():
        if isinstance(criterion, ElementwiseCriterion):
            dims = [entry.member.dim for entry in entries]
            for entry, scores in zip(
                entries, sums_along(criterion.elements, weight, grad, dims), strict=True
            ):
                yield _Part(entry, scores, entry.units)
            return
        dtype = working_dtype(weight.dtype)
        for entry in entries:
            blocks: Iterable[tuple[Tensor, Tensor | None, np.ndarray]]
            if criterion.reads_weights:
                blocks = rows_of(
                    weight.detach(), grad, entry.member.dim, entry.units, group_of_unit
                )
            else:
                blocks = [(weight.new_empty(len(entry.units), 0), None, entry.units)]
            for rows, grad_rows, units in blocks:
                found = criterion.member_scores(
                    entry.member,
                    rows.to(dtype),
                    None if grad_rows is None else grad_rows.to(dtype),
                    entry.kind,
                )
                if found is not None:
                    _check_shape(criterion, entry, found, len(units))
                    yield _Part(entry, found.detach().to(weight.device), units)


def _total(criterion: Criterion, parts: list[_Part], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Add the parts up by unit; also how many rows make each sum."""
    if not parts:
        return np.zeros(count), np.zeros(count, dtype=np.int64)
    units = np.concatenate([part.units for part in parts])
    # One transfer from an accelerator, not one per member.
    values = torch.cat([part.scores for part in parts]).cpu().double().numpy()
    keep = units >= 0
    units, values = units[keep], values[keep]
    if not np.isfinite(values).all():
        _blame(criterion, parts)
    sums = np.bincount(units, weights=values, minlength=count)
    return sums, np.bincount(units, minlength=count)


def _gradient_scores(
    model: nn.Module,
    criterion: Criterion,
    entries: list[_Entry],
    group_of_unit: np.ndarray,
    count: int,
    rng: np.random.Generator,
    data: Iterable[Any],
    loss: Loss | None,
    seed: int,
    progress: Progress | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Average the finished scores of every batch."""
    # Members that the loss does not depend on score 0; members that the criterion declines do not.
    judged = np.zeros(count, dtype=bool)
    received: set[str] = set()
    together = _by_tensor(entries)
    owners = {
        name: together[id(parameter)]
        for name, parameter in model.named_parameters()
        if id(parameter) in together
    }
    mean = np.zeros(count)
    parts: list[_Part] = []
    batches = 0

    def receive(name: str, weight: Tensor, gradient: Tensor) -> None:
        received.add(name)
        parts.extend(_parts(criterion, owners[name], weight, gradient, group_of_unit))

    def after_batch() -> None:
        nonlocal mean, batches
        # The order of gradients within a backward pass must not decide the last digit of a sum.
        parts.sort(key=lambda part: (part.entry.member.name, part.entry.member.dim))
        sums, rows = _total(criterion, parts, count)
        parts.clear()
        judged[rows > 0] = True
        batches += 1
        mean += (_finish(criterion, sums, rows, rng) - mean) / batches

    stream_gradients(
        model,
        owners,
        data,
        receive,
        after_batch=after_batch,
        loss=loss,
        max_batches=getattr(criterion, "max_batches", None),
        seed=seed,
        progress=progress,
    )
    for name in owners.keys() - received:
        for entry in owners[name]:
            judged[entry.units[entry.units >= 0]] = True
    return mean, judged


def _finish(
    criterion: Criterion, sums: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    values = np.asarray(criterion.finish(sums, rows, rng), dtype=np.float64)
    if values.shape != sums.shape:
        raise CriterionError(
            f"criterion {criterion.name!r} finished {len(sums)} sums into shape {values.shape}; "
            "finish must return one score per unit"
        )
    if not np.isfinite(values[rows > 0]).all():
        raise CriterionError(
            f"criterion {criterion.name!r} finished finite sums into NaN or infinity"
        )
    return values


def _check_shape(criterion: Criterion, entry: _Entry, scores: Tensor, count: int) -> None:
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (count,):
        found = (
            f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        )
        raise CriterionError(
            f"criterion {criterion.name!r} returned {found} for {_layer(entry)}; "
            f"it must return one score per row, shape ({count},)"
        )


def _blame(criterion: Criterion, parts: list[_Part]) -> None:
    for part in parts:
        used = torch.as_tensor(part.units >= 0, device=part.scores.device)
        if bool(torch.isfinite(part.scores[used]).all()):
            continue
        entry = part.entry
        if not bool(torch.isfinite(entry.tensor).all()):
            raise InputError(
                f"{entry.member.name!r} contains NaN or infinity; repair the model first"
            )
        raise CriterionError(
            f"criterion {criterion.name!r} returned NaN or infinity for {_layer(entry)}"
        )
    raise CriterionError(f"criterion {criterion.name!r} returned NaN or infinity")


def _layer(entry: _Entry) -> str:
    return f"{entry.member.name!r} (dimension {entry.member.dim})"
