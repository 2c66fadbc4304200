"""Layouts of sparse tensors: bit for bit there and back, as small as they say, and checked."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import FileFormatError
from secateur.packing import Packed, pack
from secateur.packing.codes import deflate, inflate, pack_codes, unpack_codes
from secateur.packing.index import Delta
from secateur.packing.tiles import cut_tiles, join_tiles

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64]


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def again(packed: Packed) -> Packed:
    """What a reader makes of the description and the parts."""
    return Packed.of(packed.describe(), dict(packed.parts))


def scattered(shape: tuple[int, ...], density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=generator)
    return values.masked_fill(torch.rand(shape, generator=generator) >= density, 0)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 13), min_size=1, max_size=4).map(lambda s: (29, *s)),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.4, 1.0]),
    dtype=st.sampled_from(DTYPES),
    deflated=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_every_tensor_comes_back_bit_for_bit(shape, density, dtype, deflated, seed) -> None:
    tensor = (4 * scattered(shape, density, seed)).to(dtype)
    packed = pack(tensor, deflated=deflated)
    if packed is None:
        assert density > 0.05 or tensor.numel() * tensor.element_size() < 5000
        return
    assert packed.nbytes < tensor.numel() * tensor.element_size()
    read = again(packed)
    assert read.layout == packed.layout and read.nbytes == packed.nbytes
    assert bits(read.unpack()) == bits(tensor) and read.unpack().dtype == dtype
    assert read.pattern()[tensor != 0].all()


def test_odd_values_come_back_too() -> None:
    tensor = scattered((50, 40), 0.05)
    tensor[0, :4] = torch.tensor([math.nan, math.inf, -math.inf, 1e-45])
    tensor[1, 0] = -0.0
    packed = pack(tensor)
    assert packed is not None
    back = packed.unpack()
    assert torch.equal(back.nan_to_num(7), tensor.nan_to_num(7))
    # The sign of a zero is the one thing that may go.
    tensor[1, 0] = 0.0
    assert bits(back) == bits(tensor)


def tiled(tile: tuple[int, ...], shape: tuple[int, ...], density: float) -> Tensor:
    grid = [-(-n // t) for n, t in zip(shape, tile, strict=True)]
    there = torch.rand(grid, generator=torch.Generator().manual_seed(3)) < density
    for axis, step in enumerate(tile):
        there = there.repeat_interleave(step, axis)
    return scattered(shape, 1.0) * there[tuple(slice(n) for n in shape)]


@pytest.mark.parametrize(
    ("tile", "shape", "layout"),
    [
        ((1, 1, 1, 1), (64, 64, 3, 3), "delta"),
        ((8, 1, 1, 1), (128, 64, 3, 3), "delta 8x1x1x1"),
        ((1, 1, 3, 3), (128, 64, 3, 3), "delta 1x1x3x3"),
        ((1, 64, 1, 1), (128, 64, 3, 3), "delta 1x64x1x1"),
        ((128, 1, 1, 1), (128, 64, 3, 3), "delta 128x1x1x1"),
        ((16, 32), (256, 512), "delta 16x32"),
        ((16, 1), (250, 100), "delta 16x1"),
        ((1, 16), (250, 160), "delta 1x16"),
    ],
)
def test_the_granularity_of_the_zeros_is_found(tile, shape, layout) -> None:
    tensor = tiled(tile, shape, 0.1)
    packed = pack(tensor)
    assert packed is not None and packed.layout == layout
    assert torch.equal(again(packed).unpack(), tensor)
    stored = (packed.pattern() != 0).float().mean()
    assert stored < 0.2 and packed.nbytes < 0.2 * tensor.numel() * 4


def test_half_of_the_entries_take_a_bitmask() -> None:
    tensor = scattered((100, 101), 0.5)
    packed = pack(tensor)
    assert packed is not None and packed.layout == "bitmask"
    there = (tensor != 0).reshape(-1).numpy()
    # NumPy's own bits, lowest first, and the values in order.
    assert (
        packed.parts["index"].numpy().tobytes() == np.packbits(there, bitorder="little").tobytes()
    )
    assert torch.equal(packed.parts["values"], tensor[tensor != 0])


def gap_bytes(there: np.ndarray, width: int) -> int:
    """Bytes of gaps in codes of a width, counted one by one."""
    top, codes, gap = 2**width - 1, 0, 0
    for present in there:
        if not present:
            gap += 1
            continue
        while gap >= top:
            gap, codes = gap - top, codes + 1
        codes, gap = codes + 1, 0
    return math.ceil(codes * width / 8)


@pytest.mark.parametrize("density", [0.3, 0.1, 0.03, 0.002])
def test_gaps_take_the_fewest_bits(density: float) -> None:
    tensor = scattered((120, 121), density)
    packed = pack(tensor)
    assert packed is not None and isinstance(packed.index, Delta)
    there = (tensor != 0).reshape(-1).numpy()
    assert len(packed.parts["index"]) == min(gap_bytes(there, width) for width in range(1, 9))


def test_gaps_of_any_length() -> None:
    there = np.zeros(400_000, bool)
    there[[0, 1, 256, 70_000, 399_999]] = True
    gaps = Delta.gaps(there)
    width, codes = Delta.best_bits(gaps)
    assert codes == len(Delta.code(gaps, width))
    index = Delta(len(there), 1, 5, width, codes)
    assert index.find(pack_codes(Delta.code(gaps, width), width)).tolist() == [
        0, 1, 256, 70_000, 399_999
    ]  # fmt: skip


def test_two_of_four_as_hardware_has_it() -> None:
    """The example of hipSPARSELt's documentation: values, and positions in ascending order."""
    rows = torch.tensor(
        [[1.0, 2, 0, 0], [0, 0, 3, 4], [0, 6, 7, 0], [0, 6, 0, 8]],
    )
    packed = pack(rows.repeat(8, 16).contiguous())
    # So few values are codes of a table, too, which changes nothing of where they stand.
    assert packed is not None and packed.layout == "2:4 shared"
    values, positions = packed.table()
    assert values.shape == positions.shape == (32, 16, 2)
    assert values[:4, 0].tolist() == [[1, 2], [3, 4], [6, 7], [6, 8]]
    assert positions[:4, 0].tolist() == [[0, 1], [2, 3], [1, 2], [1, 3]]
    # Two bits each, the first lowest: 0 1 0 1 is 0b01000100.
    assert packed.parts["index"][0] == 0b01_00_01_00


