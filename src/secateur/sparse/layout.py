"""How a weight full of zeros is stored: blocks of rows, and of each the columns that live.

The kernels read exactly this; ``native/interface.h`` has the same in C.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from secateur.errors import InputError

__all__ = ["HEIGHTS", "Packed", "best_height", "pack"]

HEIGHTS = (1, 4, 8, 16)
PART = 128
NARROW = 1 << 16


@dataclasses.dataclass(frozen=True)
class Packed:
    """A sparse matrix in blocks of ``height`` consecutive rows.

    Attributes
    ----------
    starts : Tensor
        int32, [blocks * parts + 1]: where the columns of a block begin in each part of 128 columns.
    columns : Tensor
        The columns of a block with anything but zeros, ascending: the bits of uint16 in int16, or
        int32 where a row has more than 65536 columns.
    values : Tensor
        float32, [stored, height].
    outputs : int
        Rows of the matrix.
    inputs : int
        Columns of the matrix.
    groups : int
        The rows are in so many equal groups, each of which begins a block.
    """

    starts: Tensor
    columns: Tensor
    values: Tensor
    outputs: int
    inputs: int
    groups: int = 1

    @property
    def height(self) -> int:
        """Rows of a block."""
        return self.values.shape[1]

    @property
    def blocks(self) -> int:
        """Blocks of all groups."""
        return self.groups * -(-(self.outputs // self.groups) // self.height)

    @property
    def parts(self) -> int:
        """Parts of 128 columns, the last one shorter."""
        return max(-(-self.inputs // PART), 1)

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        parts = (self.starts, self.columns, self.values)
        return sum(part.numel() * part.element_size() for part in parts)

    def positions(self) -> Tensor:
        """int64 column of every stored vector."""
        if self.columns.dtype == torch.int16:
            return self.columns.long() & (NARROW - 1)
        return self.columns.long()

    def dense(self) -> Tensor:
        """Return the matrix, float32 [outputs, inputs]."""
        made = self.values.new_zeros(self.blocks, self.inputs, self.height)
        counts = self.starts[:: self.parts].diff().long()
        block = torch.repeat_interleave(torch.arange(self.blocks), counts)
        made[block, self.positions()] = self.values
        rows = made.transpose(1, 2).reshape(self.groups, -1, self.inputs)
        return rows[:, : self.outputs // self.groups].reshape(self.outputs, self.inputs)

    def check(self) -> None:
        """Raise `InputError` unless the kernels can read this without leaving it."""
        fits = (
            self.starts.dtype == torch.int32
            and self.columns.dtype == (torch.int16 if self.inputs <= NARROW else torch.int32)
            and self.values.dtype == torch.float32
            and self.values.ndim == 2
            and self.height in HEIGHTS
            and self.starts.shape == (self.blocks * self.parts + 1,)
            and self.columns.shape == self.values.shape[:1]
            and all(part.is_contiguous() for part in (self.starts, self.columns, self.values))
            and int(self.starts[0]) == 0
            and int(self.starts[-1]) == len(self.columns)
            and bool((self.starts.diff() >= 0).all())
        )
        if fits:
            columns, counts = self.positions(), self.starts.diff().long()
            interval = torch.repeat_interleave(torch.arange(len(counts)), counts)
            # Ascending in every block, and none outside the part that it is listed in.
            ascending = (columns.diff() > 0) | (interval.diff() > 0)
            inside = columns // PART == interval % self.parts
            fits = bool(ascending.all() and inside.all() and (columns < self.inputs).all())
        if not fits:
            raise InputError(
                "the buffers of a sparse layer contradict each other; they were changed by hand, "
                "or belong to a layer of another shape"
            )


def pack(matrix: Tensor, height: int = 1, groups: int = 1) -> Packed:
    """Store a matrix without the vectors that are zero.

    Parameters
    ----------
    matrix : Tensor
        [outputs, inputs], floating point, on the CPU.
    height : int
        1 for single weights; 4, 8 or 16 for vectors of so many outputs at one input.
    groups : int
        Equal groups of rows, none of which shares a block with another.

    Raises
    ------
    InputError
        Where the matrix or the height is not one of these.

    Examples
    --------
    >>> packed = pack(torch.tensor([[0.0, 1.0, 0.0], [0.0, 2.0, 3.0]]))
    >>> packed.starts.tolist(), packed.columns.tolist(), packed.values.flatten().tolist()
    ([0, 1, 3], [1, 1, 2], [1.0, 2.0, 3.0])
    """
    if height not in HEIGHTS:
        raise InputError(f"a height of {height}: sparse kernels have vectors of 1, 4, 8 and 16")
    usable = matrix.is_floating_point() and matrix.device.type == "cpu"
    if not usable or matrix.ndim != 2 or not matrix.numel():
        raise InputError(
            f"sparse kernels take floating-point matrices on the CPU, not {matrix.dtype} of shape "
            f"{tuple(matrix.shape)} on {matrix.device}"
        )
    outputs, inputs = matrix.shape
    if groups < 1 or outputs % groups:
        raise InputError(f"{outputs} rows do not make {groups} equal groups")
    rows = matrix.detach().float().reshape(groups, outputs // groups, inputs)
    rows = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % height))
    blocks = rows.reshape(-1, height, inputs)
    live = (blocks != 0).any(dim=1)
    where = live.nonzero()
    if len(where) >= 1 << 31:
        raise InputError("more than 2^31 stored vectors: split the layer")
    parts = torch.nn.functional.pad(live, (0, -inputs % PART))
    counts = parts.reshape(-1, PART).sum(dim=1)
    return Packed(
        torch.cat([counts.new_zeros(1), counts.cumsum(0)]).to(torch.int32),
        where[:, 1].to(torch.int16 if inputs <= NARROW else torch.int32),
        blocks.transpose(1, 2)[live].contiguous(),
        outputs,
        inputs,
        groups,
    )


def best_height(matrix: Tensor, groups: int = 1) -> int:
    """The height that should be fastest, by how many vectors each leaves to multiply.

    A single weight needs a load of activations for every multiplication, which a taller vector
    shares between its rows; but a taller one multiplies its zeros too. The kernels multiply about
    1.8 times as fast with taller vectors.

    Examples
    --------
    >>> best_height(torch.eye(16))
    1
    >>> best_height(torch.ones(16, 1) * torch.tensor([0.0, 1.0]))
    16
    """
    rows = matrix.detach().reshape(groups, matrix.shape[0] // groups, -1) != 0

    def cost(height: int) -> float:
        padded = torch.nn.functional.pad(rows, (0, 0, 0, -rows.shape[1] % height))
        stored = padded.reshape(groups, -1, height, rows.shape[2]).any(dim=2).sum()
        return float(stored) * (1.0 if height == 1 else 0.1 + 0.55 * height)

    return min(HEIGHTS, key=cost)
