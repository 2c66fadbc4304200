"""What a criterion returned, checked; errors name the criterion and the layer."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from secateur.criteria.base import Criterion
from secateur.criteria.entries import Piece
from secateur.errors import CriterionError, InputError

__all__ = ["check_finished", "check_rows", "not_finite"]


def check_rows(criterion: Criterion, piece: Piece, scores: object) -> Tensor:
    """Return the scores of a piece if there is one per row.

    Raises
    ------
    CriterionError
        For any other shape.
    """
    count = len(piece.units)
    if isinstance(scores, Tensor) and tuple(scores.shape) == (count,):
        return scores.detach()
    found = type(scores).__name__
    if isinstance(scores, Tensor):
        found = f"shape {tuple(scores.shape)}"
    raise CriterionError(
        f"criterion {criterion.name!r} returned {found} for {piece.entry}; "
        f"it must return one score per row, shape ({count},)"
    )


def check_finished(criterion: Criterion, values: object, rows: np.ndarray) -> np.ndarray:
    """Return finished scores as float64, 0 for units without rows.

    Raises
    ------
    CriterionError
        For a wrong shape, NaN or infinity.
    """
    scores = np.asarray(values, dtype=np.float64)
    if scores.shape != rows.shape:
        raise CriterionError(
            f"criterion {criterion.name!r} finished {len(rows)} sums into shape {scores.shape}; "
            "finish must return one score per unit"
        )
    if not np.isfinite(scores[rows > 0]).all():
        raise CriterionError(
            f"criterion {criterion.name!r} finished finite sums into NaN or infinity"
        )
    return np.where(rows > 0, scores, 0.0)


def not_finite(criterion: Criterion, used: Iterable[tuple[Piece, Tensor]]) -> Exception:
    """Return the error for the first piece with a score that is not finite."""
    for piece, scores in used:
        counted = torch.as_tensor(piece.units >= 0, device=scores.device)
        if bool(torch.isfinite(scores[counted]).all()):
            continue
        if not bool(torch.isfinite(piece.entry.tensor).all()):
            return InputError(
                f"{piece.entry.member.name!r} contains NaN or infinity; repair the model first"
            )
        return CriterionError(
            f"criterion {criterion.name!r} returned NaN or infinity for {piece.entry}"
        )
    return CriterionError(f"criterion {criterion.name!r} returned NaN or infinity")
