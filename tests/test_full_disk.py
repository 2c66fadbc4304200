"""A full disk: one clear line, nothing half-written, and everything else as it was."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.recipe_runs import server, with_small_files
from torch import nn

import secateur as sc
from recovering import images, net, same, state
from secateur.errors import RecipeError, SecateurError, WriteError
from secateur.latency.conditions import Conditions
from secateur.latency.table import LatencyTable
from secateur.models.resnet import SmallResNet
from secateur.recipes import compare_runs, report_run, run_recipe, write_template
from secateur.report import Report, Stage, write_report

resource = pytest.importorskip("resource")
for needed in ("sklearn", "matplotlib", "jinja2", "onnxruntime", "onnxscript"):
    pytest.importorskip(needed)

PIXELS = torch.zeros(2, 3, 6, 6)
NO_ROOM = r"cannot be written \((File too large|No space left on device)\); make room"


@contextlib.contextmanager
def no_room(size: int = 0) -> Iterator[None]:
    """The system itself lets no file grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def held(folder: Path) -> dict[str, bytes]:
    """Every file, with what is in it; empty ones are none."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    found = {name: path.read_bytes() for name, path in files.items() if path.is_file()}
    assert not [name for name in files if ".secateur-" in name], "a draft was left"
    return {name: content for name, content in found.items() if content}


def bias(model: nn.Module) -> float:
    """A measure that costs nothing."""
    return sum(float(parameter.detach().abs().sum()) for parameter in model.parameters())


def search(model: nn.Module, path: Path) -> None:
    sc.prune(
        model, PIXELS, budget={"macs": 0.8}, allocation="evolution:generations=1,population=4",
        evaluate=bias, journal=path,
    )  # fmt: skip


def quantized(model: nn.Module, path: Path) -> None:
    from secateur.export import quantize

    quantize(model, PIXELS, path, [(PIXELS, None)])


def latency(model: nn.Module, path: Path) -> None:
    conditions = Conditions("A", "cpu", 2, "Linux", "torch", "torch 2", "float32", 1)
    LatencyTable(conditions, 8).save(path)


WRITES: dict[str, Callable[[nn.Module, Path], Any]] = {
    "save": sc.save,
    "export": lambda model, path: sc.export(model, PIXELS, path),
    "quantize": quantized,
    "checkpoint": lambda model, path: sc.recover(model, images(), epochs=1, checkpoint=path),
    "cache": lambda model, path: sc.sensitivity(model, PIXELS, bias, ratios=(0.5,), cache=path),
    "journal": search,
    "latency": latency,
    "template": lambda model, path: write_template(
        "secateur.models:small_resnet", path, input_shapes=[(1, 1, 8, 8)]
    ),
    "report": lambda model, path: write_report(
        Report("title", "lead", Stage(2, 2, 2, 8), Stage(1, 1, 1, 4)), path
    ),
}


SLOW = ("export", "quantize")


@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in WRITES for size in (0, 150)[: 1 + (name not in SLOW)]],
)
def test_every_write_is_whole_or_one_clear_error(name: str, size: int, tmp_path: Path) -> None:
    model, path = net(), tmp_path / "folder" / "file"
    before, expected = state(model), copy.deepcopy(model)
    with no_room(size), pytest.raises(SecateurError, match=NO_ROOM) as caught:
        WRITES[name](model, path)
    said = str(caught.value)
    # Quantising begins with a file of its own, elsewhere.
    assert "\n" not in said and (str(path) in said or "dense.onnx" in said), said
    assert same(state(model), before)
    # A journal is a line for every trial: those before are whole, and worth to be kept.
    lines = b"".join(held(tmp_path).values())
    assert not lines or (name in ("cache", "journal") and lines.endswith(b"\n"))
    if name not in SLOW:
        WRITES[name](model, path)
        assert held(tmp_path)
        WRITES[name](expected, tmp_path / "elsewhere")
        assert same(state(model), state(expected)), "as if there always had been room"


@pytest.mark.parametrize("name", ["save", "latency", "report"])
def test_what_was_there_before_stays(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    WRITES[name](net(), path)
    kept = held(tmp_path)
    with no_room(), pytest.raises(WriteError, match="cannot be written"):
        WRITES[name](net(1), path)
    assert held(tmp_path) == kept


RECIPE = """\
name: full
model: {source: "secateur.models.resnet:SmallResNet", kwargs: {widths: [8, 16], blocks: 1}}
data: {source: "digits:8", batch_size: 256}
steps:
  - finetune: {epochs: 1, lr: 0.05}
  - prune: {budget: {macs: 0.6}, allocation: "evolution:generations=1,population=4"}
  - export
  - quantize: {batches: 1}
