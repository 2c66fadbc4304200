"""Data that is given only once: whatever reads it again finds the same batches."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.test_criteria_layerwise import make
from torch import Tensor, nn

import secateur as sc
from secateur.criteria import CRITERIA
from secateur.errors import InputError
from secateur.observing import Spool

DTYPES = [
    torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8,
    torch.bool, torch.complex64,
]  # fmt: skip
READS_DATA = [
    (name, granularity)
    for name in sorted(CRITERIA)
    for granularity in ("channel", "element")
    if CRITERIA[name].needs_data and (granularity == "channel" or CRITERIA[name].parts)
]


def tensors() -> st.SearchStrategy[Tensor]:
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(
        lambda shape, dtype, seed: (
            torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 9
        ).to(dtype),
        shapes,
        st.sampled_from(DTYPES),
        st.integers(0, 99),
    )


def batches() -> st.SearchStrategy[Any]:
    leaves = st.one_of(tensors(), st.none(), st.integers(), st.text(max_size=3))
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3),
            st.tuples(inner, inner),
            st.dictionaries(st.text(max_size=2), inner, max_size=3),
        ),
        max_leaves=6,
    )


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


@settings(deadline=None, max_examples=60)
@given(st.lists(batches(), max_size=4))
def test_batches_come_again_as_they_were(given_: list[Any]) -> None:
    spool = Spool(iter(given_))
    for _ in range(3):
        assert same(list(spool), given_)


def test_views_come_again_as_they_were() -> None:
    whole = torch.arange(24.0).reshape(4, 6)
    conjugated = torch.view_as_complex(whole.view(4, 3, 2)).conj()
    views = [whole.t(), whole[:, ::2], whole[1:2].expand(3, 6), conjugated]
    spool = Spool(iter(views))
    for _ in range(2):
        assert same(list(spool), views)


def test_a_batch_that_is_changed_after_reading_comes_again_as_it_was() -> None:
    spool = Spool(iter([torch.zeros(3), torch.zeros(0, 2)]))
    for batch in spool:
        batch.add_(1)
    assert [float(batch.sum()) for batch in spool] == [0, 0]


def test_an_endless_iterator_gives_no_more_than_is_read() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    spool = Spool(endless())
    for wanted in (2, 1, 3):
        assert [batch for batch, _ in zip(spool, range(wanted), strict=False)][:wanted]
    assert taken == 4  # zip asks for one more than it pairs


def test_two_readers_at_once_find_every_batch() -> None:
    spool = Spool(iter([torch.full((2,), float(i)) for i in range(4)]))
    assert [[float(a[0]), float(b[0])] for a, b in zip(spool, spool, strict=True)] == [
        [float(i)] * 2 for i in range(4)
    ]


def test_the_file_goes_with_the_spool() -> None:
    def open_files() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc on this system")
    before = open_files()
    spool = Spool(iter([torch.zeros(1000)]))
    list(spool)
    assert open_files() == before + 1
    del spool
    assert open_files() == before


@pytest.mark.parametrize(("criterion", "granularity"), READS_DATA)
def test_every_criterion_takes_an_iterator(criterion: str, granularity: str) -> None:
    outcomes = []
    # FLAP judges what a layer reads, and not everything here is read by one.
    most = 0.7 if criterion == "flap" else 0.6
    for once in (False, True):
        model, data = make()
        result = sc.prune(
            model,
            data[0][0][:2],
            granularity=granularity,
            criterion=criterion,
            budget={"macs": most} if granularity == "channel" else {"sparsity": 0.5},
            data=iter(data) if once else data,
        )
        outcomes.append(
            (result.plan.to_json(), {k: v.clone() for k, v in model.state_dict().items()})
        )
    (plan, state), (other_plan, other_state) = outcomes
    assert plan == other_plan
    assert same(state, other_state)


def test_every_step_of_a_pruner_reads_an_iterator() -> None:
    losses = []
    for once in (False, True):
        model, data = make()
        pruner = sc.Pruner(
            model, data[0][0][:2], steps=3, criterion="taylor", budget={"macs": 0.5},
            data=iter(data) if once else data,
        )  # fmt: skip
        assert len(list(pruner)) == 3
        with torch.no_grad():
            losses.append(model(data[0][0]))
    assert torch.equal(*losses)


def test_a_full_disk_leaves_the_model_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        """A file on a disk that has no room."""

        def seek(self, *_: int) -> int:
            return 0

        def write(self, _: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self) -> None:
            pass

    monkeypatch.setattr("tempfile.TemporaryFile", Full)
    model, data = make()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(InputError, match=r"No space left on device.*pass a DataLoader or a list"):
        sc.prune(model, data[0][0][:2], criterion="taylor", data=iter(data))
    assert same(before, dict(model.state_dict()))


def test_an_iterator_that_raises_is_heard() -> None:
    def broken() -> Iterator[Any]:
        yield make()[1][0]
        raise RuntimeError("the reader broke")

    model: nn.Module = make()[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="the reader broke"):
        sc.prune(model, make()[1][0][0][:2], criterion="taylor", data=broken())
    assert same(before, dict(model.state_dict()))
