"""Reading in shares: what each of several processes reads of a batch."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from ranked_run import Noting, write_pictures
from recovering import images
from secateur.data import load_data
from secateur.ranks import ALONE, Ranks
from secateur.recover.sharing import rows_of, shares_of


def ranks_of(size: int) -> list[Ranks]:
    made = [Ranks() for _ in range(size)]
    for rank, each in enumerate(made):
        each.rank, each.size = rank, size
    return made


def test_rows_are_shared_out_once_each() -> None:
    for size in (1, 2, 3, 5):
        ranks = ranks_of(size)
        for total in range(1, 12):
            shares = [rows_of(total, each) for each in ranks]
            rows = [row for own, share in shares if share for row in range(total)[own]]
            assert rows == list(range(total))
            assert sum(share for _, share in shares) == pytest.approx(1)


@pytest.mark.parametrize("size", [2, 3, 12])
def test_shares_make_up_the_batches(size: int, tmp_path: Path) -> None:
    """Of a loader, with workers too, and of files of which some are no images."""
    write_pictures(tmp_path)
    files = load_data(f"folder:{tmp_path}", size=6).train.batches(9)
    for batches in (
        DataLoader(Noting(), 11), DataLoader(Noting(), 11, num_workers=1), files,
    ):  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole = list(batches)
            shares = [list(shares_of(batches, each, 0)) for each in ranks_of(size)]
        assert len(whole) > 2 and {len(own) for own in shares} == {len(whole)}
        for inputs, labels in (own[0] for own in shares):
            assert torch.equal(inputs, whole[0][0]) and torch.equal(labels, whole[0][1])
        for number, (inputs, labels) in enumerate(whole[1:], 1):
            parts = [own[number] for own in shares]
            assert len({part.of for part in parts}) == 1
            assert all(len(part.batch[1]) >= max(part.count, 1) for part in parts)
            rows = [part.batch for part in parts if part.count]
            assert torch.equal(torch.cat([each[0] for each in rows]), inputs)
            assert torch.equal(torch.cat([each[1] for each in rows]), labels)


class Drawing(Noting):
    """Adds noise to what it gives."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        inputs, label = super().__getitem__(index)
        return inputs + torch.randn_like(inputs), label


def test_what_a_data_set_draws_leaves_the_order_alone() -> None:
    torch.manual_seed(0)
    one, two = (shares_of(DataLoader(Drawing(), 11), each, 5) for each in ranks_of(2))
    before = torch.get_rng_state()
    first, second = list(one), list(two)
    drawn = torch.get_rng_state()
    assert torch.equal(first[0][0], second[0][0]), "the first batch is the same in both"
    plain = Noting().inputs
    noise = [first[1].batch[0] - plain[11:16], second[1].batch[0][:5] - plain[16:21]]
    assert not torch.allclose(noise[0], noise[1])
    torch.set_rng_state(before)
    for _ in range(2):
        list(DataLoader(Noting(), 11))
    assert torch.equal(torch.get_rng_state(), drawn), "as much as a loader draws by itself"


def test_batches_that_are_more_than_their_rows_are_read_whole() -> None:
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(Noting())

    drawing = Noting()
    drawing.generator = torch.Generator()
    two = ranks_of(2)[0]
    for batches in (
        images(),
        DataLoader(Noting(), 11, collate_fn=lambda rows: rows),
        DataLoader(Stream(), 11),
        DataLoader(Noting(), batch_size=None),
        DataLoader(drawing, 11),
    ):
        assert shares_of(batches, two, 0) is None
    assert shares_of(DataLoader(Noting(), 11), ALONE, 0) is None