report: {seconds: 0.05}
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe, and the run of it that always had room."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "full.yaml").write_text(RECIPE)
    run_recipe(folder / "full.yaml", out=folder / "run")
    return folder


def weights_in(run: Path) -> dict[str, torch.Tensor]:
    dense = SmallResNet(widths=(8, 16), blocks=1)
    return sc.load(dense, run / "model.safetensors").state_dict()


@pytest.mark.slow
def test_a_run_goes_on_whichever_file_there_was_no_room_for(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full at each file in turn, as that is to take its name."""
    run, refused = tmp_path / "run", []
    real = os.replace

    def full(source: Any, target: Any) -> None:
        path = Path(target)
        name = path.relative_to(run).as_posix() if path.is_relative_to(run) else ""
        if name and name not in refused:
            refused.append(name)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        real(source, target)

    monkeypatch.setattr(os, "replace", full)
    for attempt in range(40):
        try:
            run_recipe(whole / "full.yaml", out=run, resume=attempt > 0)
            break
        except RecipeError as error:
            said = str(error)
            assert "\n" not in said and "No space left" in said and "make room" in said, said
            assert not list(run.rglob(".secateur-*"))
            assert not (run / refused[-1]).exists(), "the file took its name"
    wanted = {
        *("environment.json", "recipe.yaml", "metrics.jsonl", "model.safetensors"),
        *("report.html", "latency.json", "stages/00-start", "stages/01-finetune"),
        *("stages/02-prune", "stages/03-export", "stages/04-quantize"),
        *("exports/model.onnx", "exports/quantized.onnx"),
        "checkpoints/01-finetune/checkpoint.safetensors",
    }
    # A stage is written as a draft of its own, with the weights in it.
    kinds = {name for name in refused if not name.startswith("stages/.secateur-")}
    assert kinds - {"tensorboard"} == wanted
    assert same(weights_in(run), weights_in(whole / "run"))


def test_pages_about_runs_are_whole_or_not_there(whole: Path, tmp_path: Path) -> None:
    page = (whole / "run" / "report.html").read_bytes()
    with no_room(500), pytest.raises(WriteError, match=r"report\.html cannot be written"):
        report_run(whole / "run")
    assert (whole / "run" / "report.html").read_bytes() == page
    shutil.copytree(whole / "run", tmp_path / "other")
    with no_room(500), pytest.raises(WriteError, match=r"both\.html cannot be written"):
        compare_runs([whole / "run", tmp_path / "other"], tmp_path / "both.html")
    assert {path.name for path in tmp_path.iterdir()} == {"other"}


def test_a_run_from_its_first_file_on(whole: Path, tmp_path: Path) -> None:
    """In a process of its own, which cannot write a file of weights."""
    said, tell = server().Pipe(duplex=False)
    arguments = (str(whole / "full.yaml"), str(tmp_path / "run"), tell)
    run = server().Process(target=with_small_files, args=arguments)
    run.start()
    run.join()
    message = said.recv()
    assert "00-start cannot be written" in message and "File too large" in message
    assert "\n" not in message
    assert not list((tmp_path / "run").rglob("weights.safetensors"))
