"""What a recipe comes to, one after the other: every task ends in a stage on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from secateur.recipes.document import Key
from secateur.recipes.schema import Recipe
from secateur.recipes.steps import Deciding, Quantize, StepOptions

__all__ = ["Task", "tasks_of"]


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to do.

    Attributes
    ----------
    number : int
        Counted from 1.
    kind : str
        Which step it is.
    options : StepOptions
    key : Key
        Where it stands in the recipe.
    """

    number: int
    kind: str
    options: StepOptions
    key: Key

    @property
    def name(self) -> str:
        """Of its stage: ``02-prune``."""
        return f"{self.number:02d}-{self.kind}"

    @property
    def step(self) -> int:
        """The step of the recipe that it belongs to, counted from 1."""
        return int(self.key[1]) + 1


def tasks_of(recipe: Recipe) -> list[Task]:
    """The tasks of a recipe: steps that go in steps come apart.

    Examples
    --------
    >>> steps = [{"prune": {"steps": 2, "finetune": {}}}, "export"]
    >>> recipe = Recipe(name="x", model="timm:resnet18", steps=steps)
    >>> [task.name for task in tasks_of(recipe)]
    ['01-prune', '02-finetune', '03-prune', '04-finetune', '05-export']
    >>> tasks_of(recipe)[0].options.budget
    {'macs': 0.707...}
    """
    return [
        Task(number, kind, options, key)
        for number, (kind, options, key) in enumerate(_apart(recipe), 1)
    ]


def _apart(recipe: Recipe) -> Iterator[tuple[str, StepOptions, Key]]:
    for index, step in enumerate(recipe.steps):
        options, key = step.options, ("steps", index, step.kind)
        if isinstance(options, Quantize) and options.training is not None:
            yield "finetune", options.training, (*key, "finetune")
        if not isinstance(options, Deciding) or options.steps == 1:
            yield step.kind, options, key
            continue
        for target in options.targets():
            once = {"budget": target or None, "steps": 1, "finetune": None}
            yield step.kind, options.model_copy(update=once), key
            if options.finetune is not None:
                yield "finetune", options.finetune, (*key, "finetune")
