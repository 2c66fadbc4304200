"""The kernels are built by the machine's compiler, or done without after one message."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from tests.sparse_runtime import VARIANTS

from secateur.sparse import build, library

PROBE = """
import warnings, torch
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    from torch import nn
    from secateur import sparse
    torch.manual_seed(0)
    dense, images = nn.Linear(40, 30), nn.Conv2d(4, 6, 3, 2, 1, groups=2)
    with torch.no_grad():
        dense.weight.mul_(torch.rand(30, 40) > 0.8)
    x, y = torch.randn(5, 40, requires_grad=True), torch.randn(2, 4, 9, 9, requires_grad=True)
    for layer, input in ((dense, x), (images, y)):
        kind = sparse.SparseLinear if layer is dense else sparse.SparseConv2d
        for height in (1, 4):
            made = kind.from_dense(layer, height, "relu")
            found, expected = made(input), layer(input).relu()
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            one, = torch.autograd.grad(found.sum(), input)
            other, = torch.autograd.grad(expected.sum(), input)
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
print(sparse.variant(), sum("sparse kernels" in str(w.message) for w in seen))
"""


def probe(**environment: str) -> list[str]:
    """What a fresh process has for kernels, and how many messages about them it gave."""
    ran = subprocess.run(
        [sys.executable, "-c", PROBE], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.split()


def test_without_a_compiler_torch_computes_after_one_message(tmp_path: Path) -> None:
    assert probe(CC="no-such-compiler", XDG_CACHE_HOME=str(tmp_path)) == ["None", "1"]
    assert not list((tmp_path / "secateur").glob("*.so"))


def test_kernels_can_be_left_out(tmp_path: Path) -> None:
    assert probe(SECATEUR_NATIVE="0", XDG_CACHE_HOME=str(tmp_path)) == ["None", "0"]


def test_a_failing_compiler_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho 'broken: error: out of luck' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    target = tmp_path / "made" / "kernels.so"
    target.parent.mkdir()
    with pytest.raises(build.BuildError, match="out of luck"):
        build.build(target)
    assert list(target.parent.iterdir()) == []


def test_a_damaged_library_is_a_message_and_not_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "secateur").mkdir()
    (tmp_path / "secateur" / f"sparse-{build.fingerprint()}.so").write_bytes(b"\x7fELF damaged")
    monkeypatch.setattr(library, "_loaded", [])
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert library.library() is None
        assert library.library() is None
    assert len(seen) == 1 and "sparse kernels" in str(seen[0].message)


def test_the_fingerprint_follows_the_sources(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = build.fingerprint()
    shutil.copytree(build.SOURCES, tmp_path / "native")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "native")
    assert build.fingerprint() == before
    with (tmp_path / "native" / "tile.h").open("a") as file:
        file.write("/* changed */\n")
    assert build.fingerprint() != before


@pytest.mark.slow
def test_processes_that_start_together_build_once(tmp_path: Path) -> None:
    if not VARIANTS:
        pytest.skip("no compiler here")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(tmp_path)}
    running = [
        subprocess.Popen([sys.executable, "-c", PROBE], stdout=subprocess.PIPE, env=environment)
        for _ in range(3)
    ]
    assert {process.communicate()[0].decode() for process in running} == {f"{VARIANTS[-1]} 0\n"}
    assert len(list((tmp_path / "secateur").glob("*.so"))) == 1


def test_kernels_do_not_touch_the_number_of_threads() -> None:
    assert torch.get_num_threads() >= 1
    before = torch.get_num_threads()
    library.variants()
    assert torch.get_num_threads() == before
