"""Cutting one lot of examples into parts, the same ones for the same seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from secateur.errors import InputError

__all__ = ["HELD_OUT", "files_by_part", "stratified"]

HELD_OUT = (0.15, 0.15)
"""Shares of the validation and the test part, where a data set comes in one piece."""

_SPELLINGS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
}


def stratified(labels: Tensor, shares: Sequence[float], seed: int) -> list[Tensor]:
    """Indices of the parts, with every class cut in the same proportions.

    Parameters
    ----------
    labels : Tensor
        ``[n]`` class indices.
    shares : sequence of float
        Of every part but the first, which gets what is left.
    seed : int

    Returns
    -------
    list of Tensor
        Sorted indices, the first part's first.

    Examples
    --------
    >>> [part.tolist() for part in stratified(torch.tensor([0, 1, 0, 1]), [0.5], seed=0)]
    [[0, 3], [1, 2]]
    """
    generator = torch.Generator().manual_seed(seed)
    parts: list[list[Tensor]] = [[] for _ in range(len(shares) + 1)]
    for label in labels.unique():
        members = (labels == label).nonzero().flatten()
        members = members[torch.randperm(len(members), generator=generator)]
        # What comes first is rounded first: rounding must not eat up the last part.
        at = round(len(members) * (1 - sum(shares)))
        parts[0].append(members[:at])
        for index, share in enumerate(shares, 1):
            end = at + round(len(members) * share) if index < len(shares) else len(members)
            parts[index].append(members[at:end])
            at = end
    return [torch.cat(part).sort().values for part in parts]


def files_by_part(files: Iterable[Path]) -> dict[str, list[Path]]:
    """Files by the part that their names begin with: ``train-00000.parquet``, ``validation.txt``.

    Raises
    ------
    InputError
        For a name that begins with none.

    Examples
    --------
    >>> files_by_part([Path("a/test.txt"), Path("a/train-1.txt"), Path("a/train-0.txt")])
    {'test': [PosixPath('a/test.txt')], 'train': [PosixPath('a/train-0.txt'), ...]}
    """
    found: dict[str, list[Path]] = {}
    for file in sorted(files):
        word = file.name.replace("-", ".").replace("_", ".").split(".")[0].lower()
        if word not in _SPELLINGS:
            raise InputError(
                f"{file} does not say which part it is of: begin its name with train, val or test, "
                "or give one file"
            )
        found.setdefault(_SPELLINGS[word], []).append(file)
    return found
