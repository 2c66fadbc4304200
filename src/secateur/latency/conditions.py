"""What a latency depends on besides the model: machine, runtime, versions, threads, dtype."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from secateur.latency.runtimes import Runtime
from secateur.machine import processor_name

__all__ = ["Conditions", "cache_path"]


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Under which conditions a table was measured.

    Attributes
    ----------
    processor : str
        Its model, or that of the accelerator.
    device : str
        ``"cpu"``, ``"cuda"``, ...
    cores : int
    system : str
    runtime : str
    versions : str
        Of the runtime's packages.
    dtype : str
    threads : int
    """

    processor: str
    device: str
    cores: int
    system: str
    runtime: str
    versions: str
    dtype: str
    threads: int

    @classmethod
    def here(cls, runtime: Runtime) -> Conditions:
        """Those of this machine."""
        versions = (f"{name} {version}" for name, version in runtime.versions().items())
        return cls(
            _processor(runtime.device),
            runtime.device.type,
            os.cpu_count() or 1,
            f"{platform.system()} {platform.machine()}",
            runtime.name,
            ", ".join(versions),
            str(runtime.dtype).removeprefix("torch."),
            runtime.threads,
        )

    def differences(self, here: Conditions) -> str:
        """What is otherwise here, in words; empty where nothing is.

        Examples
        --------
        >>> one = Conditions("A", "cpu", 2, "Linux x86_64", "torch", "torch 2.8", "float32", 1)
        >>> one.differences(dataclasses.replace(one, processor="B", threads=2))
        "processor 'A', here 'B'; threads 1, here 2"
        """
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(here)
        return "; ".join(
            f"{key} {mine[key]!r}, here {theirs[key]!r}" for key in mine if mine[key] != theirs[key]
        )

    @classmethod
    def from_json(cls, read: dict[str, Any]) -> Conditions:
        """Read what `dataclasses.asdict` made."""
        made = cls(**read)
        for field in dataclasses.fields(cls):
            if type(getattr(made, field.name)).__name__ != field.type:
                raise ValueError(f"{field.name} is no {field.type}")
        return made


def cache_path(conditions: Conditions) -> Path:
    """Where tables are kept by default: one file for every set of conditions.

    ``$XDG_CACHE_HOME/secateur``, or ``~/.cache/secateur``.
    """
    text = json.dumps(dataclasses.asdict(conditions), sort_keys=True)
    name = hashlib.sha256(text.encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "secateur" / f"latency-{name}.json"


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    return processor_name()
