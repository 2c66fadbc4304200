"""``python -m secateur``: the command line, as ``accelerate launch -m secateur`` starts it."""

from __future__ import annotations

from secateur.cli import app

if __name__ == "__main__":
    app(prog_name="secateur")
