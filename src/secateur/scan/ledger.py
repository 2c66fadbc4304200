"""What was measured, on disk as soon as it is known, so that a killed scan loses one trial."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.errors import FileFormatError, InputError
from secateur.files import append_line
from secateur.graph.trace import named_state

__all__ = ["Ledger", "fingerprint"]

FORMAT = "secateur trials 1"


def fingerprint(model: nn.Module) -> str:
    """A hash of the model's class and of every tensor in it: name, type, shape and bits.

    Examples
    --------
    >>> first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    >>> fingerprint(first) == fingerprint(first), fingerprint(first) == fingerprint(second)
    (True, False)
    """
    digest = hashlib.sha256(type(model).__qualname__.encode())
    for name, tensor in named_state(model).items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # A dimension more, since a scalar has none whose bytes could be counted.
        data = tensor.detach().cpu().contiguous().unsqueeze(-1)
        digest.update(data.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Ledger:
    """Values of trials by key; kept in a file of JSON lines where one is given.

    The first line says whose values they are, and every other is one trial, written and flushed
    to the disk as a whole when it ends. A last line that a kill cut short is dropped.

    Parameters
    ----------
    path : path-like or None
        Created where it does not exist yet.
    model, seed, baseline
        The model's `fingerprint`, the seed, and what is measured of the model itself.

    Raises
    ------
    InputError
        When the file holds values of another model, seed or measure.
    FileFormatError
        When it is something else.

    Examples
    --------
    >>> ledger = Ledger(None, "model", seed=0, baseline=0.9)
    >>> ledger.add("conv1 4", 0.8)
    >>> "conv1 4" in ledger, ledger["conv1 4"], len(ledger)
    (True, 0.8, 1)
    """

    def __init__(
        self, path: str | os.PathLike[str] | None, model: str, seed: int, baseline: float
    ) -> None:
        self.path = None if path is None else Path(path)
        self._values: dict[str, float] = {}
        if self.path is None:
            return
        header = {"format": FORMAT, "model": model, "seed": seed, "baseline": baseline}
        lines = self._whole_lines()
        if not lines:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._append(header)
            return
        self._check(_parsed(lines[0]), header)
        for line in lines[1:]:
            entry = _parsed(line)
            try:
                self._values[str(entry["trial"])] = float(entry["value"])
            except (KeyError, TypeError, ValueError) as error:
                raise FileFormatError(f"{self.path} is damaged: {line[:60]!r}") from error

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __getitem__(self, key: str) -> float:
        return self._values[key]

    def __len__(self) -> int:
        return len(self._values)

    def add(self, key: str, value: float) -> None:
        """Note a value, on disk before this returns."""
        self._values[key] = value
        if self.path is not None:
            self._append({"trial": key, "value": value})

    def _whole_lines(self) -> list[str]:
        """The lines of the file, which then ends with the last whole one."""
        assert self.path is not None
        if self.path.is_dir():
            raise InputError(f"{str(self.path)!r} is a folder; give the name of the cache file")
        if not self.path.exists():
            return []
        data = self.path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        start = json.dumps({"format": FORMAT})[:-1].encode()
        if not whole and not start.startswith(data[: len(start)]):
            raise FileFormatError(f"{self.path} is no cache of trials; name another file")
        if len(whole) < len(data):
            os.truncate(self.path, len(whole))
        return whole.decode("utf-8", "replace").splitlines()

    def _check(self, found: dict[str, Any], header: dict[str, Any]) -> None:
        if found.get("format") != FORMAT:
            raise FileFormatError(f"{self.path} is no cache of trials; name another file")
        said = {
            "model": "another model, or the same one with other weights",
            "seed": f"seed {found.get('seed')}",
            "baseline": f"another evaluate: it found {found.get('baseline')} for the dense model, "
            f"and this one finds {header['baseline']}",
        }
        for key, what in said.items():
            if found.get(key) != header[key]:
                raise InputError(
                    f"the cache {self.path} is of {what}; name another file, or delete it"
                )

    def _append(self, entry: dict[str, Any]) -> None:
        assert self.path is not None
        append_line(self.path, json.dumps(entry))


def _parsed(line: str) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError:
        entry = None
    return entry if isinstance(entry, dict) else {}
