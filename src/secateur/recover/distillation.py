"""What of a teacher a model is to learn, and how much it counts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from secateur.errors import InputError, UnknownNameError, suggestion
from secateur.plan import Plan

__all__ = ["Distillation", "as_distillation"]


@dataclasses.dataclass(frozen=True)
class Distillation:
    r"""How `recover` learns from a teacher.

    The loss becomes ``(1 − α) L + α T² KL(p_t ‖ p_s)``, with L the loss on the targets and p the
    softmax of the scores over T, teacher and student (Hinton, Vinyals and Dean 2015,
    arXiv:1503.02531). T² keeps the gradient's size as T changes. The divergence is summed over
    classes and averaged over everything else (examples, tokens, pixels), as cross-entropy is.

    With `features`, ``w`` times the mean over the named layers of ``‖f_s − f_t‖² / ‖f_t‖²`` is
    added: the share of the teacher's features that is missed, so that layers of any scale count
    alike. A student that was pruned has fewer features, and is compared with those of the teacher
    that were kept, which the plans say, by the indices that the graph of the teacher carries to
    that layer. Where no plan tells, a linear map over the channels, a 1x1 convolution, takes the
    student's features to the teacher's (Romero et al. 2015, arXiv:1412.6550); it is learned along
    the way by an Adam of its own (rate 1e-3) and then dropped.

    Parameters
    ----------
    temperature : float, default 4.0
        T.
    alpha : float, default 0.5
        α, 0 to 1. 0 leaves the scores alone; 1 looks at no targets, so that batches may be
        ``(inputs, None)``.
    features : sequence or mapping of str, default ()
        Modules whose outputs are compared, by names that both models have, or student name ->
        teacher name. Of an output of several tensors, the first counts.
    feature_weight : float, default 1.0
        w.
    plan : Plan, optional
        What was removed from the teacher to make the student. By default the plans that the
        student remembers (`secateur.history`), where they fit the teacher.
    dtype : torch.dtype or str, optional
        Run a copy of the teacher in ``"bfloat16"`` or ``"float16"``. By default it runs as it is.

    Raises
    ------
    InputError
        For a value out of its range.

    Examples
    --------
    >>> Distillation(temperature=2, features=["layer3"]).pairs
    {'layer3': 'layer3'}
    """

    temperature: float = 4.0
    alpha: float = 0.5
    features: Sequence[str] | Mapping[str, str] = ()
    feature_weight: float = 1.0
    plan: Plan | None = None
    dtype: torch.dtype | str | None = None

    def __post_init__(self) -> None:
        for name in ("temperature", "feature_weight"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise InputError(f"{name} must be a positive number, not {value}")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha is the teacher's share, 0 to 1, not {self.alpha}")
        if self.alpha == 0 and not self.features:
            raise InputError("alpha=0 without features learns nothing from the teacher")
        if not (self.plan is None or isinstance(self.plan, Plan)):
            raise InputError(f"plan must be a Plan, not {type(self.plan).__name__}")
        dtype = self.precision
        if dtype is not None and not dtype.is_floating_point:
            raise InputError(f"a teacher cannot run in {dtype}; name a floating-point type")

    @property
    def pairs(self) -> dict[str, str]:
        """Module of the student -> module of the teacher."""
        if isinstance(self.features, str):
            return {self.features: self.features}
        if isinstance(self.features, Mapping):
            return dict(self.features)
        return {name: name for name in self.features}

    @property
    def precision(self) -> torch.dtype | None:
        """What the teacher runs in; None for what it is in."""
        if not isinstance(self.dtype, str):
            return self.dtype
        found = getattr(torch, self.dtype, None)
        if not isinstance(found, torch.dtype):
            raise InputError(f"{self.dtype!r} is no dtype; name one such as 'bfloat16'")
        return found

    def described(self) -> dict[str, Any]:
        """The settings in JSON values."""
        return {
            "temperature": self.temperature,
            "alpha": self.alpha,
            "features": self.pairs,
            "feature_weight": self.feature_weight,
            "plan": None if self.plan is None else self.plan.to_json(),
            "dtype": None if self.precision is None else str(self.precision),
        }


def as_distillation(value: Distillation | Mapping[str, Any] | None) -> Distillation:
    """Read ``distill=``: an object, a mapping of its options, or None for the defaults.

    Raises
    ------
    InputError
    UnknownNameError
        For an unknown option.

    Examples
    --------
    >>> as_distillation({"temperature": 2}).temperature
    2
    """
    if value is None:
        return Distillation()
    if isinstance(value, Distillation):
        return value
    if not isinstance(value, Mapping):
        raise InputError(
            f"distill must be a Distillation or a dict of its options, not {type(value).__name__}"
        )
    known = [field.name for field in dataclasses.fields(Distillation)]
    for name in value:
        if name not in known:
            raise UnknownNameError(f"distill has no option {name!r}{suggestion(str(name), known)}")
    return Distillation(**value)
