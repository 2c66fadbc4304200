"""Two processes of the CPU (gloo), started by ``accelerate launch``, and what they come to."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from recovering import losses

HERE = Path(__file__).resolve().parent


def launch(*command: str, folder: Path, fails: bool = False, way: str = "--multi_gpu") -> str:
    """Run a module or file in two processes; what they wrote to the terminal."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{HERE.parent / 'src'}{os.pathsep}{HERE}",
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "hf"),
    }
    launcher = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        way,
        "--num_processes",
        "2",
    ]
    launcher += ["--num_machines", "1", "--mixed_precision", "no", "--main_process_port", str(port)]
    done = subprocess.run(
        [*launcher, *command], env=environment, capture_output=True, text=True, timeout=180
    )
    assert bool(done.returncode) == fails, done.stdout + done.stderr
    return done.stdout + done.stderr


def compare(folder: Path, model: nn.Module, history: object) -> None:
    """Each process came to what one comes to, and both of them to the same bits."""
    known = [json.loads((folder / f"losses-{rank}.json").read_text()) for rank in range(2)]
    kept = [load_file(folder / f"weights-{rank}.safetensors") for rank in range(2)]
    assert known[0] == known[1]
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])
    for ours, one in zip(known[0], losses(history), strict=True):
        assert ours == pytest.approx(one, abs=1e-4)
    for key, value in model.state_dict().items():
        assert torch.allclose(kept[0][key], value, atol=1e-4), key
        if not value.is_floating_point():
            assert torch.equal(kept[0][key], value), key
    zeros = {key: value == 0 for key, value in model.state_dict().items() if key == "0.weight"}
    assert all(not kept[0][key][where].any() for key, where in zeros.items())
    assert zeros["0.weight"].any()