def nm(shape: tuple[int, ...], keep: int, of: int, axis: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    values = torch.randn(shape, generator=generator).movedim(axis, -1)
    scores = torch.rand(values.shape, generator=generator).unflatten(-1, (-1, of))
    there = torch.zeros_like(scores).scatter_(-1, scores.topk(keep, -1).indices, 1)
    return (values * there.flatten(-2)).movedim(-1, axis).contiguous()


@pytest.mark.parametrize(
    ("shape", "keep", "of", "axis"),
    [((48, 64), 2, 4, 1), ((48, 64), 1, 4, 1), ((48, 64, 3, 3), 2, 4, 1), ((64, 40), 2, 4, 0)],
)
def test_n_of_m_along_what_a_layer_reads(shape, keep, of, axis) -> None:
    tensor = nm(shape, keep, of, axis)
    packed = pack(tensor, tensor != 0)
    assert packed is not None and packed.layout == f"{keep}:{of}"
    assert torch.equal(again(packed).unpack(), tensor)
    assert torch.equal(again(packed).pattern(), tensor != 0)
    width = 2 * tensor.numel() * keep // of
    assert packed.nbytes == 4 * tensor.numel() * keep // of + math.ceil(width / 8)


def test_a_run_with_fewer_entries_stores_zeros() -> None:
    tensor = nm((48, 64), 1, 4)
    tensor[0, :8] = 0
    tensor[1, :4] = torch.tensor([0.0, 0.0, 0.0, 9.0])
    packed = pack(tensor)
    assert packed is not None and packed.layout == "1:4"
    values, positions = packed.table()
    assert positions[0, :2].tolist() == [[0], [0]] and not values[0, :2].any()
    assert positions[1, 0].tolist() == [3] and values[1, 0].tolist() == [9]
    assert torch.equal(packed.unpack(), tensor)


def test_a_mask_is_told_exactly_whatever_the_weights_are() -> None:
    mask = tiled((16, 32), (128, 128), 0.2) != 0
    mask[0, :] = False
    mask[5, 5] = True
    tensor = scattered((128, 128), 1.0) * mask
    tensor[5, 5] = 0
    packed = pack(tensor, mask)
    assert packed is not None
    assert torch.equal(packed.pattern(), mask) and torch.equal(packed.unpack(), tensor)


@pytest.mark.parametrize("distinct", [1, 2, 15, 32, 200, 256])
@pytest.mark.parametrize("deflated", [False, True])
def test_few_different_values_become_codes(distinct: int, deflated: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    table = torch.randn(distinct, generator=generator)
    tensor = table[torch.randint(distinct, (200, 100), generator=generator)]
    tensor = tensor * (torch.rand(200, 100, generator=generator) < 0.2)
    packed = pack(tensor, tensor != 0, deflated=deflated)
    assert packed is not None and packed.layout.endswith("shared")
    assert torch.equal(again(packed).unpack(), tensor)
    width = max(math.ceil(math.log2(distinct)), 1)
    entries = int((tensor != 0).sum())
    assert len(packed.parts["codes"]) <= math.ceil(entries * width / 8)
    assert packed.parts["table"].tolist() == sorted(
        packed.parts["table"].tolist(), key=lambda v: np.float32(v).view(np.int32)
    )


def test_huffman_codes_come_near_the_entropy() -> None:
    tensor = scattered((500, 1000), 0.1)
    plain, coded = pack(tensor), pack(tensor, deflated=True)
    assert plain is not None and coded is not None
    assert torch.equal(again(coded).unpack(), tensor)
    share = float((tensor != 0).float().mean())
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert len(coded.parts["index"]) < len(plain.parts["index"])
    assert 1 <= len(coded.parts["index"]) * 8 / tensor.numel() / entropy < 1.03


def test_what_is_dense_or_tiny_stays_dense() -> None:
    assert pack(torch.randn(64, 64)) is None
    assert pack(torch.zeros(5)) is None
    assert pack(torch.tensor(0.0)) is None


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_codes_of_any_width(data: st.DataObject) -> None:
    width = data.draw(st.integers(1, 8))
    codes = np.array(data.draw(st.lists(st.integers(0, 2**width - 1), max_size=40)), np.uint8)
    packed = pack_codes(codes, width)
    by_hand = sum(int(code) << width * place for place, code in enumerate(codes))
    assert int.from_bytes(packed.tobytes(), "little") == by_hand
    assert unpack_codes(packed, width, len(codes)).tolist() == codes.tolist()
    with pytest.raises(FileFormatError):
        unpack_codes(np.append(packed, np.uint8(0)), width, len(codes))


def test_nothing_is_inflated_beyond_what_was_said() -> None:
    bomb = deflate(np.zeros(1 << 20, np.uint8))
    for length in (0, 10, (1 << 20) - 1, (1 << 20) + 1):
        with pytest.raises(FileFormatError, match="Huffman-coded"):
            inflate(bomb, length)
    assert not inflate(bomb, 1 << 20).any()


@pytest.mark.parametrize("shape", [(7,), (7, 5), (6, 4, 3, 3)])
def test_tiles_cover_every_entry_once(shape: tuple[int, ...]) -> None:
    values = np.arange(1, math.prod(shape) + 1).reshape(shape)
    for tile in itertools.product((1, 2, 3), repeat=len(shape)):
        tiles = cut_tiles(values, tile)
        assert sorted(tiles[tiles > 0].tolist()) == values.reshape(-1).tolist()
        assert (join_tiles(tiles, shape, tile) == values).all()


def samples() -> dict[str, Packed]:
    few = scattered((40, 40), 0.2).sign() * 3
    made = {
        "delta": pack(scattered((60, 60), 0.1)),
        "bitmask": pack(scattered((60, 60), 0.5)),
        "deflated": pack(scattered((90, 90), 0.1), deflated=True),
        "runs": pack(nm((48, 64), 2, 4)),
        "blocks": pack(tiled((16, 32), (128, 130), 0.2)),
        "shared": pack(few, deflated=True),
    }
    assert all(packed is not None for packed in made.values())
    return made  # type: ignore[return-value]


SAMPLES = samples()
JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([2**31, 2**47, 2**63, 10**30, -(2**40)]),
    st.floats(allow_nan=True),
    st.text(max_size=4),
    st.lists(st.integers(-1, 2**50), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(SAMPLES)), data=st.data())
def test_a_description_that_lies_is_one_clear_error(name: str, data: st.DataObject) -> None:
    """Any one number changed to anything: a clear error, or the tensor is of the stated shape."""
    packed = SAMPLES[name]
    described = packed.describe()
    key = data.draw(st.sampled_from(sorted(described)))
    change = data.draw(st.sampled_from(["replace", "delete", "add"]))
    if change == "replace":
        described[key] = data.draw(JUNK)
    elif change == "delete":
        del described[key]
    else:
        described[data.draw(st.text(max_size=5))] = data.draw(JUNK)
    try:
        read = Packed.of(described, dict(packed.parts))
        if math.prod(read.shape) < 1 << 20:
            assert read.unpack().shape == tuple(described["shape"])
    except FileFormatError as error:
        assert "\n" not in str(error)


@settings(max_examples=300, deadline=None)
@given(name=st.sampled_from(sorted(SAMPLES)), data=st.data())
def test_damaged_parts_never_write_outside_the_tensor(name: str, data: st.DataObject) -> None:
    packed = SAMPLES[name]
    parts = dict(packed.parts)
    key = data.draw(st.sampled_from(sorted(parts)))
    part = parts[key].clone()
    change = data.draw(st.sampled_from(["bytes", "shorter", "longer", "dtype", "dims"]))
    if change == "bytes":
        raw = part.view(torch.uint8)
        for _ in range(data.draw(st.integers(1, 5))):
            raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    elif change == "shorter":
        part = part[: data.draw(st.integers(0, len(part) - 1))]
    elif change == "longer":
        part = torch.cat([part, part[:1]])
    elif change == "dtype":
        part = part.to(torch.int32)
    else:
        part = part[None]
    parts[key] = part
    try:
        read = Packed.of(packed.describe(), parts)
        tensor = read.unpack()
    except FileFormatError as error:
        assert "\n" not in str(error)
        return
    assert change == "bytes"
    assert tensor.shape == packed.shape and tensor.dtype == packed.dtype


def test_a_huge_claim_is_refused_before_anything_is_allocated() -> None:
    """Index and values of a few bytes, and a shape of 128 TiB: reading costs nothing."""
    described = SAMPLES["delta"].describe() | {"shape": [2**23, 2**24], "tile": [1, 1]}
    read = Packed.of(described, dict(SAMPLES["delta"].parts))
    assert math.prod(read.shape) == 2**47
    with pytest.raises(FileFormatError, match="no tensor"):
        Packed.of(described | {"shape": [2**24, 2**24]}, dict(SAMPLES["delta"].parts))
