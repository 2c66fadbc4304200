"""N:M sparsity: N of every M consecutive inputs stay."""

from __future__ import annotations

import torch
from torch import Tensor

from secateur.errors import InputError

__all__ = ["check_runs", "nm_mask"]

# Up to so many of the highest, or the lowest, running maxima are faster than sorting.
RUNNING = 8
# Up to this M, comparing every pair is faster than sorting.
PAIRWISE = 16
# Entries at once: enough for every thread, and little beside the weight.
CHUNK = 1 << 18
CHUNK_ACCELERATOR = 1 << 24


def nm_mask(scores: Tensor, keep: int, of: int, *, magnitude: bool = False) -> Tensor:
    """Keep the entries with the highest scores in every run of inputs.

    Runs go along the inputs at a fixed output and kernel position, which is the dimension that
    hardware with N:M support reduces over. The last run of a row may be short: it keeps
    ``min(keep, its length)``. Of equal scores the lowest index goes first.

    Parameters
    ----------
    scores : Tensor, shape [outputs, inputs, *kernel]
        No NaN.
    keep, of : int
        ``keep`` of ``of`` stay: 2 and 4 for 2:4.
    magnitude : bool, default False
        Rank by absolute value: a weight then needs no copy of its size to be scored.

    Returns
    -------
    Tensor of bool
        True where kept; of the shape and on the device of the scores.

    Raises
    ------
    InputError
        Unless ``1 <= keep <= of`` and ``of >= 2``, and for NaN.

    Examples
    --------
    >>> nm_mask(torch.tensor([[1.0, 5.0, 3.0, 2.0, 4.0, 4.0]]), 2, 4).int()
    tensor([[0, 1, 1, 0, 1, 1]], dtype=torch.int32)
    """
    check_runs(scores, keep, of)
    scores = scores.detach()
    # Inputs last and in memory order: a convolution's runs are strided as it stores them.
    rows = scores.movedim(1, -1)
    mask = torch.ones(rows.shape, dtype=torch.bool, device=scores.device)
    flat, out = rows.reshape(-1, rows.shape[-1]), mask.view(-1, rows.shape[-1])
    width = flat.shape[1]
    whole = width - width % of
    chunk = CHUNK if scores.device.type == "cpu" else CHUNK_ACCELERATOR
    tall = max(1, chunk // max(width, 1))
    unknown = torch.zeros((), dtype=torch.bool, device=scores.device)
    for top in range(0, flat.shape[0], tall):
        part = flat[top : top + tall]
        part = part.abs() if magnitude else part
        if part.is_floating_point() and part.numel():
            # The smallest of all is NaN as soon as one of them is.
            unknown |= part.min().isnan()
        if whole:
            runs = part[:, :whole].unflatten(1, (-1, of))
            out[top : top + tall, :whole] = _kept(runs, keep).flatten(1)
        if width - whole > keep:
            out[top : top + tall, whole:] = _kept(part[:, whole:].unsqueeze(1), keep).squeeze(1)
    if bool(unknown):
        raise InputError("scores hold NaN, so nothing can be ranked by them")
    return mask.movedim(-1, 1)


def check_runs(scores: Tensor, keep: int, of: int) -> None:
    """Refuse numbers that mean nothing, and tensors without inputs."""
    if not 1 <= keep <= of or of < 2:
        raise InputError(f"{keep}:{of} must keep at least 1 and at most all of 2 or more")
    if scores.dim() < 2:
        raise InputError(
            f"scores need outputs and inputs, and these have shape {list(scores.shape)}"
        )


def _kept(runs: Tensor, keep: int) -> Tensor:
    """The ``keep`` highest along the last dimension; of equals the last ones."""
    of = runs.shape[-1]
    if min(keep, of - keep + 1) > RUNNING:
        return _sorted(runs, keep)
    # Entries of one place in all runs side by side: what compares them then is vectorised.
    places = torch.stack(runs.unbind(-1))
    above = places >= _least_kept(places, keep)
    if int(above.count_nonzero()) == keep * places[0].numel():
        return torch.stack(above.unbind(0), dim=-1)
    kept = torch.stack(above.unbind(0), dim=-1)
    tied = above.sum(dim=0) != keep
    exactly = _compared if of <= PAIRWISE else _sorted
    kept[tied] = exactly(runs[tied], keep)
    return kept


def _least_kept(places: Tensor, keep: int) -> Tensor:
    """The ``keep``-th highest of every run, ``[of, ...] -> [...]``."""
    highest = keep <= len(places) - keep + 1
    count = keep if highest else len(places) - keep + 1
    outer, inner = (torch.maximum, torch.minimum) if highest else (torch.minimum, torch.maximum)
    best: list[Tensor] = []
    for entry in places:
        for rank, there in enumerate(best):
            best[rank] = outer(there, entry)
            if rank + 1 < count:
                entry = inner(there, entry)
        if len(best) < count:
            best.append(entry)
    return best[-1]


def _sorted(runs: Tensor, keep: int) -> Tensor:
    """As `_kept`, for runs of any length."""
    order = runs.argsort(dim=-1, stable=True)
    kept = torch.zeros(runs.shape, dtype=torch.bool, device=runs.device)
    return kept.scatter_(-1, order[..., runs.shape[-1] - keep :], True)


def _compared(runs: Tensor, keep: int) -> Tensor:
    """As `_kept`, by comparing every pair."""
    columns = [column.contiguous() for column in runs.unbind(-1)]
    beaten = [torch.zeros(columns[0].shape, dtype=torch.uint8, device=runs.device) for _ in columns]
    for left in range(len(columns)):
        for right in range(left + 1, len(columns)):
            wins = columns[left] > columns[right]
            beaten[right] += wins
            beaten[left] += ~wins
    return torch.stack([count < keep for count in beaten], dim=-1)
