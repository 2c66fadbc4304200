"""The table of accuracy by granularity: what its page says follows from the cells."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import granularity_accuracy
from benchmarks.cifar_resnet import Augmented, CifarResNet, Images, normalised
from benchmarks.granularity_cells import GRANULARITIES, SEEDS, cells, key_of
from benchmarks.granularity_compare import (
    RESTRICTED,
    UNITS,
    compare,
    covering_pairs,
    nested,
    scores,
)
from benchmarks.granularity_page import page, summary, verdict
from benchmarks.granularity_picture import draw
from benchmarks.records import Record
from torch import nn

from secateur.sparsity import as_sparse
from secateur.weights import prunable_weights

IMAGES = 200


def cell(granularity: str, target: float, seed: int | None, right: int, **changes: object) -> dict:
    """A made-up record with so many right answers, the first ones."""
    hits = np.arange(IMAGES) < right
    record = {
        "model": "resnet20-x",
        "granularity": granularity,
        "target": target,
        "seed": seed,
        "name": granularity,
        "sparsity": target,
        "accuracy": right / IMAGES,
        "hits": np.packbits(hits).tobytes().hex(),
    }
    return {**record, **changes}


def head() -> dict:
    setting = {"model": "resnet20-x", "data": "some-images", "train": 64, "test": IMAGES}
    machine = {
        "processor": "a processor", "cores": 2, "memory_gb": 4, "threads": 1, "python": "3",
        "versions": {"torch": "2"},
    }  # fmt: skip
    return {"machine": machine, "settings": [{**setting, "batch": 32, "lr": 0.01}]}


def everything(**right: int) -> list[dict]:
    """All cells, 100 right answers but where said otherwise; `pattern` not at a half."""
    records = []
    for key in cells(["resnet20-x"]):
        _, name, target, seed = key
        record = cell(name, target, seed, right.get(name, 100))
        if name == "pattern" and target == 0.5:
            record = {k: record[k] for k in ("model", "granularity", "target", "seed")}
            record["reason"] = "too low for it"
        records.append(record)
    return records


def test_nested_is_what_the_units_say() -> None:
    """Against brute force: every unit of the finer lies within one unit of the coarser."""
    (weight,) = prunable_weights(nn.Sequential(nn.Conv2d(16, 16, 3)))
    units = {}
    for name in UNITS:
        tiling = as_sparse(name).tiling(weight)
        numbers = torch.arange(tiling.count).reshape(tiling.grid)
        units[name] = tiling.spread(numbers).flatten().tolist()
    for fine, coarse in itertools.permutations(UNITS, 2):
        held: dict[int, set[int]] = {}
        for small, large in zip(units[fine], units[coarse], strict=True):
            held.setdefault(small, set()).add(large)
        assert nested(fine, coarse) == all(len(found) == 1 for found in held.values())


def test_covering_pairs_span_the_order() -> None:
    assert {*UNITS, *RESTRICTED, "channel"} == set(GRANULARITIES)
    pairs = covering_pairs()
    assert ("element", "row") in pairs
    assert ("row", "kernel") in pairs
    assert ("kernel", "channel") in pairs
    assert ("element", "kernel") not in pairs
    reached = set(pairs)
    while more := {(a, d) for a, b in reached for c, d in reached if b == c} - reached:
        reached |= more
    assert reached == {pair for pair in itertools.permutations(GRANULARITIES, 2) if nested(*pair)}


def test_the_gain_and_its_error_are_those_of_paired_differences() -> None:
    rng = np.random.default_rng(0)
    records, gains = [], []
    for seed in SEEDS:
        fine, coarse = rng.random(IMAGES) < 0.7, rng.random(IMAGES) < 0.5
        gains.append(fine.astype(float) - coarse)
        for name, hits in (("row", fine), ("kernel", coarse)):
            packed = np.packbits(hits).tobytes().hex()
            records.append(cell(name, 0.5, seed, 0, hits=packed))
    (found,) = compare(scores(records[::-1], IMAGES), tuned=True)
    differences = np.array(gains)
    images = np.var(differences.mean(axis=0), ddof=1) / IMAGES
    seeds = np.var([row.mean() for row in differences], ddof=1) / len(SEEDS)
    assert math.isclose(found.gain, differences.mean())
    assert math.isclose(found.error, math.sqrt(images + seeds))
    assert (found.fine, found.coarse, found.verdict) == ("row", "kernel", "more")


@pytest.mark.parametrize(
    ("fine", "coarse", "zeros", "expected"),
    [
        (120, 80, (0.7, 0.7), "more"),
        (80, 120, (0.7, 0.7), "less"),
        (101, 100, (0.7, 0.7), "level"),
        (80, 120, (0.70, 0.6875), "unlike"),
        (120, 80, (0.70, 0.6875), "more"),
        (120, 80, (0.80, 0.8125), "unlike"),
        (80, 120, (0.80, 0.8125), "less"),
    ],
)
def test_verdicts(fine: int, coarse: int, zeros: tuple[float, float], expected: str) -> None:
    records = [
        cell("element", 0.7, None, fine, sparsity=zeros[0]),
        cell("N:16", 0.7, None, coarse, sparsity=zeros[1]),
    ]
    (found,) = compare(scores(records, IMAGES), tuned=False)
    assert found.verdict == expected


def test_a_mean_needs_every_seed() -> None:
    records = [cell("row", 0.5, seed, 100) for seed in (None, 0, 1)]
    assert set(scores(records, IMAGES)) == {(False, "row", 0.5)}
    records.append(cell("row", 0.5, 2, 130))
    tuned = scores(records, IMAGES)[True, "row", 0.5]
    assert math.isclose(tuned.accuracy, 0.55)
    assert math.isclose(tuned.spread, np.std([0.5, 0.5, 0.65], ddof=1))


def test_the_text_names_every_place_where_the_finer_does_not_keep_more() -> None:
    records = everything(element=150, kernel=120, shape=20, **{"vector:8": 20})
    said = verdict(compare(scores(records, IMAGES), tuned=False))
    less, level = said.split("keeps **less** in ")[1].split("No difference is measurable in ")
    assert "`row` against `kernel` at 50 % (−10.0 ± " in less
    assert "`vector:4` against `block:4x4` at 50 % (+0.0 ± 0.0)" in level
    assert "Both only guess in `vector:8` against `shape` at 50 %, 70 %" in said
    pairs = compare(scores(everything(element=150), IMAGES), tuned=False)
    more = [pair for pair in pairs if pair.fine == "element"]
    assert verdict(more).startswith(f"In {len(more)} of {len(more)} comparisons")
    assert "Nowhere does it keep less" in verdict(more)


def test_the_page_shows_the_cells_and_only_those() -> None:
    text = page(head(), everything(element=150, channel=60), same_cut=True)
    assert "| `element` | 75.0 | 75.0 | 75.0 | 75.0 | 75.0 |" in text
    assert "| `channel` | 30.0 ± 0.0 |" in text
    assert "| `pattern` |  | 50.0 |" in text
    assert "`pattern` at 50 %: too low for it." in text
    assert "so one row stands for both" in text
    assert "so one row stands for both" not in page(head(), everything(), same_cut=False)
    renamed = [cell("N:16", 0.9, None, 90, name="2:16", sparsity=0.875)]
    assert "| `N:16` |  |  |  | 87.50 (`2:16`) |  |" in page(head(), renamed, same_cut=True)


def test_the_figures_and_the_picture(tmp_path: Path) -> None:
    records = everything(element=150)
    found = json.loads(json.dumps(summary(head(), records)))["models"]["resnet20-x"]
    # One dense row, and every granularity at five sparsities but for one; both stages.
    assert len(found["cells"]) == 2 * (1 + 5 * len(GRANULARITIES) - 1)
    assert "hits" not in found["cells"][0]
    assert {pair["verdict"] for pair in found["comparisons"]} == {"more", "level"}
    pytest.importorskip("matplotlib")
    for name in ("one.svg", "two.svg"):
        draw(head(), records, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert all(f">{name}</text>" in drawn for name in GRANULARITIES)


def test_a_record_goes_on_where_it_was_ended(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "record.jsonl"
    first = Record(path, head(), key_of, resume=True)
    first.add(cell("row", 0.5, None, 100))
    with path.open("a") as file:
        file.write('{"model": "resnet20-x", "gran')
    again = Record(path, head(), key_of, resume=True)
    assert again.cells == first.cells
    again.add(cell("row", 0.5, 0, 90))
    assert set(Record(path, head(), key_of, resume=True).cells) == {
        ("resnet20-x", "row", 0.5, None),
        ("resnet20-x", "row", 0.5, 0),
    }
    other = head()
    other["settings"][0]["lr"] = 0.1
    with pytest.raises(SystemExit, match="other settings"):
        Record(path, other, key_of, resume=True)
    assert Record(path, other, key_of, resume=False).cells == {}


def test_augmented_images_are_shifted_and_mirrored_ones() -> None:
    pixels = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8)
    images = Images(pixels, torch.arange(6))
    variants = {}
    for index, image in enumerate(pixels):
        padded = nn.functional.pad(image, (4, 4, 4, 4))
        for down, right in itertools.product(range(9), repeat=2):
            crop = padded[:, down : down + 8, right : right + 8]
            for mirrored in (crop, crop.flip(2)):
                variants.setdefault(normalised(mirrored[None]).numpy().tobytes(), set()).add(index)
    batches = Augmented(images, 4, seed=0)
    seen: list[int] = []
    for inputs, labels in batches:
        for image, label in zip(inputs, labels, strict=True):
            assert int(label) in variants[normalised_bytes(image)]
            seen.append(int(label))
    assert sorted(seen) == list(range(6))
    assert len(batches) == 2
    one, other, same = (
        torch.cat([x for x, _ in Augmented(images, 4, seed=seed)]) for seed in (0, 1, 0)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def normalised_bytes(image: torch.Tensor) -> bytes:
    return image[None].contiguous(memory_format=torch.channels_last).numpy().tobytes()


def test_the_network_is_the_published_one() -> None:
    """He et al. 2016, table 6: 0.27 million parameters at depth 20, 0.85 at 56."""
    assert [
        round(sum(p.numel() for p in CifarResNet((depth - 2) // 6).parameters()) / 1e6, 2)
        for depth in (20, 56)
    ] == [0.27, 0.85]


@pytest.mark.slow
def test_a_quick_run(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_SHARED", str(shared))
    record = tmp_path / "record.jsonl"
    arguments = ["--quick", "--record", str(record), "--folder", str(tmp_path)]
    granularity_accuracy.main(arguments)
    name = granularity_accuracy.NAME
    text = (tmp_path / f"{name}.md").read_text(encoding="utf-8")
    found = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))["models"]
    (model,) = found.values()
    by_name = {(c["granularity"], c["tuned"]): c for c in model["cells"]}
    # On record: the dense network gets 88 % of all test images right.
    assert np.mean(by_name["dense", False]["accuracy"]) > 0.8
    assert by_name["element", True]["sparsity"] == 0.5
    assert len(by_name["row", True]["accuracy"]) == len(SEEDS)
    assert "so one row stands for both" in text
    assert (tmp_path / f"{name}.svg").is_file()
    measured = record.read_text(encoding="utf-8")
    granularity_accuracy.main(arguments)
    assert record.read_text(encoding="utf-8") == measured
