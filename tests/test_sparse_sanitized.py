"""The C sources under the address and undefined-behaviour sanitizers, on random shapes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.sparse_runtime import VARIANTS

from secateur.sparse import build

DRIVER = Path(__file__).parent / "native" / "sparse_driver.c"
SANITIZE = ("-O1", "-g", "-std=gnu11", "-Wno-psabi", "-fsanitize=address,undefined",
            "-fno-sanitize-recover=all")  # fmt: skip


@pytest.mark.sanitizer
@pytest.mark.slow
@pytest.mark.parametrize("lanes", [None, 16, 8])
def test_kernels_stay_inside_their_memory(tmp_path: Path, lanes: int | None) -> None:
    """With all instruction sets that this machine has, and with vectors as wide as others have."""
    if not VARIANTS:
        pytest.skip("no compiler here")
    compiler = build.compiler()
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }\n")
    if subprocess.run([compiler, *SANITIZE, str(probe), "-o", str(tmp_path / "probe")]).returncode:
        pytest.skip("the compiler has no sanitizers")
    found = (
        build.variants() if lanes is None else [build.Variant("baseline", (f"-DLANES={lanes}",))]
    )
    having = [f"-DWITH_{variant.name.upper()}" for variant in found if variant.name != "baseline"]
    objects = []
    for name, source, flags in [
        *((v.name, "variant.c", [f"-DVARIANT={v.name}", *v.flags]) for v in found),
        ("dispatch", "dispatch.c", having),
        ("scratch", "scratch.c", []),
        ("driver", str(DRIVER), ["-I", str(build.SOURCES)]),
    ]:
        made = tmp_path / f"{name}.o"
        command = [compiler, *SANITIZE, "-fopenmp", *flags, "-c", str(build.SOURCES / source)]
        subprocess.run([*command, "-o", str(made)], check=True)
        objects.append(str(made))
    driver = str(tmp_path / "driver")
    subprocess.run([compiler, *SANITIZE, "-fopenmp", *objects, "-lm", "-o", driver], check=True)
    ran = subprocess.run(
        [driver, "60"], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "2", "UBSAN_OPTIONS": "print_stacktrace=1"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    expected = VARIANTS if lanes is None else ["baseline"]
    assert ran.stdout.split("\n")[:-1] == [f"{name}: right" for name in expected]
