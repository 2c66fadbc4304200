from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from secateur.demo import DemoResult, run_demo
from secateur.export.check import OnnxSession
from secateur.models import small_resnet
from secateur.persist import load
from secateur.plan import Plan

FILES = {
    "dense.onnx",
    "dense.safetensors",
    "metrics.json",
    "plan.json",
    "report.html",
    "small.onnx",
    "small.safetensors",
}


def test_the_whole_way(tmp_path: Path) -> None:
    """The real thing, with small images and few epochs: one test, so that it runs once."""
    log = io.StringIO()
    demo = run_demo(
        tmp_path / "new" / "demo",
        epochs=4,
        recovery_epochs=1,
        size=8,
        timed_runs=5,
        timed_seconds=0.5,
        console=Console(file=log, width=100),
    )
    every_check_passes_and_every_file_is_there(demo)
    the_model_learned_shrank_and_recovered(demo)
    the_page_shows_every_part(demo)
    the_files_hold_the_model_of_the_report(demo)
    the_numbers_are_there_for_programs(demo)
    a_log_gets_a_line_per_step(log)


def every_check_passes_and_every_file_is_there(demo: DemoResult) -> None:
    assert [check.label for check in demo.content.checks if not check.passed] == []
    assert len(demo.content.checks) == 4
    assert {path.name for path in demo.report.parent.iterdir()} == FILES


def the_model_learned_shrank_and_recovered(demo: DemoResult) -> None:
    before, after = demo.content.before, demo.content.after
    assert before.accuracy > 0.85 and after.accuracy > 0.85
    assert after.macs <= 0.5 * before.macs
    assert after.params < before.params and after.bytes < before.bytes
    assert after.file_bytes < before.file_bytes and after.onnx_bytes < before.onnx_bytes
    assert before.torch_latency.batch == 64 and before.onnx_latency.runs >= 5


def the_page_shows_every_part(demo: DemoResult) -> None:
    text = demo.report.read_text(encoding="utf-8")
    parts = ("comparison", "checks", "channels", "groups", "weights", "training", "protected")
    for part in parts:
        assert f'<section id="{part}"' in text, part
    assert "stages.2.1.conv2" in text and "fc.weight" in text


def the_files_hold_the_model_of_the_report(demo: DemoResult) -> None:
    folder = demo.report.parent
    model = load(small_resnet(), folder / "small.safetensors").eval()
    after = demo.content.after
    assert sum(parameter.numel() for parameter in model.parameters()) == after.params
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        expected = model(images)
    (actual,) = OnnxSession(folder / "small.onnx")(["x"], [images])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    plan = Plan.from_json((folder / "plan.json").read_text())
    fresh = small_resnet()
    plan.apply(fresh)
    assert fresh.conv1.weight.shape == model.conv1.weight.shape


def the_numbers_are_there_for_programs(demo: DemoResult) -> None:
    numbers = json.loads((demo.report.parent / "metrics.json").read_text())
    assert numbers["after"]["macs"] == demo.content.after.macs
    assert numbers["before"]["torch_latency"]["median_ms"] > 0
    assert list(numbers["milestones"]) == [each.label for each in demo.content.milestones]


def a_log_gets_a_line_per_step(log: io.StringIO) -> None:
    lines = log.getvalue().splitlines()
    assert len(lines) == 9
    assert lines[0].startswith("Training a small ResNet: ") and "epoch 4/4" in lines[0]


@pytest.mark.slow
def test_at_full_length_the_digits_are_learned(tmp_path: Path) -> None:
    result = run_demo(tmp_path, timed_runs=5, timed_seconds=0.5)
    assert result.content.before.accuracy > 0.97
    assert result.content.after.accuracy > 0.97
