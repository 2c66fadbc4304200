from __future__ import annotations

import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

from secateur.allocation import Curve, Sensitivity
from secateur.errors import MissingExtraError
from secateur.profiling.latency import Timing
from secateur.recover import Epoch, History
from secateur.report import (
    Check,
    CoupledGroup,
    Histogram,
    MaskedWeight,
    Milestone,
    Point,
    Report,
    Stage,
    Width,
    comparison,
    render,
    write_report,
)
from secateur.report.figures.coupling import choose_groups
from secateur.report.numbers import bytes_text, change, count, percent, times


def timing(name: str, median: float) -> Timing:
    return Timing(name, tuple(median * (1 + 0.01 * i) for i in range(-5, 6)), 2, "cpu", 64)


def history(epochs: int, start: float) -> History:
    return History(
        [
            Epoch(
                number=n,
                loss=start / n,
                accuracy=1 - start / (3 * n),
                lr=0.1,
                seconds=1.0,
                val_loss=start / n + 0.02,
                val_accuracy=1 - start / (2.8 * n),
            )
            for n in range(1, epochs + 1)
        ]
    )


def resnet_like(stages: int = 3, blocks: int = 3) -> tuple[list[Width], list[CoupledGroup]]:
    """Layers and groups as a residual network has them."""
    widths, groups = [Width("conv1", 16, 11)], []
    for stage in range(stages):
        width, kept = 16 << stage, (11 << stage) - stage
        makers = [] if stage else ["conv1"]
        readers = []
        for block in range(blocks):
            name = f"stages.{stage}.{block}"
            shortcut = bool(stage) and not block
            inner = kept - 2 * block - 1
            widths.append(Width(f"{name}.conv1", width, inner))
            widths.append(Width(f"{name}.conv2", width, kept))
            groups.append(
                CoupledGroup(
                    f"{name}.conv1.weight", width, inner, (f"{name}.conv1",), (f"{name}.conv2",), 5
                )
            )
            if shortcut:
                widths.append(Width(f"{name}.shortcut.0", width, kept))
                makers.append(f"{name}.shortcut.0")
            else:
                readers.append(f"{name}.conv1")
            makers.append(f"{name}.conv2")
        if stage + 1 < stages:
            readers += [f"stages.{stage + 1}.0.conv1", f"stages.{stage + 1}.0.shortcut.0"]
        else:
            readers.append("fc")
        groups.append(
            CoupledGroup(f"{makers[0]}.weight", width, kept, tuple(makers), tuple(readers), 12)
        )
    widths.append(Width("fc", 10, 10))
    return widths, groups


