"""How a batch is computed in skipping mode, and when leaving out pays."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

__all__ = ["Bucket", "Choice", "Flow", "Policy"]

# Decisions whose indices are remembered for the next input with the same one.
REMEMBERED = 64


@dataclasses.dataclass(eq=False)
class Choice:
    """Some indices of a dimension.

    Attributes
    ----------
    index : Tensor of int64
        In order.
    key : bytes
        Equal for equal choices.
    prefix : bool
        Whether it is the first so many, which needs no copy.
    """

    index: Tensor
    key: bytes
    prefix: bool

    @classmethod
    def of(cls, chosen: np.ndarray) -> Choice:
        """The choice of a mask.

        Examples
        --------
        >>> Choice.of(np.array([True, True, False])).prefix
        True
        """
        index = np.flatnonzero(chosen)
        prefix = bool(len(index)) and int(index[-1]) == len(index) - 1
        return cls(torch.from_numpy(index), chosen.tobytes(), prefix)

    def __len__(self) -> int:
        return len(self.index)

    def take(self, tensor: Tensor, dim: int) -> Tensor:
        """The chosen part of a tensor; a view where it is the first so many."""
        if self.prefix:
            return tensor.narrow(dim, 0, len(self.index))
        return tensor.index_select(dim, self.index.to(tensor.device))


@dataclasses.dataclass(eq=False)
class Bucket:
    """Examples of a batch for which the same units are open."""

    rows: Tensor
    mask: np.ndarray


@dataclasses.dataclass(eq=False)
class Flow:
    """How one batch goes through the layers of a site.

    Attributes
    ----------
    mask : ndarray of bool or None
        ``[units]``: open in all examples, computed alone.
    buckets : list of Bucket
        Where examples differ; empty if they do not, or if computing everything is faster.
    """

    mask: np.ndarray | None = None
    buckets: list[Bucket] = dataclasses.field(default_factory=list)
    _choices: dict[int, Choice] = dataclasses.field(default_factory=dict)

    def choice(self, layer: int, units: np.ndarray | None) -> Choice:
        """The open indices of a dimension whose units these are; None where it has each once.

        Every layer of a site asks, for every input: each answer is worked out once.
        """
        assert self.mask is not None
        key = 0 if units is None else layer
        if key not in self._choices:
            chosen = self.mask if units is None else self.mask[units] | (units < 0)
            self._choices[key] = Choice.of(chosen)
        return self._choices[key]

    @property
    def dense(self) -> bool:
        """Whether everything is computed, and closed units are multiplied by zero."""
        return self.mask is None and not self.buckets


@dataclasses.dataclass
class Policy:
    """When computing only what is open is faster, as measured on this machine.

    Times are of all layers of a site, in seconds. Without a measurement everything closed is left
    out, and batches are split into buckets.

    Attributes
    ----------
    dense : (float, float)
        For one example, and for each further one.
    skipping : list of (float, float, float)
        Share of open units, and the same two times, by growing share.
    """

    dense: tuple[float, float] | None = None
    skipping: list[tuple[float, float, float]] = dataclasses.field(default_factory=list)
    _known: OrderedDict[bytes, Flow] = dataclasses.field(default_factory=OrderedDict, repr=False)

    def seconds(self, share: float, examples: int) -> float:
        """Expected time of skipping at a share of open units."""
        shares, first, further = zip(*self.skipping, strict=True)
        return float(
            np.interp(share, shares, first) + (examples - 1) * np.interp(share, shares, further)
        )

    def sparse(self, share: float, examples: int = 1) -> bool:
        """Whether leaving out is expected to be faster than computing everything."""
        if self.dense is None:
            return True
        return self.seconds(share, examples) < self.dense[0] + (examples - 1) * self.dense[1]

    def flow(self, opened: Tensor) -> Flow:
        """How to compute a batch.

        Parameters
        ----------
        opened : Tensor
            ``[examples, units]`` of 0 and 1.

        Examples
        --------
        >>> flow = Policy().flow(torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]))
        >>> [(bucket.rows.tolist(), bucket.mask.tolist()) for bucket in flow.buckets]
        [([0, 2], [True, False]), ([1], [True, True])]
        """
        mask = opened.detach().cpu().numpy() > 0
        if len(mask) == 1 or bool((mask == mask[:1]).all()):
            return self._shared(mask)
        if not bool(mask.any(1).all()):
            return Flow()
        patterns: dict[bytes, list[int]] = {}
        for row, pattern in enumerate(mask):
            patterns.setdefault(pattern.tobytes(), []).append(row)
        buckets = [Bucket(torch.tensor(rows), mask[rows[0]]) for rows in patterns.values()]
        if self.dense is not None:
            apart = sum(self.seconds(float(each.mask.mean()), len(each.rows)) for each in buckets)
            if apart >= self.dense[0] + (len(mask) - 1) * self.dense[1]:
                return Flow()
        return Flow(buckets=buckets)

    def _shared(self, mask: np.ndarray) -> Flow:
        count = len(mask)
        if not count or bool(mask[0].all()) or not bool(mask[0].any()):
            return Flow()
        if not self.sparse(float(mask[0].mean()), count):
            return Flow()
        key = mask[0].tobytes()
        if key not in self._known:
            self._known[key] = Flow(mask=mask[0])
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return self._known[key]
