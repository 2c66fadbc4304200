"""Recipes: everything that a run does, in one YAML file."""

from __future__ import annotations

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
    "preview",
    "read_recipe",
    "run_recipe",
    "write_template",
]
