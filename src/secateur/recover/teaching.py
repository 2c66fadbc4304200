"""A teacher beside the model that is trained: what it says of a batch, as part of the loss."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from secateur.engines.fingerprint import fingerprint
from secateur.errors import InputError
from secateur.inputs import Inputs, evaluating
from secateur.plan import history
from secateur.recover.batches import device_of, forward
from secateur.recover.distillation import Distillation
from secateur.recover.features import Features
from secateur.recover.kept import removed_by
from secateur.recover.scores import divergence

__all__ = ["Teaching"]


class Teaching:
    """Distillation as it happens; see `Distillation` for what is minimised.

    The teacher runs in eval mode and without gradients. It is never changed: its modes, its
    buffers and what its code caches are as before when `ready` ends. Another precision runs on a
    copy.

    Parameters
    ----------
    student, teacher : torch.nn.Module
    distillation : Distillation

    Raises
    ------
    InputError
        When the teacher is the model, or shares parameters with it that are trained.
    UnknownNameError
        For a module of `features` that is not there.
    """

    def __init__(self, student: nn.Module, teacher: nn.Module, distillation: Distillation) -> None:
        if not isinstance(teacher, nn.Module):
            raise InputError(f"teacher must be a torch.nn.Module, not {type(teacher).__name__}")
        trained = {id(p): name for name, p in student.named_parameters() if p.requires_grad}
        shared = next((trained[id(p)] for p in teacher.parameters() if id(p) in trained), None)
        if teacher is student or shared is not None:
            why = "is the model itself" if teacher is student else f"shares {shared!r} with it"
            raise InputError(
                f"the teacher must stay as it is while the model is trained, and it {why}; "
                "pass copy.deepcopy(model), made before pruning"
            )
        self.distillation = distillation
        self.original = teacher
        self.teacher = teacher
        if distillation.precision is not None:
            self.teacher = copy.deepcopy(teacher).to(distillation.precision)
        self._device = device_of(self.teacher)
        self.features: Features | None = None
        if distillation.pairs:
            plans = history(student) if distillation.plan is None else [distillation.plan]
            removed = removed_by([plan for plan in plans if plan.removed], teacher)
            self.features = Features(student, self.teacher, distillation.pairs, removed or None)

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Hold the teacher in eval mode; afterwards it is as it was."""
        with evaluating(self.teacher):
            yield

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the features of both models, around a forward pass of the student and `loss`."""
        with contextlib.nullcontext() if self.features is None else self.features.caught():
            yield

    def loss(
        self, inputs: Inputs, output: Any, targets: Any, plain: Callable[[], Tensor]
    ) -> Tensor:
        """The loss of one batch.

        Parameters
        ----------
        inputs : Inputs
            What the student was given.
        output : Any
            What the student made of it.
        targets : Any
        plain : callable
            Gives the loss on the targets.

        Raises
        ------
        InputError
            When the teacher's outputs or features do not fit the model's.
        """
        wanted = self.distillation
        inputs = inputs.replaced(self._given)
        with torch.no_grad():
            taught = forward(self.teacher, inputs, "the teacher")
        parts = []
        if wanted.alpha < 1:
            parts.append((1 - wanted.alpha) * plain())
        if wanted.alpha > 0:
            parts.append(wanted.alpha * divergence(output, taught, targets, wanted.temperature))
        if self.features is not None:
            parts.append(wanted.feature_weight * self.features.distance(inputs))
        return torch.stack([part.float() for part in parts]).sum()

    def step(self) -> None:
        """Follow one step of the student's optimizer."""
        if self.features is not None:
            self.features.step()

    def described(self) -> dict[str, Any]:
        """What a checkpoint says of the teacher and of what is learned from it."""
        return {**self.distillation.described(), "teacher": fingerprint(self.original)[:16]}

    def state(self) -> Any:
        """What a checkpoint holds; `load` takes it back."""
        return None if self.features is None else self.features.state()

    def load(self, state: Any) -> None:
        if self.features is not None:
            self.features.load(state)

    def _given(self, name: str, tensor: Tensor) -> Tensor:
        """An input as the teacher takes it."""
        dtype = self.distillation.precision if tensor.is_floating_point() else None
        return tensor.to(device=self._device, dtype=dtype or tensor.dtype)
