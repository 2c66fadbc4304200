"""Time graph + plan + surgery on one model several times.

Usage: ``python -m benchmarks.scaling_one FAMILY SIZE RUNS OUT.json``
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import architectures
import secateur as sc

# Small images: what is measured is the bookkeeping, not the forward pass.
IMAGE = 64


def bottleneck_resnet(blocks: int) -> nn.Module:
    """Return a ResNet with the same widths at every depth: only the number of groups grows."""
    import torchvision

    kind = torchvision.models.resnet
    return kind.ResNet(kind.Bottleneck, [blocks] * 4)


def build(family: str, size: int) -> nn.Module:
    architectures.import_torchvision()
    import torchvision

    torch.manual_seed(0)
    if family == "blocks":
        return bottleneck_resnet(size).eval()
    return torchvision.models.get_model(f"{family}{size}", weights=None).eval()


def main() -> None:
    family, size, runs, out = sys.argv[1:]
    seconds = []
    for turn in range(int(runs) + 1):
        model, x = build(family, int(size)), torch.randn(1, 3, IMAGE, IMAGE)
        with torch.no_grad():
            model(x)
        start = time.perf_counter()
        result = sc.prune(model, x, allocation="uniform", budget={"macs": 0.5}, verify=False)
        if turn:  # the first call also imports
            seconds.append(time.perf_counter() - start)
    dense = build(family, int(size))
    record = {
        "family": family,
        "size": int(size),
        "layers": sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in dense.modules()),
        "parameters": sum(p.numel() for p in dense.parameters()),
        "groups": len(result.groups),
        "seconds": statistics.median(seconds),
    }
    Path(out).write_text(json.dumps(record))


if __name__ == "__main__":
    main()
