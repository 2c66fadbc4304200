"""Pages that benchmarks write join the navigation once they are there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

GENERATED = {
    "Coverage": "coverage.md",
    "Speed and memory": "benchmarks/speed.md",
    "Scaling": "benchmarks/scaling.md",
    "Import time": "benchmarks/import_time.md",
}


def on_config(config: Any) -> Any:
    """Append what exists; mkdocs calls this by its name."""
    docs = Path(config["docs_dir"])
    found = [{title: page} for title, page in GENERATED.items() if (docs / page).is_file()]
    if found:
        config["nav"].append({"Measured": found})
    return config
