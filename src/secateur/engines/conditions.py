"""Settings of this process that change what a model computes, to be set in others alike."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from secateur.engines.base import Work

__all__ = ["Conditioned", "Conditions"]


@dataclasses.dataclass(frozen=True)
class Conditions:
    """Numerical settings of a process.

    Attributes
    ----------
    threads : int
        Of PyTorch: sums are split among them, and so are rounded differently.
    dtype : torch.dtype
        What new tensors are.
    precision : str
        Of products of float32 matrices.
    deterministic : bool
    warn_only : bool
    gradients : bool
        Whether operations are recorded for gradients.
    """

    threads: int
    dtype: torch.dtype
    precision: str
    deterministic: bool
    warn_only: bool
    gradients: bool

    @classmethod
    def here(cls) -> Conditions:
        """Those of this process.

        Examples
        --------
        >>> Conditions.here().dtype
        torch.float32
        """
        return cls(
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.is_grad_enabled(),
        )

    def set(self) -> None:
        """Make them those of this process."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.set_grad_enabled(self.gradients)


@dataclasses.dataclass(frozen=True)
class Conditioned:
    """Work that is done under the conditions of the process it comes from."""

    work: Work
    conditions: Conditions = dataclasses.field(default_factory=Conditions.here)

    def __call__(self, task: Any) -> float:
        self.conditions.set()
        return self.work(task)
