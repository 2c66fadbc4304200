"""Journals: what was tried out is not tried out again, and only where it holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tests import measures
from tests.test_engines import Best, make

import secateur as sc
from secateur.engines import Journal, fingerprint
from secateur.errors import FileFormatError, InputError

ABOUT = {"model": "m", "seed": "0"}


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("engine", ["in_process", "processes:2"])
def test_a_search_that_was_interrupted_goes_on(engine: str, tmp_path: Path) -> None:
    (tmp_path / "calls").mkdir()
    journal = tmp_path / "runs" / "search.jsonl"
    net, x = make()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    counting = measures.Counting(tmp_path / "calls")
    options = {"allocation": Best(), "budget": {"params": 0.5}, "journal": journal}
    interrupted = measures.Interrupted(tmp_path / "calls", after=5)
    # The same measure, seen from the journal.
    type(interrupted).__qualname__ = type(counting).__qualname__
    with pytest.raises(KeyboardInterrupt):
        sc.prune(net, x, evaluate=interrupted, **options)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    # The dense model is measured twice.
    assert len(lines(journal)) == 1 + 4

    result = sc.prune(net, x, evaluate=counting, engine=engine, **options)
    assert len(lines(journal)) == 1 + 12
    assert len(counting.calls) == 13, "what was known was not tried out again"

    fresh, _ = make()
    assert sc.prune(fresh, x, evaluate=counting, **{**options, "journal": None}).plan == result.plan
    assert len(counting.calls) == 26
    fresh, _ = make()
    assert sc.prune(fresh, x, evaluate=counting, **options).plan == result.plan
    assert len(counting.calls) == 26


def test_another_budget_shares_what_is_known(tmp_path: Path) -> None:
    counting = measures.Counting(tmp_path / "calls")
    counting.folder.mkdir()
    for budget in (0.7, 0.3):
        net, x = make()
        sc.prune(
            net, x, allocation=Best(), budget={"params": budget}, evaluate=counting,
            journal=tmp_path / "search.jsonl",
        )  # fmt: skip
    assert len(counting.calls) == 13


@pytest.mark.parametrize("other", ["model", "seed", "evaluate"])
def test_a_journal_of_something_else_is_refused(other: str, tmp_path: Path) -> None:
    journal = tmp_path / "search.jsonl"
    net, x = make()
    sc.prune(net, x, allocation=Best(), evaluate=measures.noisy, journal=journal)
    content = journal.read_bytes()
    net, x = make()
    if other == "model":
        with torch.no_grad():
            net[0].weight[0, 0, 0, 0] += 1e-3  # type: ignore[index, operator]
    evaluate = measures.threads if other == "evaluate" else measures.noisy
    with pytest.raises(InputError, match=f"is of another {other} .*name another file"):
        sc.prune(
            net, x, allocation=Best(), evaluate=evaluate, journal=journal, seed=int(other == "seed")
        )
    assert journal.read_bytes() == content


@pytest.mark.parametrize(
    "content",
    [b"text\n", b'{"secateur": "plan", "format": 1, "model": "m", "seed": "0"}\n', b"[1]\n",
     b'{"secateur": "journal", "format": 2, "model": "m", "seed": "0"}\n', b"\xff\n", b"no line",
     b'{"secateur": "journal", "format": 1, "model": "m", "seed": "0"}\n{"key": "a"}\n',
     b'{"secateur": "journal", "format": 1, "model": "m", "seed": "0"}\n'
     b'{"key": "a", "value": NaN}\n'],
)  # fmt: skip
def test_what_is_no_journal_is_left_alone(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="not a journal"):
        Journal(path, ABOUT)
    assert path.read_bytes() == content


def test_a_line_that_was_cut_short_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    journal = Journal(path, ABOUT)
    journal.add("a", 0.1)
    whole = path.read_bytes()
    journal.add("b", 1 / 3)
    for end in range(len(whole), path.stat().st_size):
        path.write_bytes((whole + b'{"key": "b", "value": 0.3333333333333333}\n')[:end])
        assert Journal(path, ABOUT).keys() == ["a"]
        assert path.read_bytes() == whole
    again = Journal(path, ABOUT)
    again.add("b", 1 / 3)
    assert Journal(path, ABOUT)["b"] == 1 / 3


def test_a_folder_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="folder"):
        Journal(tmp_path, ABOUT)


def test_steps_have_no_journal_in_common(tmp_path: Path) -> None:
    net, x = make()
    with pytest.raises(InputError, match="a journal is of one model"):
        sc.Pruner(net, x, steps=2, journal=tmp_path / "a.jsonl")


def test_fingerprints_see_every_bit_and_no_place() -> None:
    net, _ = make()
    same, _ = make()
    assert fingerprint(net) == fingerprint(same)
    for name, tensor in same.state_dict().items():
        kept = tensor.clone()
        flat = tensor.view(-1)
        flat[-1] = flat[-1] + 1
        assert fingerprint(same) != fingerprint(net), name
        tensor.copy_(kept)
    assert fingerprint(same.bfloat16()) != fingerprint(net)
