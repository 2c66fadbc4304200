"""keep_memory makes large results find their pages in place."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource, torch
from secateur import sparse

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(12_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

torch.set_num_threads(1)
faults()
first = faults()
kept = sparse.keep_memory()
faults()
print(int(kept), first, faults())
"""


def test_pages_are_fetched_once() -> None:
    ran = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    kept, before, after = map(int, ran.stdout.split())
    if not kept:
        pytest.skip("no glibc here")
    # Huge pages make fewer of them; what counts is that they come every time, or not at all.
    assert before >= 20
    assert after < before / 10
