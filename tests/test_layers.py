"""Imports point one way: from the command line at the top down to the graph at the bottom."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "secateur"

# Bottom to top. A part imports from the lines below its own, and from itself.
LAYERS = """
errors
registry inputs locate files machine quiet tensors bits parametrizations ranks
packing
specs container progress budget
graph plan engines
masks
weights
observing
layerwise
profiling surgery scoped ignored replay
criteria allocation granularity latency
costs verify persist export idle candidates configs sparse
rounding depth whole_heads
selection recover models
data
sparsity
attached blockwise
regularizers schedules dynamic sharing quantization semi_structured
callbacks
request result
refit choose scan
drop
decide sparsify layers
jointly
proof
prune sensitivity
pruner report compact
plot demo recipes
bench
cli
__main__
"""
LEVEL = {
    part: level for level, line in enumerate(LAYERS.strip().split("\n")) for part in line.split()
}


def imported(body: list[ast.stmt]) -> Iterator[str]:
    """Parts that a module imports when it is imported, not later in a function."""
    for statement in body:
        if isinstance(statement, ast.ImportFrom) and statement.module:
            names = statement.module.split(".")
            if names[0] == "secateur":
                yield from names[1:2] or [alias.name for alias in statement.names]
        elif isinstance(statement, ast.Import):
            for alias in statement.names:
                names = alias.name.split(".")
                if names[0] == "secateur" and len(names) > 1:
                    yield names[1]
        elif isinstance(statement, (ast.Try, ast.With)):
            yield from imported(statement.body)


def part_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(SOURCE.rglob("*.py")) if part_of(path) != "__init__"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_a_file_imports_only_from_below(path: Path) -> None:
    part = part_of(path)
    assert part in LEVEL, f"give {part!r} its place in LAYERS"
    for other in imported(ast.parse(path.read_text(encoding="utf-8")).body):
        if other not in (part, "__version__"):
            assert other in LEVEL, f"{other!r} is no part of secateur"
            assert LEVEL[other] < LEVEL[part], f"{part} must not import {other}"
