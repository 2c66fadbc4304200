"""What was measured before, kept on disk: by machine, versions, shapes and the pattern of zeros."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur import __version__
from secateur.files import replacing
from secateur.sparse import build
from secateur.sparse.library import variant

__all__ = ["Records", "machine", "pattern"]

MOST = 20000


def machine() -> dict[str, Any]:
    """What timings depend on besides the layer."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "secateur": __version__,
        "kernels": variant() and f"{variant()} {build.fingerprint()}",
    }


def pattern(layer: nn.Module) -> str:
    """A hash of where a weight is zero, and of everything else that decides how long a layer takes.

    Examples
    --------
    >>> one, other = nn.Linear(4, 4), nn.Linear(4, 4)
    >>> pattern(one) == pattern(other)
    True
    >>> _ = nn.init.zeros_(other.weight)
    >>> pattern(one) == pattern(other)
    False
    """
    weight = layer.get_parameter("weight").detach()
    live = (weight != 0).to(torch.uint8).flatten()
    live = torch.nn.functional.pad(live, (0, -len(live) % 8)).reshape(-1, 8)
    bits = (live << torch.arange(8, dtype=torch.uint8)).sum(dim=1).to(torch.uint8)
    digest = hashlib.sha256(repr((layer, tuple(weight.shape))).encode())
    digest.update(bits.numpy().tobytes())
    return digest.hexdigest()


class Records:
    """Medians in milliseconds, by layer and candidate.

    Parameters
    ----------
    path : path-like or None
        A JSON file; None keeps nothing. A file that cannot be read counts as empty: what is in it
        can be measured anew.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self.path = None if path is None else Path(path)
        self._known = _read(self.path)

    @staticmethod
    def default_path() -> Path:
        """``$XDG_CACHE_HOME/secateur/sparse.json``, or in ``~/.cache``."""
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        return Path(home) / "secateur" / "sparse.json"

    @staticmethod
    def key(layer: nn.Module, calls: Mapping[tuple[int, ...], int], names: list[str]) -> str:
        """What a measurement is found by again."""
        text = json.dumps([machine(), pattern(layer), sorted(calls.items()), names], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def get(self, key: str, names: list[str]) -> dict[str, float] | None:
        """The medians of these candidates, or None."""
        known = self._known.get(key)
        return known if known is not None and list(known) == names else None

    def add(self, key: str, medians: dict[str, float]) -> None:
        """Keep the medians of one layer."""
        self._known[key] = medians

    def write(self) -> None:
        """Write the file; what other processes wrote meanwhile stays."""
        if self.path is None:
            return
        merged = {**_read(self.path), **self._known}
        latest = dict(list(merged.items())[-MOST:])
        with replacing(self.path) as draft:
            draft.write_text(json.dumps(latest))


def _read(path: Path | None) -> dict[str, dict[str, float]]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text())
        return {
            str(key): {str(name): float(median) for name, median in medians.items()}
            for key, medians in found.items()
        }
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
