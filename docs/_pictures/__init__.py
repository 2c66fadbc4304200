"""Pictures of the method pages, every one drawn from the method itself: ``make pictures``.

One function a picture, registered with the page that shows it; one file for methods of a kind.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def everything() -> dict[str, Callable[[], Figure]]:
    """The page of every picture, and what draws it."""
    for module in pkgutil.iter_modules(__path__):
        if module.name != "__main__":
            importlib.import_module(f"{__name__}.{module.name}")
    return importlib.import_module(f"{__name__}.drawing").PICTURES
