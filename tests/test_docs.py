"""The documentation keeps its word: its examples run, and every registered method has a page."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
import torch
import typer

from secateur.allocation import ALLOCATIONS
from secateur.cli import app
from secateur.criteria import CRITERIA
from secateur.depth import DEPTH_CRITERIA
from secateur.dynamic import GATES
from secateur.regularizers import REGULARIZERS
from secateur.schedules import DYNAMICS, SCHEDULES
from secateur.sparsity import ROWS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^([ ]*)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> list[tuple[int, str]]:
    """The line number and the text of every block fenced as ``python``; ``py`` is not run."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: match.start(2)].count("\n"), textwrap.dedent(match[2]))
        for match in FENCE.finditer(text)
    ]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if examples(page)],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All blocks of a page run, one after the other, in one namespace and an empty folder."""
    if "sc.export" in page.read_text(encoding="utf-8"):
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    monkeypatch.chdir(tmp_path)
    # A page may register members of its own; they must not outlive it.
    for registry in (CRITERIA, ALLOCATIONS):
        monkeypatch.setattr(registry, "_members", dict(registry._members))
    torch.manual_seed(0)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for line, source in examples(page):
        # Blank lines in front make a traceback point at the page itself.
        exec(compile("\n" * line + source, str(page), "exec"), namespace)


@pytest.mark.parametrize(
    ("folder", "names"),
    [
        ("criteria", {*CRITERIA, *DEPTH_CRITERIA}),
        ("allocations", ALLOCATIONS),
        ("granularities", ROWS),
        ("regularizers", REGULARIZERS),
        ("schedules", {*SCHEDULES, *DYNAMICS}),
        ("dynamic", GATES),
    ],
)
def test_every_method_has_a_page(folder: str, names: object) -> None:
    pages = (ROOT / "docs" / "methods" / folder).glob("*.md")
    titles = {
        name.strip()
        for page in pages
        for name in page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ").split(",")
    }
    assert titles == set(names)  # type: ignore[call-overload]


def test_every_page_is_in_the_navigation() -> None:
    """Pages, that is, which people write: benchmarks write their own."""
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [page.relative_to(ROOT / "docs").as_posix() for page in PAGES[1:]]
    written = [page for page in pages if not page.startswith(("benchmarks/", "coverage"))]
    assert [page for page in written if page not in navigation] == []


def test_the_command_line_page_names_every_option() -> None:
    command = typer.main.get_command(app)
    page = (ROOT / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")
    for name, sub in command.commands.items():  # type: ignore[attr-defined]
        assert f"## secateur {name}\n" in page
        options = {
            text
            for parameter in sub.params
            for text in (*parameter.opts, *parameter.secondary_opts)
            if text.startswith("--")
        }
        assert sorted(option for option in options if f"`{option}`" not in page) == []
