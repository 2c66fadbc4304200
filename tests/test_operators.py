"""Model libraries import in a process of their own, whichever build of torchvision is there."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

CODE = """
from secateur.models import load_model
loaded = load_model({spec!r})
print(tuple(loaded.model(loaded.example_inputs).shape))
"""


@pytest.mark.parametrize("spec", ["torchvision:resnet18", "timm:resnet18"])
def test_a_library_imports(spec: str) -> None:
    """In a fresh process, for conftest.py declares operators of its own in this one."""
    library = spec.partition(":")[0]
    if importlib.util.find_spec(library) is None:
        pytest.skip(f"needs {library}")
    done = subprocess.run(
        [sys.executable, "-c", CODE.format(spec=spec)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(1, 1000)"