def zeroed(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.normal(size=shape) * (rng.random(shape) > 0.5)


def sample() -> Report:
    widths, groups = resnet_like()
    rng = np.random.default_rng(0)
    histograms = []
    for width in widths[:12]:
        edges = np.linspace(-0.4, 0.4, 61)
        before = np.histogram(rng.normal(0, 0.09, 4000), edges)[0]
        after = np.histogram(rng.normal(0, 0.11, 1900), edges)[0]
        histograms.append(Histogram(f"{width.layer}.weight", edges, before, after))
    return Report(
        title="A small ResNet, pruned to half its MACs",
        lead="Trained, pruned, recovered and exported on scikit-learn's handwritten digits.",
        before=Stage(
            6_612_480, 174_970, 174_970, 706_000, 0.9926, 711_000, 705_000,
            timing("dense", 18.2), timing("dense", 11.4),
        ),
        after=Stage(
            3_301_120, 81_004, 80_950, 330_000, 0.9889, 342_000, 331_000,
            timing("pruned", 12.9), timing("pruned", 6.6),
        ),
        milestones=[
            Milestone("dense, trained", 0.9926),
            Milestone("right after pruning", 0.412),
            Milestone("batch norms recalibrated", 0.871),
            Milestone("recovered", 0.9889),
        ],
        checks=[
            Check("The smaller model equals the masked one", "largest difference 2.4e-06"),
            Check("The budget is met", "49.9 % of the MACs remain, 50 % were allowed"),
            Check("Loaded from the file it gives the same outputs", "270 of 270 bit for bit"),
            Check("ONNX Runtime gives the same outputs", "differs by 0.3", passed=False),
        ],
        widths=widths,
        histograms=histograms,
        groups=groups,
        histories={"training": history(8, 1.9), "recovery": history(4, 0.4)},
        skipped=[("conv1.weight, dim 1", "a model input"), ("fc.weight, dim 0", "<the output>")],
        settings={"criterion": "magnitude", "budget": {"macs": 0.5}, "ignore": [], "seed": 0},
        environment={"secateur": "0.1.0", "torch": "2.13.0", "threads": "2"},
        notes=["Latency was measured with both models taking turns in one run."],
        points=[
            Point("dense, trained", 6_612_480, 0.9926),
            Point("pruned", 3_301_120, 0.412),
            Point("recovered", 3_301_120, 0.9889),
            Point("quantized small.onnx", 3_301_120, 0.9815, int8=True),
        ],
        masks=[
            MaskedWeight("conv1.weight", zeroed(rng, (16, 3, 3, 3)), (9, 3)),
            MaskedWeight("fc.weight", zeroed(rng, (10, 64)), (40, 40)),
        ],
        scan=Sensitivity(0.9, (Curve("conv1", 16, (4, 8), (0.9, 0.7), 0.9),), (0.25, 0.5), "", ""),
        recipe="name: sample\nsteps: [export]\n",
    )  # fmt: skip


class Page(HTMLParser):
    """Checks that elements close in order, and collects the identifiers and the text."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr", "wbr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        for key, value in attrs:
            if key == "id":
                self.ids.append(value)
            if key in ("href", "src", "xlink:href"):
                self.addresses.append(value)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (self.open[-3:], tag)
        self.open.pop()

    def handle_data(self, data):
        if data.strip() and self.open[-1] not in ("style",):
            self.words.append(data.strip())


@pytest.fixture(scope="module")
def page_text() -> str:
    return render(sample())


def test_the_page_is_well_formed_and_loads_nothing(page_text: str) -> None:
    page = Page(page_text)
    assert not page.open
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") for address in page.addresses)
    assert not re.search(r"@import|url\((?!#)|<script|<link|<img", page_text)
    targets = {address[1:] for address in page.addresses}
    targets |= set(re.findall(r"url\(#([^)]*)\)", page_text))
    assert targets <= set(page.ids)


def test_everything_that_was_measured_is_on_the_page(page_text: str) -> None:
    words = " ".join(Page(page_text).words).replace("\u202f", " ")
    for expected in (
        "99.26 %", "98.89 %", "6.61 M", "3.30 M", "175 k", "81.0 k", "711 kB", "705 kB", "18.2 ms",
        "6.60 ms", "1.41× as fast", "1.73× as fast", "batch 64, 2 threads, cpu", "41.20 %",
        "largest difference 2.4e-06", "fc.weight, dim 0", "<the output>", '{"macs": 0.5}', "2.13.0",
        "recovery", "stages.2.2.conv2", "11 of 16", "taking turns",
        "the first 9 × 3 of 16 outputs × 3 inputs, kernels of 3 × 3", "name: sample",
    ):  # fmt: skip
        assert expected in words, expected


def test_equal_contents_give_equal_pages(page_text: str) -> None:
    assert render(sample()) == page_text


def test_pictures_take_their_colours_from_the_page(page_text: str) -> None:
    drawings = re.findall(r"<svg viewBox.*?</svg>", page_text, re.DOTALL)
    drawings = [drawing for drawing in drawings if "<text" in drawing]
    assert len(drawings) == 16, "eight pictures, wide and narrow"
    for drawing in drawings:
        assert "#0101" not in drawing
        assert "var(--after)" in drawing
        assert not re.search(r"(fill|stroke): #(?!0{6}|f{6})", drawing)


def test_a_report_may_hold_only_two_profiles(tmp_path) -> None:
    report = Report("Title", "Lead", Stage(10, 5, 5, 20), Stage(10, 5, 4, 20))
    path = write_report(report, tmp_path / "new" / "report.html")
    text = path.read_text(encoding="utf-8")
    assert not Page(text).open
    assert "Latency" not in text and "Accuracy" not in text and "Nothing was protected" in text


def test_the_comparison_never_hides_what_grew_or_stayed() -> None:
    rows = {row.label: row for row in comparison(Stage(10, 5, 5, 20), Stage(20, 5, 4, 25))}
    assert rows["MACs"].gain == "2.00× more"
    assert rows["Parameters"].gain == "unchanged"
    assert rows["Non-zero parameters"].gain == "1.25× fewer"
    assert rows["Memory"].gain == "1.25× larger"


def test_a_slower_model_is_called_slower() -> None:
    before = Stage(1, 1, 1, 1, torch_latency=timing("dense", 2.0))
    after = Stage(1, 1, 1, 1, torch_latency=timing("pruned", 4.0))
    row = comparison(before, after)[-1]
    assert row.gain == "0.50× as fast"
    assert row.kept == pytest.approx(2.0)


def test_many_groups_are_cut_to_what_a_picture_holds() -> None:
    _, groups = resnet_like(stages=4, blocks=30)
    chosen = choose_groups(groups)
    layers = {layer for group in chosen for layer in group.makers + group.readers}
    assert len(chosen) <= 28
    assert len(layers) <= 64 or len(chosen) == 1
    assert chosen == [group for group in groups if group in chosen]
    report = Report("t", "l", Stage(1, 1, 1, 1), Stage(1, 1, 1, 1), groups=groups)
    assert "smaller groups are left out" in render(report)


def test_many_layers_are_cut_to_those_that_lost_most() -> None:
    widths = [Width(f"layer{n}", 100, 100 - n) for n in range(90)]
    text = render(Report("t", "l", Stage(1, 1, 1, 1), Stage(1, 1, 1, 1), widths=widths))
    assert "the 30 layers that lost least" in text
    assert ">layer89<" in text and ">layer3<" not in text


def test_without_matplotlib_the_message_names_the_extra(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"secateur\[report\]"):
        render(sample())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (count(0), "0"),
        (count(999), "999"),
        (count(999_600), "1.00 M"),
        (count(12_345), "12.3 k"),
        (bytes_text(12), "12 B"),
        (bytes_text(123_456), "123 kB"),
        (percent(1.0), "100.0 %"),
        (times(3, 0), "∞"),
        (times(0, 0), "1.00×"),
        (change(10, 10), "±0 %"),
        (change(10, 12.5), "+25.0 %"),
        (change(0, 1), "—"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    assert text.replace("\u202f", " ") == expected
