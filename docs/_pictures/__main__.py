"""Draw the pictures: all of them, or those of the pages named on the command line."""

from __future__ import annotations

import sys

import torch
from docs._pictures import everything
from docs._pictures.drawing import METHODS, drawn

# The order of sums, and by training every line, would go by the number of cores.
torch.set_num_threads(1)
PICTURES = everything()
for page in sys.argv[1:] or PICTURES:
    (METHODS / f"{page}.svg").write_text(drawn(page), encoding="utf-8")
    print(f"docs/methods/{page}.svg")
