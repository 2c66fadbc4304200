"""Models timed against each other: what is compared with what, and what is refused."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import secateur as sc
from secateur.bench import Benchmark, Line, Machine, ModelSubject, bench, draw, open_subjects
from secateur.bench.subjects import Subject
from secateur.cli import app
from secateur.errors import FileFormatError, InputError, UnknownNameError

HERE = Machine("a processor", 2, "Linux x86_64")


def line(model: str = "m", batch: int = 1, ms: float = 2.0, **more) -> Line:
    samples = tuple(ms * factor for factor in (1.0, 1.1, 0.9, 1.0, 1.2))
    return Line(**{"model": model, "runtime": "torch", "dtype": "float32", "batch": batch,
                   "threads": 1, "samples_ms": samples} | more)  # fmt: skip


class Sleeping(Subject):
    """Takes a known time for every example."""

    def __init__(self, name: str, ms: float, order: list[str] | None = None) -> None:
        self.name, self.ms, self.order = name, ms, order

    def ready(self, runtime, dtype, batch):
        if batch > 8:
            raise InputError("it takes eight at most")

        def call() -> None:
            if self.order is not None:
                self.order.append(self.name)
            time.sleep(batch * self.ms / 1e3)

        return call


def test_times_are_those_of_the_work_and_all_take_turns() -> None:
    order: list[str] = []
    models = [Sleeping("slow", 4, order), Sleeping("fast", 1, order)]
    done = bench(models, batches=[1, 2], runs=6)
    assert [(each.model, each.batch) for each in done.lines] == [
        ("slow", 1), ("fast", 1), ("slow", 2), ("fast", 2)
    ]  # fmt: skip
    for each in done.lines:
        expected = {"slow": 4, "fast": 1}[each.model] * each.batch
        assert expected <= each.timing.median_ms < expected + 2 and each.timing.runs == 6
    assert 2 < done.ratio(done.lines[1]) < 5 and done.ratio(done.lines[0]) == 1
    assert {each.model for each in done.fastest().values()} == {"fast"}
    # Never twice in a row more often than a rotating order allows.
    assert order.count("slow") == order.count("fast")
    rows = zip(order, order[1:], order[2:], strict=False)
    assert not any(one == two == three for one, two, three in rows)


def test_what_does_not_run_is_listed_with_its_reason_and_stops_nothing() -> None:
    done = bench([Sleeping("a", 0.1)], batches=[1, 16], runs=5)
    assert [each.batch for each in done.lines] == [1]
    assert done.skipped == [("a, torch, float32, batch 16", "it takes eight at most")]
    with pytest.raises(InputError, match=r"nothing could be timed \(a, torch.*eight at most"):
        bench([Sleeping("a", 0.1)], batches=[16])


def test_models_run_in_the_dtype_batch_and_threads_that_were_asked_for() -> None:
    seen = []

    class Watching(nn.Linear):
        def forward(self, x):
            seen.append((x.dtype, self.weight.dtype, len(x), torch.get_num_threads()))
            return super().forward(x)

    model = Watching(8, 8)
    before = torch.get_num_threads()
    done = bench(
        [ModelSubject("m", model, torch.randn(2, 8))],
        batches=[1, 5], dtypes=["float32", "bfloat16"], threads=[1, 2], runs=5,
    )  # fmt: skip
    assert len(done.lines) == 8 and torch.get_num_threads() == before
    assert set(seen) == {
        (dtype, dtype, batch, threads)
        for dtype in (torch.float32, torch.bfloat16) for batch in (1, 5) for threads in (1, 2)
    }  # fmt: skip
    assert model.weight.dtype == torch.float32 and model.training


def test_every_runtime_runs_a_model_and_its_own_files(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    x = torch.randn(1, 3, 8, 8)
    path = sc.export(model, x, tmp_path / "m.onnx").path
    subjects = [ModelSubject("m", model, x), *open_subjects([str(path)])]
    done = bench(
        subjects, runtimes=["torch", "onnxruntime", "openvino"], dtypes=["float32", "bfloat16"],
        batches=[1, 3], runs=5,
    )  # fmt: skip
    found = {(each.model, each.runtime, each.dtype) for each in done.lines if each.batch == 3}
    assert found == {
        ("m", "torch", "float32"), ("m", "torch", "bfloat16"), ("m", "onnxruntime", "float32"),
        ("m", "openvino", "float32"), ("m", "openvino", "bfloat16"),
        ("m.onnx", "onnxruntime", "float32"), ("m.onnx", "openvino", "float32"),
        ("m.onnx", "openvino", "bfloat16"),
    }  # fmt: skip
    reasons = dict(done.skipped)
    assert "does not run ONNX files" in reasons["m.onnx, torch, float32, batch 1"]
    assert "own dtype" in reasons["m, onnxruntime, bfloat16, batch 1"]


def test_a_file_with_a_fixed_batch_says_so(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    x = torch.randn(2, 8)
    path = sc.export(nn.Linear(8, 4), x, tmp_path / "m.onnx", dynamic_batch=False).path
    done = bench(open_subjects([str(path)]), runtimes=["onnxruntime"], batches=[1, 2, 4], runs=5)
    assert [each.batch for each in done.lines] == [2]
    assert {why for _, why in done.skipped} == {"its batch size is fixed at 2"}


def test_results_of_another_machine_are_refused(tmp_path: Path) -> None:
    mine = Benchmark(HERE, [line(ms=1.0)])
    same = Benchmark(HERE, [line(ms=3.0), line("other")])
    assert list(mine.against(same).values()) == [pytest.approx(3.0)]
    for change in ({"processor": "b"}, {"cores": 4}, {"system": "x"}, {"accelerator": "y"}):
        theirs = Benchmark(dataclasses.replace(HERE, **change), same.lines)
        with pytest.raises(InputError, match="times of two machines do not compare"):
            mine.against(theirs)
        with pytest.raises(InputError, match="two machines"):
            mine.table(theirs)
    with pytest.raises(InputError, match="no model under the same conditions"):
        mine.against(Benchmark(HERE, [line(batch=7)]))


def test_the_json_is_read_back_and_checked(tmp_path: Path) -> None:
    done = Benchmark(HERE, [line(), line("n", 2, 5.0)], [("x", "why")])
    path = done.save(tmp_path / "new" / "b.json")
    assert Benchmark.load(path) == done
    for text in ("{}", "[]", "nonsense", json.dumps({**json.loads(path.read_text()), "lines": 3}),
                 path.read_text().replace('"runtime"', '"runtme"')):  # fmt: skip
        path.write_text(text)
        with pytest.raises(FileFormatError, match="holds no measurements"):
            Benchmark.load(path)
    with pytest.raises(FileFormatError):
        Benchmark.load(tmp_path / "absent.json")


def test_the_picture_shows_every_line() -> None:
    pytest.importorskip("matplotlib")
    lines = [line("slow", ms=4), line("fast"), line("slow", 8, 30), line("fast", 8, 20)]
    figure = draw(Benchmark(HERE, lines))
    panels = figure.axes
    assert [panel.get_title(loc="left") for panel in panels] == [
        "batch 1, 1 thread", "batch 8, 1 thread"
    ]  # fmt: skip
    for panel, own in zip(panels, (lines[:2], lines[2:]), strict=True):
        bars = [patch.get_width() for patch in panel.patches]
        assert bars == [statistics.median(each.samples_ms) for each in own]
        assert [tick.get_text() for tick in panel.get_yticklabels()] == [
            f"{each.model} · torch · float32" for each in own
        ]
    with pytest.raises(InputError, match="nothing was timed"):
        draw(Benchmark(HERE, []))


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")

    def run(*args: str) -> str:
        result = CliRunner().invoke(app, ["bench", *args], catch_exceptions=True)
        run.code = result.exit_code  # type: ignore[attr-defined]
        run.error = str(result.exception or "") + result.output  # type: ignore[attr-defined]
        return result.output

    return run


RESNET = "secateur.models:small_resnet"
SHAPE = ["--input-shape", "1x1x16x16"]


def test_the_command_times_a_saved_model_against_its_dense_one(command, tmp_path: Path) -> None:
    from secateur.models import small_resnet

    model = small_resnet()
    sc.prune(model, torch.randn(1, 1, 16, 16), budget={"macs": 0.3})
    sc.save(model, tmp_path / "small.safetensors", format="sparse")
    output = command(
        RESNET, "small.safetensors", "--model", RESNET, *SHAPE, "--batch", "4", "--runs", "5"
    )
    assert command.code == 0, command.error
    assert "small.safetensors" in output and "medians of 5 rounds" in output
    done = Benchmark.load(tmp_path / "bench.json")
    assert [each.model for each in done.lines] == [RESNET, "small.safetensors"]
    assert done.machine == Machine.here() and (tmp_path / "bench.svg").stat().st_size > 1000
    # And again, against itself.
    output = command(RESNET, *SHAPE, "--batch", "4", "--runs", "5", "--against", "bench.json",
                     "--out", "again.json")  # fmt: skip
    assert command.code == 0 and "earlier" in output


def test_the_command_refuses_another_machine_before_it_measures(command, tmp_path: Path) -> None:
    other = Benchmark(HERE, [line(RESNET)])
    other.save(tmp_path / "other.json")
    command(RESNET, *SHAPE, "--against", "other.json")
    assert command.code != 0 and "another machine (a processor, 2 cores" in command.error
    assert not (tmp_path / "bench.json").exists()


def test_what_cannot_be_opened_is_one_clear_error(command, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for args, why in [
        (["absent.onnx"], "there is no file"),
        (["small.safetensors"], "name its dense model with --model"),
        (["nonsense"], "unknown model"),
        ([RESNET, RESNET, *SHAPE], "given twice"),
    ]:
        command(*args)
        assert command.code != 0 and why in command.error, command.error
    with pytest.raises(UnknownNameError, match="did you mean 'bfloat16'"):
        bench([Sleeping("a", 1)], dtypes=["bfloat"])
    with pytest.raises(UnknownNameError, match="unknown runtime"):
        bench([Sleeping("a", 1)], runtimes=["tensorflow"])
    with pytest.raises(InputError, match="from 1 on"):
        bench([Sleeping("a", 1)], batches=[0])
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    pytest.importorskip("onnx")
    with pytest.raises(InputError, match="no ONNX file"):
        bench(open_subjects(["bad.onnx"]), runtimes=["onnxruntime"])
