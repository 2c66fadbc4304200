"""The report of a run, made anew, compared, and looked at in a browser."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from tests.pages import CHROMIUM, look_at
from tests.test_report import Page
from typer.testing import CliRunner

import secateur as sc
from secateur.cli import app
from secateur.recipes import compare_runs, report_run, run_recipe

for needed in ("sklearn", "matplotlib", "jinja2"):
    pytest.importorskip(needed)

RECIPE = """\
name: {name}
model: {{source: "secateur.models.resnet:SmallResNet", kwargs: {{widths: [8, 16], blocks: 1}}}}
data: {{source: "digits:8", batch_size: 128}}
steps:
  - finetune: {{epochs: 2, lr: 0.1}}
  - prune: {{budget: {{macs: {macs}}}, allocation: "sensitivity:steps=3"}}
  - finetune: {{epochs: 1, lr: 0.02}}
  - sparsify: {{granularity: "2:4"}}
report: {{seconds: 0.1}}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, ``half`` and ``most``."""
    folder = tmp_path_factory.mktemp("runs")
    for name, macs in (("half", 0.5), ("most", 0.8)):
        path = folder / f"{name}.yaml"
        path.write_text(RECIPE.format(name=name, macs=macs))
        run_recipe(path, out=folder / name)
    return folder


def call(*arguments: str | Path):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def words_of(path: Path) -> str:
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open and len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") for address in page.addresses)
    return " ".join(page.words).replace("\u202f", " ")


def test_the_report_of_a_run_has_every_section(runs: Path) -> None:
    text = (runs / "half" / "report.html").read_text(encoding="utf-8")
    sections = re.findall(r'<section id="([\w-]+)"', text)
    assert sections == [
        *("tradeoff", "comparison", "checks", "storage", "channels", "groups", "weights", "masks"),
        *("sensitivity", "training", "protected", "settings", "recipe"),
    ]
    words = words_of(runs / "half" / "report.html")
    stages = [
        json.loads(path.read_text()) for path in (runs / "half" / "stages").glob("*/stage.json")
    ]
    for stage in stages:
        if stage["accuracy"] is not None:
            assert f"{100 * stage['accuracy']:.2f} %" in words
    for expected in ("as fast", "allocation: sensitivity:steps=3", "50% zero", "name: half"):
        assert expected in words.replace("50 % zero", "50% zero"), expected


def test_a_report_made_anew_is_the_same_and_needs_no_data(runs: Path, tmp_path: Path) -> None:
    first = (runs / "half" / "report.html").read_bytes()
    moved = tmp_path / "moved"
    shutil.copytree(runs / "half", moved)
    (moved / "report.html").unlink()
    text = (moved / "recipe.yaml").read_text()
    (moved / "recipe.yaml").write_text(text.replace("digits:8", "parquet:/gone"))
    result = call("report", moved)
    assert result.exit_code == 0 and "report.html" in result.stdout
    again = (moved / "report.html").read_bytes()
    assert again.replace(b"parquet:/gone", b"digits:8") == first
    assert report_run(moved, tmp_path / "elsewhere.html").read_bytes() == again


def test_a_comparison_says_what_came_out_and_what_was_different(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    assert call("report", runs / "half", runs / "most", "--out", out).exit_code == 0
    words = words_of(out)
    half, most = (
        json.loads((runs / name / "stages" / "04-sparsify" / "stage.json").read_text())
        for name in ("half", "most")
    )
    for stage in (half, most):
        assert f"{100 * stage['accuracy']:.2f} %" in words
    assert "steps.2.prune.budget.macs" in words and "0.5" in words and "0.8" in words
    assert "steps.1.finetune.lr" not in words and "same machine" in words
    best = re.findall(r'<th scope="row">MACs</th>(.*?)</tr>', out.read_text(), re.DOTALL)[0]
    assert re.findall(r'data-run="(\w+)" class="best"', best) == ["half"]


def test_runs_of_one_name_are_told_apart_by_their_folders(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "half", tmp_path / "a" / "copy")
    shutil.copytree(runs / "half", tmp_path / "b" / "copy")
    out = compare_runs([tmp_path / "a" / "copy", tmp_path / "b" / "copy"], tmp_path / "c.html")
    words = words_of(out)
    assert "a/copy" in words and "b/copy" in words and "recipes are the same" in words
    assert 'class="best"' not in out.read_text()


def test_a_figure_of_a_run_and_of_what_it_left(runs: Path) -> None:
    axes = sc.plot.accuracy({name: runs / name for name in ("half", "most")}).axes[0]
    assert len(axes.get_legend().get_texts()) == 2


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda run: (run / "recipe.yaml").unlink(), "holds no run"),
        (lambda run: shutil.rmtree(run / "stages" / "03-finetune"), "not finished.*03-finetune"),
        (lambda run: (run / "latency.json").write_text("[1"), "latency.json was changed"),
        (lambda run: (run / "latency.json").write_text('{"dense": 3}'), "latency.json was changed"),
        (lambda run: (run / "environment.json").write_text("{"), "environment.json was changed"),
        (lambda run: (run / "recipe.yaml").write_text("name: x\nstps: []"), "unknown key"),
    ],
)
def test_what_is_no_whole_run_is_one_clear_line(runs, tmp_path, spoil, says: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs / "half", run)
    page = (run / "report.html").read_bytes()
    spoil(run)
    result = call("report", run)
    assert result.exit_code == 2 and len(result.stderr.strip().splitlines()) == 1
    assert re.search(says, result.stderr), result.stderr
    assert (run / "report.html").read_bytes() == page


def test_a_run_is_not_compared_with_itself(runs: Path) -> None:
    result = call("report", runs / "half", runs / "half")
    assert result.exit_code == 2 and "each given once" in result.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("kind", ["report", "comparison"])
def test_a_browser_shows_it_without_complaint(
    runs: Path, tmp_path: Path, kind: str, width: int
) -> None:
    page = runs / "half" / "report.html"
    if kind == "comparison":
        page = compare_runs([runs / "half", runs / "most"], tmp_path / "both.html")
    light, dark = (look_at(page, tmp_path, width=width, dark=dark) for dark in (False, True))
    for seen in (light, dark):
        assert seen["console"] == []
        assert seen["client"] <= width and seen["scroll"] <= seen["client"], (
            "sticks out to the side"
        )
        assert seen["scrolled"] == []
        assert seen["smallest"] > 7, "letters in pictures are too small to read"
    assert light["page"] != dark["page"] and light["ink"] != dark["ink"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_the_browser_would_have_complained(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<h1 style="width: 2000px">wide</h1><svg><text>a</text></svg><script>nothing()</script>'
    )
    seen = look_at(page, tmp_path, width=390)
    assert seen["scroll"] > 390 and "nothing is not defined" in seen["console"][0]
