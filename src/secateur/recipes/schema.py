"""A recipe: model, weights, data and steps, as one YAML file holds them."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from secateur.engines import as_engine
from secateur.recipes.base import Entry, named
from secateur.recipes.steps import Step

__all__ = ["DataEntry", "ModelEntry", "Recipe", "ReportEntry"]


class ModelEntry(Entry):
    """The model, with random weights unless it brings its own.

    Attributes
    ----------
    source : str
        As for `secateur.models.load_model`: ``torchvision:NAME``, ``timm:NAME``,
        ``hf:CONFIG-OR-FOLDER`` or ``package.module:callable``.
    kwargs : dict
        For what builds it.
    pretrained : bool
        Download the library's weights.
    input_shape : list of lists of int, or None
        Shapes of its inputs, batch first; those of the data by default, or else the source's.
    """

    source: str
    kwargs: dict[str, Any] = Field(default_factory=dict)
    pretrained: bool = False
    input_shape: list[list[int]] | None = None

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @field_validator("input_shape", mode="before")
    @classmethod
    def _one_input(cls, value: Any) -> Any:
        if isinstance(value, list) and value and all(isinstance(each, int) for each in value):
            return [value]
        return value


class DataEntry(Entry):
    """The data: one source with its parts, or a source for every part.

    Attributes
    ----------
    source : str or None
        As for `secateur.data.load_data`.
    train, val, test : str or None
        As for `secateur.data.load_part`; instead of ``source``, or of that part of it.
    batch_size : int
        Examples in a batch.
    options : dict
        Of `secateur.data.DataOptions`; of a function, its own.
    """

    source: str | None = None
    train: str | None = None
    val: str | None = None
    test: str | None = None
    batch_size: int = Field(64, ge=1)
    options: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        return {"source": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_a_source(self) -> DataEntry:
        if self.source is None and self.train is None:
            raise ValueError("data needs a source, or train (and val and test) with one each")
        return self


class ReportEntry(Entry):
    """What the report measures beside what the steps did; ``report: false`` is for none.

    Attributes
    ----------
    enabled : bool
        Whether there is one.
    latency : bool
        Time the first and the last model in PyTorch, interleaved.
    seconds : float
        For it.
    """

    enabled: bool = True
    latency: bool = True
    seconds: float = Field(5.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        return {"enabled": value} if isinstance(value, bool) else value


class Recipe(Entry):
    """Everything that a run does.

    Attributes
    ----------
    name : str
        Of the run; its folder is ``runs/NAME``.
    model : ModelEntry
    weights : str or None
        A file that `secateur.save` wrote, or a safetensors state dict.
    data : DataEntry or None
    steps : list of Step
        In the order in which they are done.
    seed : int
        Of weights, splits, batches, augmentation and pruning.
    engine : str
        Where searches try pruned copies out; see `secateur.engines.as_engine`.
    report : ReportEntry
    """

    name: str = Field(pattern=r"^[\w.-]+$")
    model: ModelEntry
    weights: str | None = None
    data: DataEntry | None = None
    steps: list[Step] = Field(min_length=1)
    seed: int = Field(0, ge=0)
    engine: str = "in_process"
    report: ReportEntry = Field(default_factory=lambda: ReportEntry.model_validate({}))

    @field_validator("engine")
    @classmethod
    def _engine(cls, value: str) -> str:
        named(as_engine, value)
        return value
