"""Geometric median: the filter that the others could replace goes first."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from secateur.criteria.base import CRITERIA, Criterion, Kind, View
from secateur.errors import InputError

if TYPE_CHECKING:
    from secateur.graph.coupling import Member

__all__ = ["FPGM", "summed_distances"]

# 32 MB of distances at a time, and double precision wherever it costs less than about 0.1 s.
CHUNK = 1 << 22
DOUBLE = 1 << 31


@CRITERIA.register("fpgm")
class FPGM(Criterion):
    """Summed distance to the layer's other filters (geometric median).

    He et al. 2019 (arXiv:1811.00250): a filter is its weights as one vector, signs and all, and
    its score is the sum of its Euclidean distances to all other filters of the layer; the
    smallest is nearest the geometric median and the easiest to replace. The filters compared are
    the interchangeable ones, those of one group. Time is quadratic in the number of filters of a
    layer; memory is not.

    Parameters
    ----------
    view : {"producer", "consumer", "group"}, default "producer"
        The default is the paper's. With ``"consumer"`` the vectors are the input slices of what
        reads the channel, with ``"group"`` the distances of all weight matrices are added.
    mix : float, default 0.0
        Share of the filters that goes by the smallest L2 norm first; distances then compare the
        others only (the paper's FPGM-mix, with 0.1).
    """

    name = "fpgm"

    def __init__(self, view: View = "producer", mix: float = 0.0) -> None:
        super().__init__(view)
        if not 0 <= mix < 1:
            raise InputError(f"criterion 'fpgm': mix must be at least 0 and below 1, not {mix}")
        self.mix = mix

    def member_scores(
        self, member: Member, weight: Tensor, grad: Tensor | None, kind: Kind
    ) -> Tensor | None:
        return summed_distances(weight) if self.mix == 0 else self._mixed(weight)

    def _mixed(self, rows: Tensor) -> Tensor:
        norms = rows.norm(dim=1)
        order = norms.argsort(stable=True)
        first = math.floor(self.mix * len(rows) + 1e-9)
        small, others = order[:first], order[first:].sort().values
        scores = torch.empty_like(norms)
        scores[others] = summed_distances(rows[others])
        # Never above a distance, and in the order of the norms.
        scores[small] = norms[small] - norms[order[first]]
        return scores


def summed_distances(rows: Tensor) -> Tensor:
    """Sum the Euclidean distances from every row to all rows.

    Examples
    --------
    >>> summed_distances(torch.tensor([[0.0], [1.0], [10.0]]))
    tensor([11., 10., 19.])
    """
    count, width = rows.shape
    dtype = rows.dtype
    if count * count * width <= DOUBLE and rows.device.type != "mps":
        rows = rows.double()
    # Distances do not change under translation, and small vectors lose fewer digits.
    rows = rows - rows.mean(dim=0)
    squares = rows.square().sum(dim=1)
    scores = rows.new_empty(count)
    step = max(1, CHUNK // max(count, 1))
    for start in range(0, count, step):
        block = slice(start, min(start + step, count))
        distances = torch.addmm(squares, rows[block], rows.T, alpha=-2)
        distances += squares[block, None]
        # A row is at distance 0 from itself, which the expanded square only approximates.
        distances[:, block].fill_diagonal_(0)
        scores[block] = distances.clamp_(min=0).sqrt_().sum(dim=1)
    return scores.to(dtype)
