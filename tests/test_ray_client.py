"""A cluster elsewhere: through the client server of a real Ray head, started for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import measures
from tests.test_engines import search

ROOT = Path(__file__).resolve().parents[1]

# A client of its own, for this process may be connected to another Ray.
CLIENT = """
import json, pathlib, sys
from tests import measures
from tests.test_engines import search

if __name__ == "__main__":
    address, folder, times = sys.argv[1:]
    dying = measures.Dying(pathlib.Path(folder), int(times))
    values, result = search(address, dying)
    print(json.dumps([values, result.plan.to_json()]))
"""


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def environment(**more: str) -> dict[str, str]:
    """Where workers find the measures, and a cluster that asks for no token."""
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": paths, "RAY_AUTH_MODE": "disabled", **more}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """That of the client server of a Ray head with two cores, of this test alone."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'secateur[ray]'")
    port = free_port()
    # Short, for the sockets of Ray lie in it.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as folder:
        log = Path(folder, "head.log")
        with log.open("w") as written:
            head = subprocess.Popen(
                [
                    Path(sys.executable).with_name("ray"), "start", "--head", "--block",
                    "--node-ip-address=127.0.0.1", f"--port={free_port()}",
                    f"--ray-client-server-port={port}", "--num-cpus=2",
                    "--include-dashboard=false", "--disable-usage-stats",
                    f"--temp-dir={folder}",
                ],
                stdout=written, stderr=subprocess.STDOUT, env=environment(), cwd=folder,
            )  # fmt: skip
        try:
            until = time.monotonic() + 120
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert head.poll() is None and time.monotonic() < until, log.read_text()
                time.sleep(0.2)
            yield f"ray://127.0.0.1:{port}"
        finally:
            head.terminate()
            head.wait(60)


def through(address: str, folder: Path, times: int, **more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", CLIENT, address, folder, str(times)],
        env=environment(**more), capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("times", [0, 1])
def test_a_search_through_a_client_server_ends_the_same(
    address: str, times: int, tmp_path: Path
) -> None:
    ran = through(address, tmp_path / "marks", times)
    assert ran.returncode == 0, ran.stderr
    values, plan = json.loads(ran.stdout.splitlines()[-1])
    here, result = search(None, measures.noisy)
    assert values == here
    assert plan == result.plan.to_json()
    assert not list((tmp_path / "marks").iterdir()), "as many workers died as were to"


@pytest.mark.slow
def test_an_address_in_the_environment_is_used(address: str, tmp_path: Path) -> None:
    ran = through("ray", tmp_path / "marks", 0, RAY_ADDRESS=address)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])[0] == search(None, measures.noisy)[0]
