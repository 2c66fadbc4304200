"""Sizes of sparse files and the time to load them, against dense safetensors.

python -m benchmarks.sparse_files
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

import secateur as sc
from benchmarks.common import heading, machine, markdown_table, write_results
from benchmarks.speed_models import build
from secateur.profiling import Timing, storage_of

GOAL_SIZE, GOAL_LOAD = 0.16, 1.0
MODEL = "resnet50"


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to make a model sparse and to store it."""

    granularity: str
    sparsity: float | None
    bits: int | None = None
    huffman: bool = False
    dtype: torch.dtype = torch.float32

    @property
    def name(self) -> str:
        zeros = "" if self.sparsity is None else f", {self.sparsity:.0%} zero"
        parts = [f"{self.granularity}{zeros}", str(self.dtype).removeprefix("torch.")]
        if self.bits is not None:
            parts.append(f"{self.bits}-bit shared values")
        return ", ".join([*parts, *(["Huffman"] if self.huffman else [])])


CASES = [
    Case("element", 0.5), Case("element", 0.7), Case("element", 0.8), Case("element", 0.9),
    Case("element", 0.95), Case("element", 0.98), Case("2:4", None), Case("vector:8", 0.9),
    Case("block:16x32", 0.9), Case("kernel", 0.9), Case("element", 0.9, dtype=torch.bfloat16),
    Case("element", 0.9, bits=5), Case("element", 0.9, bits=5, huffman=True),
]  # fmt: skip
# The one that the goals are for.
CHOSEN = Case("element", 0.9)


def made(dense: nn.Module, example: Any, case: Case) -> nn.Module:
    """A sparse copy of the model."""
    model = copy.deepcopy(dense)
    budget = None if case.sparsity is None else {"sparsity": case.sparsity}
    sc.prune(model, example, granularity=case.granularity, budget=budget, verify=False)
    if case.bits is not None:
        sc.share_weights(model, bits=case.bits).finish()
    return model.to(case.dtype)


def timed(
    loaders: dict[str, Callable[[nn.Module], Any]], dense: nn.Module, runs: int
) -> dict[str, Timing]:
    """Load into a fresh model each time, the ways taking turns; building it is not timed."""
    names, samples = list(loaders), {name: [] for name in loaders}
    for round_ in range(runs + 1):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            model = copy.deepcopy(dense)
            start = time.perf_counter()
            loaders[name](model)
            samples[name].append((time.perf_counter() - start) * 1e3)
    threads = torch.get_num_threads()
    # The first round reads the files from the disk.
    return {name: Timing(name, tuple(taken[1:]), threads) for name, taken in samples.items()}


def measure(dense: nn.Module, example: Any, case: Case, folder: Path, runs: int) -> dict[str, Any]:
    """Sizes and load times of one case."""
    model = made(dense, example, case)
    whole = sc.save(model, folder / "dense.safetensors")
    small = sc.save(model, folder / "sparse.safetensors", format="sparse", huffman=case.huffman)
    base = dense.to(case.dtype)
    again = sc.load(copy.deepcopy(base), small)
    state, loaded = model.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], loaded[name]) for name in state), "the file differs"

    def plain(target: nn.Module) -> None:
        target.load_state_dict(load_file(whole))

    times = timed(
        {
            "sparse": lambda target: sc.load(target, small, masked=False),
            "dense": lambda target: sc.load(target, whole, masked=False),
            "safetensors": plain,
        },
        base,
        runs,
    )
    layouts = storage_of(model, huffman=case.huffman).layouts
    return {
        "name": case.name,
        "dense_bytes": whole.stat().st_size,
        "bytes": small.stat().st_size,
        "size": small.stat().st_size / whole.stat().st_size,
        "layout": next(iter(layouts)),
        "load_ms": times["sparse"].median_ms,
        "load": times["sparse"].ratio(times["dense"]),
        "load_unchecked": times["sparse"].ratio(times["safetensors"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--only", help="measure the cases whose name holds this; write no page")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    where = machine(options.threads, ["safetensors"])
    torch.manual_seed(0)
    dense, example = build(options.model)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            if options.only is None or options.only in case.name:
                results.append(measure(dense, example, case, Path(folder), options.runs))
                dense = dense.float()
                print(results[-1], flush=True)
    if options.only is not None:
        return
    rows = [
        [r["name"], r["layout"], f"{r['bytes'] / 1e6:.1f}", f"{r['size']:.3f}",
         f"{1 / r['size']:.1f}", f"{r['load_ms']:.0f}", f"{r['load']:.2f}",
         f"{r['load_unchecked']:.2f}"]
        for r in results
    ]  # fmt: skip
    columns = ["zeros and values", "largest layout", "MB", "of the dense file", "times smaller",
               "load, ms", "load over dense", "load over unchecked"]  # fmt: skip
    chosen = next(r for r in results if r["name"] == CHOSEN.name)
    text = "\n".join(
        [
            "# Files without zeros",
            "",
            f'`secateur.save(format="sparse")` of {options.model}, whose dense file has '
            f"{chosen['dense_bytes'] / 1e6:.1f} MB in float32. *Load over dense* is the time of "
            "`secateur.load` into the model over that of the dense file of the same model, which "
            "is checked in the same way; *over unchecked* is over `safetensors.torch.load_file` "
            "and `load_state_dict` of that dense file, which verify no checksum. Files are in the "
            "system's cache.",
            "",
            markdown_table(columns, rows, left=2),
            "",
            f"Medians of {options.runs} rounds in which the three take turns, each into a fresh "
            f"model. {heading(where)}. Made by `python -m benchmarks.sparse_files`.",
        ]
    )
    write_results("sparse_files", {"machine": where, "cases": results}, text)
    print(text)
    met = chosen["size"] <= GOAL_SIZE and chosen["load"] <= GOAL_LOAD
    print(
        f"\n{CHOSEN.name}: at most {GOAL_SIZE} of the dense file, and loaded in at most "
        f"{GOAL_LOAD:g} of its time: {'met' if met else 'MISSED'}"
    )


if __name__ == "__main__":
    main()
