"""The steps that a recipe can have, each with the options of the function that it stands for."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from secateur.allocation import as_allocation
from secateur.criteria.resolve import as_criterion
from secateur.errors import suggestion
from secateur.export import TARGETS
from secateur.latency.runtimes import as_runtime
from secateur.pruner import Pruner
from secateur.recipes.base import Entry, named
from secateur.recover import Distillation
from secateur.request import as_budget, as_granularity
from secateur.schedules.amounts import as_schedule
from secateur.sparsity.table import SparseGranularity

__all__ = ["STEPS", "Export", "Finetune", "Prune", "Quantize", "Sparsify", "Step", "StepOptions"]


class StepOptions(Entry):
    """Options of one step.

    Attributes
    ----------
    needs_data : bool
        Whether it cannot do without.
    changes_weights : bool
        Whether it leaves another model than it found.
    """

    needs_data: ClassVar[bool] = False
    changes_weights: ClassVar[bool] = True


class Distill(Entry):
    """Learn from an earlier model of the recipe; see :class:`secateur.Distillation`.

    Attributes
    ----------
    teacher : int
        The number of the step that left it; 0 for the model that the recipe starts with.
    dtype : str or None
        What the teacher runs in, such as ``bfloat16``.
    """

    teacher: int = Field(0, ge=0)
    temperature: float = Field(4.0, gt=0, allow_inf_nan=False)
    alpha: float = Field(0.5, ge=0, le=1)
    features: list[str] | dict[str, str] = Field(default_factory=list)
    feature_weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    dtype: str | None = None

    @model_validator(mode="after")
    def _of_something(self) -> Distill:
        named(lambda step: Distillation(**step.options), self)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """Those of the function."""
        return self.model_dump(exclude={"teacher"})


class QuantizeAware(Entry):
    """Train for 8-bit integers; see :func:`secateur.quantize_aware`."""

    activations: bool = True
    reduce_range: bool = True
    momentum: float = Field(0.9, ge=0, lt=1)


class Finetune(StepOptions):
    """Train; see :func:`secateur.recover`.

    Attributes
    ----------
    distill : Distill or None
        What is learned from an earlier model; ``distill: {}`` for the one that the recipe starts
        with, and all defaults.
    quantize_aware : QuantizeAware or None
        Round weights and inputs to 8 bits meanwhile; ``quantize_aware: {}`` for all defaults.
    batch_size : int or None
        Examples in a batch; the recipe's by default.
    seed : int or None
        The recipe's seed and the number of the step by default.
    """

    needs_data: ClassVar[bool] = True

    epochs: int = Field(10, ge=1)
    lr: float = Field(0.01, gt=0, allow_inf_nan=False)
    optimizer: Literal["sgd", "adamw"] = "sgd"
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(0.0, ge=0, le=1)
    clip_norm: float | None = Field(None, gt=0)
    accumulate: int = Field(1, ge=1)
    distill: Distill | None = None
    quantize_aware: QuantizeAware | None = None
    recalibrate: bool | int = True
    ema: float | None = Field(None, gt=0, lt=1)
    patience: int | None = Field(None, ge=1)
    autocast: bool = False
    channels_last: bool = False
    batch_size: int | None = Field(None, ge=1)
    seed: int | None = None


class Deciding(StepOptions):
    """What pruning and sparsifying have in common; see :func:`secateur.prune`.

    Attributes
    ----------
    batches : int
        How many training batches a criterion that looks at data is given.
    recalibrate : int
        On how many training batches batch norms are recalibrated afterwards; 0 for not.
    steps, schedule
        Of :class:`secateur.Pruner`: the budget is approached in so many steps.
    finetune : Finetune or None
        Training after every one of them.
    """

    granularity: str
    criterion: str = "magnitude"
    allocation: str = "global"
    budget: dict[str, float] | None = None
    ignore: list[str] = Field(default_factory=list)
    min_keep: int = Field(1, ge=0)
    seed: int | None = None
    verify: bool = True
    batches: int = Field(16, ge=1)
    recalibrate: int = Field(8, ge=0)
    steps: int = Field(1, ge=1)
    schedule: str = "iterative"
    finetune: Finetune | None = None

    sparse: ClassVar[bool]

    @field_validator("granularity")
    @classmethod
    def _granularity(cls, value: str) -> str:
        row = named(as_granularity, value)
        if isinstance(row, SparseGranularity) != cls.sparse:
            other = "prune" if cls.sparse else "sparsify"
            does = "takes units out" if cls.sparse else "makes zeros"
            raise ValueError(f"granularity {value!r} {does}; write it in a step {other!r}")
        return value

    @field_validator("criterion")
    @classmethod
    def _criterion(cls, value: str) -> str:
        named(as_criterion, value)
        return value

    @field_validator("allocation")
    @classmethod
    def _allocation(cls, value: str) -> str:
        named(as_allocation, value)
        return value

    @field_validator("schedule")
    @classmethod
    def _schedule(cls, value: str) -> str:
        named(as_schedule, value)
        return value

    @field_validator("budget")
    @classmethod
    def _budget(
        cls, value: dict[str, float] | None, info: ValidationInfo
    ) -> dict[str, float] | None:
        if value is not None and "granularity" in info.data:
            row = as_granularity(info.data["granularity"])
            named(lambda given: as_budget(row, given), value)
        return value

    @model_validator(mode="after")
    def _on_the_way(self) -> Deciding:
        named(lambda step: step.targets(), self)
        if self.steps == 1 and self.finetune is not None:
            raise ValueError("finetune is for several steps; write a step 'finetune' of its own")
        return self

    def targets(self) -> list[dict[str, float]]:
        """The budget after every step of the schedule."""
        # What is pruned does not matter for how much is; the class wants something to prune.
        pruner = Pruner(
            None,  # type: ignore[arg-type]
            (),
            schedule=self.schedule,
            steps=self.steps,
            granularity=self.granularity,
            budget=self.budget,
        )
        return [pruner.target(step) for step in range(1, self.steps + 1)]


class Prune(Deciding):
    """Take units out. Budgets are fractions of the model that the recipe starts with."""

    sparse: ClassVar[bool] = False

    granularity: str = "channel"
    round_to: Any = 1
    latency: str | None = None

    @field_validator("latency")
    @classmethod
    def _latency(cls, value: str | None) -> str | None:
        if value is not None:
            named(as_runtime, value)
        return value

    @field_validator("round_to")
    @classmethod
    def _round_to(cls, value: Any) -> Any:
        rules = value.values() if isinstance(value, dict) and value else [value]
        for rule in rules:
            whole = isinstance(rule, int) and not isinstance(rule, bool) and rule >= 1
            if not whole and rule != "auto":
                raise ValueError(
                    "round_to is a number from 1 on, 'auto', or one of them for every pattern of "
                    "layer names"
                )
        return value


class Sparsify(Deciding):
    """Make units zero.

    Attributes
    ----------
    compact : bool
        Then take out what has become all-zero; see :func:`secateur.compact`.
    """

    sparse: ClassVar[bool] = True

    granularity: str = "element"
    compact: bool = False


class Export(StepOptions):
    """Write a file for a runtime into ``exports/``; see :func:`secateur.export`."""

    changes_weights: ClassVar[bool] = False

    file: str = "model.onnx"
    target: str | None = None
    dynamic_batch: bool = True
    opset: int | None = None
    check: bool = True
    tolerance: float = Field(1e-4, gt=0)

    @field_validator("target")
    @classmethod
    def _target(cls, value: str | None) -> str | None:
        if value is not None and value not in TARGETS:
            raise ValueError(f"unknown target {value!r}{suggestion(value, TARGETS)}")
        return value


class Quantize(StepOptions):
    """Write the model in 8-bit integers into ``exports/``; see :func:`secateur.export.quantize`.

    Attributes
    ----------
    batches : int
        How many training batches the activations are measured on.
    finetune : Finetune or None
        Training for 8-bit integers before, with ``quantize_aware``.
    compare : bool
        Measure accuracy and latency of all four: dense and pruned, in float32 and in integers.
    """

    needs_data: ClassVar[bool] = True
    changes_weights: ClassVar[bool] = False

    file: str = "quantized.onnx"
    method: Literal["static", "dynamic"] = "static"
    per_channel: bool = True
    reduce_range: bool = True
    calibration: Literal["minmax", "entropy", "percentile"] = "minmax"
    opset: int | None = None
    batches: int = Field(8, ge=1)
    finetune: Finetune | None = None
    compare: bool = True

    @property
    def training(self) -> Finetune | None:
        """The training before it, for the integers that it will write."""
        if self.finetune is None:
            return None
        aware = self.finetune.quantize_aware or QuantizeAware.model_validate(
            {"activations": self.method == "static", "reduce_range": self.reduce_range}
        )
        return self.finetune.model_copy(update={"quantize_aware": aware})


STEPS: dict[str, type[StepOptions]] = {
    "prune": Prune,
    "sparsify": Sparsify,
    "finetune": Finetune,
    "export": Export,
    "quantize": Quantize,
}


class Step(Entry):
    """One step: the name of what is done, with its options."""

    prune: Prune | None = None
    sparsify: Sparsify | None = None
    finetune: Finetune | None = None
    export: Export | None = None
    quantize: Quantize | None = None

    @model_validator(mode="before")
    @classmethod
    def _written_short(cls, value: Any) -> Any:
        """``- export`` and ``- export:`` stand for all defaults."""
        if isinstance(value, str):
            value = {value: {}}
        if not isinstance(value, dict) or len(value) != 1:
            raise ValueError(f"a step is one of {', '.join(STEPS)}, with its options")
        return {key: {} if options is None else options for key, options in value.items()}

    @property
    def kind(self) -> str:
        """The name."""
        return next(iter(self.model_fields_set))

    @property
    def options(self) -> StepOptions:
        """The options."""
        return getattr(self, self.kind)
