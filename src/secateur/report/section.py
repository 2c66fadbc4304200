"""A table of a report with a heading of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

__all__ = ["Section"]


@dataclasses.dataclass(frozen=True)
class Section:
    """A heading, a line under it, and a table.

    Attributes
    ----------
    name : str
        Its anchor in the page.
    title, under : str
    columns : sequence of str
    rows : sequence of sequence of str
        The first cell of each is its heading.
    """

    name: str
    title: str
    under: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
