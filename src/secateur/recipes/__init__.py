"""Recipes: everything that a run does, in one YAML file."""

from __future__ import annotations

from secateur.recipes.comparing import compare_runs
from secateur.recipes.kept import report_run
from secateur.recipes.preview import Preview, preview
from secateur.recipes.reading import Read, read_recipe
from secateur.recipes.run import RunResult, run_recipe
from secateur.recipes.schema import Recipe
from secateur.recipes.template import write_template

__all__ = [
    "Preview",
    "Read",
    "Recipe",
    "RunResult",
    "compare_runs",
    "preview",
    "read_recipe",
    "report_run",
    "run_recipe",
    "write_template",
]
