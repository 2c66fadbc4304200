"""What every task works with: the model as a stage left it, data, example inputs."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur.data import Data, as_data, check_labels, load_data, load_part
from secateur.errors import InputError
from secateur.inputs import Inputs, as_inputs, evaluating, run
from secateur.models import load_model
from secateur.models.weights import load_weights
from secateur.persist import load
from secateur.plan import history
from secateur.ranks import ALONE, Ranks
from secateur.recipes.folder import START, RunFolder
from secateur.recipes.reading import Read
from secateur.recipes.schema import DataEntry, Recipe
from secateur.recipes.tasks import tasks_of
from secateur.recover import Score, evaluate

__all__ = ["EVALUATION_BATCH", "Work", "build", "inputs_of", "model_at", "open_work", "start"]

EVALUATION_BATCH = 256


@dataclasses.dataclass
class Work:
    """What a run works with.

    Attributes
    ----------
    read : Read
    folder : RunFolder
    data : Data or None
    inputs : Inputs
        One example that the model accepts.
    ranks : Ranks
        The processes that carry the recipe out.
    """

    read: Read
    folder: RunFolder
    data: Data | None
    inputs: Inputs
    ranks: Ranks = ALONE

    @property
    def recipe(self) -> Recipe:
        """What is to be done."""
        return self.read.recipe

    def model_at(self, stage: str) -> nn.Module:
        """The model as a stage left it, built anew.

        Every task starts with this, so that a run that was interrupted and one that was not do the
        same with the same.
        """
        return model_at(self.read, self.folder, stage)

    def model_after(self, step: int) -> nn.Module:
        """The model after the recipe's step of this number; at 0, as the run begins."""
        before = [
            task.name
            for task in tasks_of(self.recipe)
            if task.step <= step and task.options.changes_weights
        ]
        return self.model_at(before[-1] if before else START)

    def training(
        self, batch_size: int | None = None, *, seed: int, most: int | None = None
    ) -> Iterable[Any]:
        """Shuffled training batches; only the first ones, the same at every pass, on request."""
        data = self.need_data()
        entry = self.recipe.data or DataEntry.model_validate("given")
        batches = data.train.batches(batch_size or entry.batch_size, shuffle=True, seed=seed)
        return batches if most is None else First(batches, most)

    def need_data(self) -> Data:
        """The data.

        Raises
        ------
        InputError
            Where the recipe has none.
        """
        if self.data is None:
            raise InputError("this needs data; give the recipe a key data")
        return self.data

    def score(self, model: nn.Module) -> Score | None:
        """Loss and accuracy on the test part; None without data."""
        if self.data is None:
            return None
        return evaluate(model, self.data.test.batches(EVALUATION_BATCH))


class First:
    """The first batches of a loader, read once."""

    def __init__(self, batches: Iterable[Any], most: int) -> None:
        self._source: Iterable[Any] | None = batches
        self._most = most
        self._kept: list[Any] = []

    def __iter__(self) -> Any:
        if self._source is not None:
            for batch in self._source:
                self._kept.append(batch)
                if len(self._kept) == self._most:
                    break
            self._source = None
        return iter(self._kept)


def open_work(
    read: Read,
    folder: RunFolder,
    data: Data | Mapping[str, Any] | None,
    ranks: Ranks = ALONE,
) -> Work:
    """Load the data, build the model once, and see whether they fit.

    Raises
    ------
    RecipeError
        When one of them cannot be had, or labels are out of the model's range; the message names
        the key.
    """
    loaded = _load(read, data)
    model = build(read)
    with read.at("weights"):
        if read.recipe.weights is not None:
            load_weights(model, Path(read.recipe.weights).expanduser())
    with read.at("model"):
        inputs = _inputs(read, loaded)
        for plan in history(model):
            inputs = plan.narrow_inputs(inputs)
        with evaluating(model):
            output = run(model, inputs.fresh())
    with read.at("data"):
        if loaded is not None:
            _check(model, output, loaded)
    return Work(read, folder, loaded, inputs, ranks)


def model_at(read: Read, folder: RunFolder, stage: str) -> nn.Module:
    """The model as a stage left it, built anew."""
    return load(build(read), folder.weights(stage))


def build(read: Read) -> nn.Module:
    """The dense model, with the weights that its source gives it."""
    return _source(read).model


def start(read: Read) -> nn.Module:
    """The model that the run begins with."""
    model = build(read)
    with read.at("weights"):
        if read.recipe.weights is not None:
            load_weights(model, Path(read.recipe.weights).expanduser())
    return model


def _source(read: Read) -> Any:
    entry = read.recipe.model
    with read.at("model", "source"):
        return load_model(
            entry.source,
            pretrained=entry.pretrained,
            input_shapes=[tuple(shape) for shape in entry.input_shape or []],
            seed=read.recipe.seed,
            options=entry.kwargs,
        )


def _inputs(read: Read, data: Data | None) -> Inputs:
    """One example: of the shape that the recipe says, of the data, or of the model's source."""
    if data is not None and read.recipe.model.input_shape is None:
        example = data.example_inputs
        return as_inputs(example[:1] if isinstance(example, Tensor) else example)
    known = _source(read).example_inputs
    if known is None:
        raise InputError("the source does not tell what its inputs look like; give input_shape")
    return as_inputs(known)


def inputs_of(read: Read) -> Inputs:
    """One example that the recipe's model accepts, at the start."""
    return _inputs(read, _load(read, None) if read.recipe.model.input_shape is None else None)


def _load(read: Read, given: Data | Mapping[str, Any] | None) -> Data | None:
    if given is not None:
        return as_data("the data that was given", given)
    entry = read.recipe.data
    if entry is None:
        return None
    options = {"seed": read.recipe.seed, **entry.options}
    with read.at("data"):
        parts: dict[str, Any] = {}
        if entry.source is not None:
            whole = load_data(entry.source, **options)
            parts = {"train": whole.train, "val": whole.val, "test": whole.test}
        for name in ("train", "val", "test"):
            spec = getattr(entry, name)
            if spec is not None:
                parts[name] = load_part(spec, name, **options)
        return as_data(entry.source or str(entry.train), parts)


def _check(model: nn.Module, output: Any, data: Data) -> None:
    """Refuse labels that the model has no output for."""
    scores = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    _, labels = next(iter(data.train.batches(1)))
    if not isinstance(scores, Tensor) or not isinstance(labels, Tensor):
        return
    if torch.is_floating_point(labels) or scores.ndim < 2:
        return
    # Sequences have their classes last, images second.
    last = scores.ndim == labels.ndim + 1 and scores.shape[1:-1] == labels.shape[1:]
    check_labels(data, scores.shape[-1 if last else 1])
