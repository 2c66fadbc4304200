"""What candidates are measured by in tests of engines: what other processes can import."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn


def noisy(model: nn.Module) -> float:
    """Depends on the weights, and on every random state that there is."""
    chance = torch.rand(()).item() + random.random() + np.random.random()  # noqa: NPY002
    with torch.no_grad():
        out = model(torch.randn(16, 3, 8, 8))
    size = sum(p.numel() for p in model.parameters())
    return out.std().item() + 1e-3 * chance - 1e-4 * size


class Counting:
    """Notes every call in a folder, so that calls in other processes are counted too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, model: nn.Module) -> float:
        (self.folder / f"{os.getpid()}-{len(self.calls)}-{random.randrange(10**9)}").touch()
        return noisy(model)

    @property
    def calls(self) -> list[Path]:
        return sorted(self.folder.iterdir())


class Dying:
    """Ends its process at some calls: as often as there are files to take away.

    With `narrow`, only where the first layer is that narrow.
    """

    def __init__(
        self, folder: Path, times: int, how: str = "exit", narrow: int | None = None
    ) -> None:
        self.folder, self.how, self.narrow = folder, how, narrow
        folder.mkdir(exist_ok=True)
        for number in range(times):
            (folder / str(number)).touch()

    def __call__(self, model: nn.Module) -> float:
        spared = self.narrow is not None and model[0].out_channels != self.narrow  # type: ignore[index, union-attr]
        for file in [] if spared else sorted(self.folder.iterdir()):
            try:
                file.unlink()
            except FileNotFoundError:
                continue
            if self.how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            os._exit(7)
        return noisy(model)


class Interrupted(Counting):
    """Stops the search by Ctrl-C, once it has been asked often enough."""

    def __init__(self, folder: Path, after: int) -> None:
        super().__init__(folder)
        self.after = after

    def __call__(self, model: nn.Module) -> float:
        if len(self.calls) >= self.after:
            raise KeyboardInterrupt
        return super().__call__(model)


def large(model: nn.Module) -> float:
    """Falls with every parameter that goes."""
    return 1e-3 * sum(p.numel() for p in model.parameters())


def shrunk(model: nn.Module) -> None:
    """Tunes a model, in a way: one of its tensors is half of what it was."""
    with torch.no_grad():
        model[-1].bias.mul_(0.5)  # type: ignore[index, union-attr, operator]


def raising(model: nn.Module) -> float:
    raise RuntimeError("out of data")


def not_a_number(model: nn.Module) -> float:
    return float("nan")


def threads(model: nn.Module) -> float:
    return float(torch.get_num_threads())


def leaving(model: nn.Module) -> float:
    sys.exit(3)
