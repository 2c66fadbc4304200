"""Pages in a real browser: what it complains about, and what sticks out to the side."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

# An iframe is as narrow as asked for, where a window has a least width.
FRAME = """<!DOCTYPE html><html><body><iframe id="page" style="border: 0; width: {width}px;
height: 900px" srcdoc="{page}"></iframe><pre id="found"></pre><script>
addEventListener("load", () => {{
  const root = document.getElementById("page").contentDocument.documentElement;
  const seen = [...root.querySelectorAll("svg text")].filter(text => text.getClientRects().length);
  const style = part => getComputedStyle(root.querySelector(part));
  const box = [...root.querySelectorAll(".panel")].filter(p => p.scrollWidth > p.clientWidth + 1);
  document.getElementById("found").textContent = JSON.stringify({{
    client: root.clientWidth, scroll: root.scrollWidth,
    scrolled: box.map(panel => panel.parentElement.id),
    smallest: Math.min(...seen.map(text => text.getBoundingClientRect().height)),
    page: style("body").backgroundColor,
    ink: style("h1").color,
  }});
}});
</script></body></html>"""


def look_at(page: Path, folder: Path, *, width: int, dark: bool = False) -> dict:
    """Open a page in headless Chromium.

    Returns
    -------
    dict
        ``client`` and ``scroll`` widths; ``scrolled``, the sections with a bar of their own;
        ``smallest``, the height of the smallest letters in pictures; colours of ``page`` and
        ``ink``; and ``console``, what the browser said of the page itself.
    """
    assert CHROMIUM is not None
    frame = folder / f"frame-{width}-{dark}.html"
    text = html.escape(page.read_text(encoding="utf-8"), quote=True)
    frame.write_text(FRAME.format(width=width, page=text), encoding="utf-8")
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr"),
            f"--user-data-dir={folder / 'profile'}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *("--virtual-time-budget=3000", "--window-size=1600,1000", "--dump-dom"),
            frame.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    found = re.search(r'<pre id="found">(\{.*?\})</pre>', done.stdout, re.DOTALL)
    assert found is not None, done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return {**json.loads(html.unescape(found[1])), "console": console}
