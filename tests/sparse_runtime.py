"""What the tests of the sparse runtime share: every instruction set, and weights of every kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from hypothesis import strategies as st
from torch import Tensor

from secateur import sparse

VARIANTS = sparse.variants()


@contextmanager
def using(variant: str) -> Iterator[None]:
    before = sparse.variant()
    assert before is not None
    sparse.use_variant(variant)
    try:
        yield
    finally:
        sparse.use_variant(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def masked(weight: Tensor, height: int, density: float, generator: torch.Generator) -> Tensor:
    """Zeros in vectors of ``height`` rows at one column; the first rows are empty now and then."""
    rows, columns = weight.shape[0], weight[0].numel()
    blocks = -(-rows // height)
    live = torch.rand(blocks, columns, generator=generator) < density
    mask = live.repeat_interleave(height, 0)[:rows]
    if density < 1 and rows > 1:
        mask[0] = False
    return weight * mask.reshape(weight.shape)


HEIGHTS = st.sampled_from([1, 4, 8, 16])
DENSITIES = st.sampled_from([0.0, 0.1, 0.5, 1.0])
SEEDS = st.integers(0, 2**31 - 1)
