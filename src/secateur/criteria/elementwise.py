"""Criteria that score every weight on its own and add up: one chunked sweep over each tensor."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from secateur.criteria.base import Criterion, Kind

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["ElementwiseCriterion", "Workspace", "sums_along", "working_dtype"]

# Working copies of 8 MB stay in cache, and few enough that threads seldom wait for each other;
# on an accelerator launches cost more than memory.
CHUNK_CPU = 1 << 21
CHUNK_ACCELERATOR = 1 << 25

Elements = Callable[[Tensor, "Tensor | None"], Tensor]


class ElementwiseCriterion(Criterion):
    """Base of criteria whose score is a sum over elements.

    A weight is read once, chunk by chunk, for all of its pruned dimensions together, so a model
    in bfloat16 is scored in float32 without a float32 copy of any weight. An element that one
    class holds on two dimensions (the diagonal of a square weight on a residual stream) counts
    once for each.
    """

    parts: ClassVar[bool] = True

    @abstractmethod
    def elements(self, weight: Tensor, grad: Tensor | None) -> Tensor:
        """Score every element.

        Parameters
        ----------
        weight, grad : Tensor of float32 or float64
            Working copies of a chunk of a weight and of its gradient, of one shape: they may
            be overwritten.

        Returns
        -------
        Tensor
            Scores of the same shape.
        """

    def member_scores(
        self, member: Member, weight: Tensor, grad: Tensor | None, kind: Kind
    ) -> Tensor | None:
        return sums_along(self.elements, weight, grad, [0])[0]


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the precision that scores are computed in: float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


class Workspace:
    """Memory that working copies share, from tensor to tensor.

    Allocated anew for each, small results in between would keep the freed copies' memory from
    being used again.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def take(self, name: str, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Uninitialised memory; what was taken under the same name is overwritten."""
        held = self._held.get(name)
        if held is None or held.numel() < size or (held.dtype, held.device) != (dtype, device):
            held = self._held[name] = torch.empty(size, dtype=dtype, device=device)
        return held[:size]


def sums_along(
    elements: Elements,
    weight: Tensor,
    grad: Tensor | None,
    dims: Sequence[int],
    workspace: Workspace | None = None,
) -> list[Tensor]:
    """Sum element scores over all dimensions but one, for several dimensions in one sweep.

    Parameters
    ----------
    elements : callable
        ``(weight chunk, gradient chunk) -> scores``, element by element.
    weight : Tensor
        Any floating-point dtype and memory layout.
    grad : Tensor or None
        Of the same shape.
    dims : sequence of int
        Dimensions to keep, one result each.
    workspace : Workspace, optional
        Used for working copies; one serves any number of tensors.

    Returns
    -------
    list of Tensor
        For every dimension a vector of its size, float32 (float64 for float64 weights).

    Examples
    --------
    >>> weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    >>> sums_along(lambda w, g: w.abs(), weight, None, [0, 1])
    [tensor([3., 7.]), tensor([4., 6.])]
    """
    weight = weight.detach()
    dtype = working_dtype(weight.dtype)
    # Slowest dimension first: a chunk is then a run of memory, whatever the layout.
    strides = weight.stride()
    order = sorted(range(weight.ndim), key=lambda d: (weight.shape[d] == 1, -strides[d], d))
    first, sizes = order[0], [weight.shape[d] for d in order[1:]]
    flat = weight.permute(order).flatten(1) if weight.ndim > 1 else weight[:, None]
    flat_grad = None
    if grad is not None:
        grad = grad.detach()
        flat_grad = grad.permute(order).flatten(1) if grad.ndim > 1 else grad[:, None]

    height, width = flat.shape
    limit = CHUNK_CPU if weight.device.type == "cpu" else CHUNK_ACCELERATOR
    wide = max(1, min(width, limit))
    tall = max(1, min(height, limit // wide))
    rows = torch.zeros(height, dtype=dtype, device=weight.device)
    columns = torch.zeros(width, dtype=dtype, device=weight.device)
    want_rows, want_columns = first in dims, any(d != first for d in dims)
    # Two buffers serve every chunk: fresh memory would cost more than the arithmetic.
    space, size = workspace or Workspace(), tall * wide
    buffer = space.take("weight", size, dtype, weight.device)
    grad_buffer = None if grad is None else space.take("grad", size, dtype, weight.device)
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            here = (slice(top, top + tall), slice(left, left + wide))
            chunk = _copied(flat[here], buffer)
            chunk_grad = None
            if flat_grad is not None and grad_buffer is not None:
                chunk_grad = _copied(flat_grad[here], grad_buffer)
            scores = elements(chunk, chunk_grad)
            if want_rows:
                rows[here[0]] += scores.sum(dim=1)
            if want_columns:
                columns[here[1]] += scores.sum(dim=0)

    box = columns.view(sizes)
    results = []
    for dim in dims:
        if dim == first:
            results.append(rows)
            continue
        others = [axis for axis, d in enumerate(order[1:]) if d != dim]
        results.append(box.sum(dim=others) if others else box)
    return results


def _copied(chunk: Tensor, buffer: Tensor) -> Tensor:
    return buffer[: chunk.numel()].view(chunk.shape).copy_(chunk)
