"""Every method has a page with its formula, a picture drawn from it, and an example of it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from docs._pictures import everything
from docs._pictures.drawing import drawn
from tests.test_docs import examples

from secateur.allocation import ALLOCATIONS
from secateur.criteria import CRITERIA
from secateur.depth import DEPTH_CRITERIA
from secateur.dynamic import GATES
from secateur.regularizers import REGULARIZERS
from secateur.schedules import DYNAMICS, SCHEDULES
from secateur.sparsity import ROWS

METHODS = Path(__file__).resolve().parents[1] / "docs" / "methods"

# Folder -> the names that it documents, and the heading under which their formula stands.
KINDS = {
    "granularities": ([*ROWS], ["Unit"]),
    "criteria": ([*CRITERIA, *DEPTH_CRITERIA], ["Score"]),
    "allocations": ([*ALLOCATIONS], ["Order", "Shares"]),
    "schedules": ([*SCHEDULES, *DYNAMICS], ["Sparsity", "Rule"]),
    "regularizers": ([*REGULARIZERS], ["Term"]),
    "dynamic": ([*GATES], ["Gate"]),
}
NAMED = [(folder, name) for folder, (names, _) in KINDS.items() for name in dict.fromkeys(names)]
FORMULA = re.compile(r"[=Σ√‖²⊙←~÷∂]|\\\||W\[")
PICTURE = re.compile(r"^!\[([^\]]+)\]\(([^)]+)\)$", re.MULTILINE)


def page_of(folder: str, name: str) -> Path:
    """The page whose title names a method."""
    found = [
        page
        for page in sorted((METHODS / folder).glob("*.md"))
        if name in re.split(r",\s*", page.read_text(encoding="utf-8").splitlines()[0].lstrip("# "))
    ]
    assert len(found) == 1, f"{folder} {name!r} has the pages {found}"
    return found[0]


def says(page: Path, text: str) -> bool:
    """Whether a text names a method that the page is about."""
    title = page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
    names = "|".join(
        re.escape(name).replace("N:M", r"\d+:\d+").replace("UNITS", r"\w+:\w+")
        for name in re.split(r",\s*", title)
    )
    return re.search(rf"(?<!\w)({names})(?!\w)", text) is not None


@pytest.mark.parametrize(("folder", "name"), NAMED)
def test_a_page_has_a_formula(folder: str, name: str) -> None:
    text = page_of(folder, name).read_text(encoding="utf-8")
    headings = "|".join(KINDS[folder][1])
    section = re.search(rf"^\*\*({headings})\.\*\*(.*?)^(\*\*|!\[)", text, re.MULTILINE | re.DOTALL)
    assert section, f"no paragraph starts with **{headings}.**"
    assert FORMULA.search(section[2])


@pytest.mark.parametrize(("folder", "name"), NAMED)
def test_a_page_shows_its_picture(folder: str, name: str) -> None:
    page = page_of(folder, name)
    shown = PICTURE.findall(page.read_text(encoding="utf-8"))
    assert [target for _, target in shown] == [f"{page.stem}.svg"]
    assert len(shown[0][0].split()) > 8, "the alternative text says what there is to see"
    root = ElementTree.fromstring(page.with_suffix(".svg").read_text(encoding="utf-8"))
    assert root.tag.endswith("svg")
    assert says(page, "".join(root.itertext())), "the picture names the method"


@pytest.mark.parametrize(("folder", "name"), NAMED)
def test_a_page_has_an_example(folder: str, name: str) -> None:
    page = page_of(folder, name)
    assert any(says(page, source) for _, source in examples(page))


def test_every_picture_is_drawn_and_every_drawing_shown() -> None:
    pages = {
        page.relative_to(METHODS).with_suffix("").as_posix() for page in METHODS.glob("*/*.md")
    }
    files = {
        file.relative_to(METHODS).with_suffix("").as_posix() for file in METHODS.rglob("*.svg")
    }
    assert set(everything()) == files == pages


@pytest.mark.parametrize("page", ["granularities/block", "schedules/agp"])
def test_a_picture_is_the_same_on_every_run(page: str) -> None:
    everything()
    assert drawn(page) == drawn(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", sorted(everything()))
def test_every_picture_can_be_drawn_anew(page: str) -> None:
    pytest.importorskip("sklearn")
    assert ElementTree.fromstring(drawn(page)).tag.endswith("svg")
