"""One HTML page that carries all that it needs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from secateur import __version__
from secateur.errors import require
from secateur.files import replacing
from secateur.report import numbers

__all__ = ["page", "write_page"]


def page(template: str, **contents: Any) -> str:
    """Fill a template in.

    Raises
    ------
    MissingExtraError
        When Jinja2 is not installed.
    """
    jinja2 = require("jinja2", "report")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("secateur.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["percent"] = numbers.percent
    environment.filters["setting"] = _setting
    environment.filters["breakable"] = _breakable
    return environment.get_template(template).render(version=__version__, **contents)


def write_page(text: str, path: str | Path) -> Path:
    """Write a page, whole or not at all; folders are made as needed."""
    path = Path(path)
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
    return path


def _breakable(text: str) -> str:
    """Let a dotted name go on in the next line after a dot or a colon."""
    markup = require("markupsafe", "report")
    return markup.Markup(re.sub(r"(?<=\w)([.:])(?=\w)", r"\1<wbr>", str(markup.escape(text))))


def _setting(value: Any) -> str:
    """A setting as people write it."""
    if isinstance(value, str):
        return value
    if value is None:
        return "none"
    if isinstance(value, (list, tuple)) and not value:
        return "none"
    return json.dumps(value, ensure_ascii=False)
