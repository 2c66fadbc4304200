"""Dynamic methods: what gates open for the digits, and what that costs each of them."""

from __future__ import annotations

import functools
from typing import Any

import torch
from docs._pictures.drawing import FAINT, INK, KEPT, OTHER, panels, picture
from docs._pictures.nets import batches
from matplotlib.figure import Figure

import secateur as sc
from secateur.dynamic import Gated, Measured
from secateur.models.resnet import SmallResNet

EPOCHS = 8


@functools.cache
def trained(line: str, density: float = 0.5) -> tuple[list[list[float]], Measured]:
    """The density of every gate, epoch by epoch, and what the digits cost in the end."""
    torch.manual_seed(0)
    model = SmallResNet(widths=(12, 24), blocks=2)
    data = batches()
    sc.recover(model, data, epochs=3, lr=0.1)
    gated = sc.dynamic.gate(model, data[0][0], line, density)
    seen: list[list[float]] = []

    def note(done: int, total: int, text: str) -> None:
        if done % len(data) == 0:
            seen.append(rates(gated, data[:2]))

    sc.dynamic.train(gated, data, epochs=EPOCHS, lr=0.05, progress=note)
    return [[1.0] * len(gated.gates), *seen], gated.measure(data)


def rates(gated: Gated, data: Any) -> list[float]:
    """The share that every gate opens, on average."""
    return list(gated.measure(data).rates.values())


def drawn(line: str, unit: str) -> Figure:
    """Left, densities while they are trained; right, what single digits cost."""
    history, measured = trained(line)
    figure, (left, right) = panels()
    for gate in zip(*history, strict=True):
        left.plot([100 * share for share in gate], color=KEPT, linewidth=1.0, alpha=0.6)
    means = [100 * sum(each) / len(each) for each in history]
    left.plot(means, color=OTHER, label="mean of all gates")
    left.axhline(50, color=INK, linewidth=0.8, linestyle=":")
    left.set(xlabel="epoch", ylim=(0, 105), title=f"{line.partition(':')[0]}: open {unit}, %")
    left.legend(loc="lower left")
    shares = (100 * measured.macs / measured.dense).tolist()
    right.hist(shares, bins=24, color=KEPT)
    right.axvline(100 * measured.ratio, color=OTHER, label="mean")
    right.axvline(100, color=FAINT)
    right.set(xlabel="MACs, % of the dense model's", title="digits by what they cost")
    right.legend(loc="upper left")
    return figure


@picture("dynamic/channel")
def channel() -> Figure:
    return drawn("channel", "channels")


@picture("dynamic/nested")
def nested() -> Figure:
    return drawn("nested", "channels")


@picture("dynamic/fbs")
def fbs() -> Figure:
    return drawn("fbs", "channels")


@picture("dynamic/sparse_gates")
def sparse_gates() -> Figure:
    return drawn("sparse_gates", "channels")


@picture("dynamic/cgnet")
def cgnet() -> Figure:
    return drawn("cgnet", "positions")


@picture("dynamic/aig")
def aig() -> Figure:
    return drawn("aig", "layers")


@picture("dynamic/skipnet")
def skipnet() -> Figure:
    return drawn("skipnet", "layers")
