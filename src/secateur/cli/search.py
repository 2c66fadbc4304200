"""What a search is told on the command line: where it runs, and what it goes by."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from secateur.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from secateur.data import Data
    from secateur.engines import Engine
    from secateur.latency import LatencyTable

__all__ = ["engine_of", "latency_of", "measure_of"]

ACCURACY = "accuracy"


def engine_of(name: str, address: str | None) -> Engine:
    """The engine of ``--engine`` and ``--address``.

    Examples
    --------
    >>> engine_of("ray", "head:10001").address
    'ray://head:10001'
    """
    from secateur.engines import InProcess, as_engine

    if address is not None:
        if name != "ray":
            raise InputError(f"--address is for --engine ray, not for --engine {name}")
        name = address if address.startswith("ray:") else f"ray://{address}"
    engine = as_engine(name)
    here = str(Path.cwd())
    if not isinstance(engine, InProcess) and here not in sys.path:
        # Workers import the user's modules from where this process does.
        sys.path.append(here)
    return engine


def latency_of(text: str | None) -> LatencyTable | str | None:
    """The runtime of ``--latency``, or the table, where it names a file."""
    if text is None:
        return None
    from secateur.latency import RUNTIMES, LatencyTable, as_runtime

    if text in RUNTIMES:
        return text
    if not Path(text).suffix and not Path(text).exists():
        # A name that was mistyped, rather than a file.
        as_runtime(text)
    return LatencyTable.load(text)


def measure_of(
    text: str | None, data: Data | None, batch_size: int
) -> Callable[[nn.Module], float] | None:
    """The function of ``--evaluate``; accuracy is of validation data, never of the test part."""
    if text is None:
        return None
    if text == ACCURACY:
        if data is None:
            raise InputError("--evaluate accuracy is of the validation part of --data; pass --data")
        from secateur.scan import Evaluation

        return Evaluation(data.val.batches(batch_size))
    from secateur.locate import locate

    return locate(text, "evaluate")
