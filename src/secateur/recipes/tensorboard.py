"""TensorBoard's files, where it is installed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

__all__ = ["write_events"]


def write_events(metrics: Iterable[Mapping[str, Any]], folder: Path) -> bool:
    """Write every number of the metrics as a scalar, replacing the folder as a whole.

    Epochs are counted on through all steps that train; ``steps/`` has what was measured after
    each step.

    Parameters
    ----------
    metrics : iterable of mapping
        Lines of ``metrics.jsonl``.
    folder : pathlib.Path

    Returns
    -------
    bool
        Whether TensorBoard is installed; without it nothing is written.
    """
    if importlib.util.find_spec("tensorboard") is None:
        return False
    from torch.utils.tensorboard import SummaryWriter

    draft = Path(tempfile.mkdtemp(prefix=".secateur-", dir=folder.parent))
    try:
        _write(metrics, SummaryWriter(str(draft)))
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _write(metrics: Iterable[Mapping[str, Any]], writer: Any) -> None:
    epochs = steps = 0
    for line in metrics:
        epoch = "epoch" in line
        epochs, steps = epochs + epoch, steps + (not epoch)
        for name, value in line.items():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if number and name not in ("epoch", "number"):
                group = "epochs" if epoch else "steps"
                writer.add_scalar(f"{group}/{name}", value, epochs if epoch else steps)
    writer.close()
