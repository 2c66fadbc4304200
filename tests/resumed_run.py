"""A run of `recover` with everything on, for tests that interrupt it: ``FOLDER OUT KILL_AT``."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset

import secateur as sc
from recovering import images, losses, net


class Noisy(Dataset):
    """Draws from Python's, NumPy's, PyTorch's and a generator of its own for every example."""

    def __init__(self) -> None:
        self.x, self.y = (torch.cat(parts) for parts in zip(*images(), strict=True))
        self.own = np.random.default_rng()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, at: int):
        scale = random.uniform(0.8, 1.2) * np.random.uniform(0.8, 1.2)  # noqa: NPY002
        shift = float(self.own.normal()) * 0.1
        return self.x[at] * scale + shift + 0.1 * torch.randn_like(self.x[at]), self.y[at]


def train(folder: str | None, progress=None):
    """The run: its data shuffles by a generator that nobody seeded."""
    dense = net()
    model = net()
    sc.prune(model, images()[0][0], budget={"macs": 0.6})
    sc.prune(model, images()[0][0], granularity="element", budget={"sparsity": 0.3})
    generator = torch.Generator()
    generator.seed()
    loader = DataLoader(Noisy(), batch_size=8, shuffle=True, generator=generator)
    history = sc.recover(
        model, loader, epochs=4, lr=0.02, warmup=0.2, accumulate=2,
        teacher=dense, distill={"features": ["3", "1"], "alpha": 0.3, "plan": sc.Plan()},
        ema=0.9, validation=images(seed=1), patience=3, channels_last=True,
        checkpoint=folder, progress=progress,
    )  # fmt: skip
    return model, history


def main() -> None:
    folder, out, kill_at = sys.argv[1:]
    torch.set_num_threads(1)

    def progress(done: int, total: int, text: str) -> None:
        if done == int(kill_at):
            os.kill(os.getpid(), signal.SIGKILL)

    model, history = train(folder, progress)
    save_file({name: t.contiguous() for name, t in model.state_dict().items()}, out)
    Path(out).with_suffix(".json").write_text(json.dumps([losses(history), history.best]))


if __name__ == "__main__":
    main()
