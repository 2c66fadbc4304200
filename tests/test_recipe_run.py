"""Recipes that are carried out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from tests.recipe_runs import SMALL
from torch.utils.data import DataLoader, TensorDataset
from typer.testing import CliRunner

import secateur
from secateur.cli import app
from secateur.costs import CostModel
from secateur.data import load_data
from secateur.errors import FileFormatError, RecipeError
from secateur.export.check import OnnxSession
from secateur.models.resnet import SmallResNet
from secateur.recipes import preview, read_recipe, run_recipe
from secateur.recipes.folder import RunFolder

pytest.importorskip("sklearn")

QUICK = """\
name: quick
model: {source: "secateur.models.resnet:SmallResNet", kwargs: {widths: [8, 16], blocks: 1}}
data: {source: "digits:8", batch_size: 256}
steps:
  - prune: {budget: {macs: 0.6}}
report: false
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick.yaml").write_text(QUICK)
    (tmp_path / "small.yaml").write_text(SMALL)
    return tmp_path


def call(*arguments: str):
    """One command in process; exceptions that are no clear error fail the test."""
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def dense() -> SmallResNet:
    return SmallResNet(widths=(8, 16), blocks=1)


def test_a_run_leaves_everything_that_it_did(folder: Path) -> None:
    """Train, prune in steps, quantise, export, report: one run, looked at from all sides."""
    for name in ("onnxruntime", "onnxscript", "matplotlib", "jinja2"):
        pytest.importorskip(name)
    values = yaml.safe_load(SMALL)
    values["steps"] = [
        {"finetune": {"epochs": 3, "lr": 0.1}},
        {"prune": {"budget": {"macs": 0.5}, "steps": 2, "finetune": {"epochs": 1, "lr": 0.02}}},
        {"export": {"file": "small.onnx"}},
        {"quantize": {"batches": 2}},
    ]
    values["report"] = {"seconds": 0.2}
    (folder / "full.yaml").write_text(yaml.safe_dump(values))
    result = call("run", "full.yaml", "seed=1", "name=full")
    assert result.exit_code == 0, result.stderr
    run = folder / "runs" / "full"
    assert {path.name for path in run.iterdir()} - {"tensorboard"} == {
        *("recipe.yaml", "environment.json", "metrics.jsonl", "model.safetensors"),
        *("exports", "stages", "checkpoints", "report.html", "latency.json"),
    }
    the_weights_are_those_of_the_last_stage(run)
    the_metrics_have_a_line_for_every_epoch_and_stage(run)
    the_exports_compute_what_the_weights_do(run)
    page = (run / "report.html").read_text()
    the_way_has_a_point_for_the_integers(run, page)
    assert "trained for 3 epochs" in page and 'id="training"' in page and 'id="groups"' in page
    assert "model.safetensors" in result.stdout and "report.html" in result.stdout
    as_run = yaml.safe_load((run / "recipe.yaml").read_text())
    assert as_run["seed"] == 1 and as_run["steps"][0]["finetune"]["momentum"] == 0.9
    assert json.loads((run / "environment.json").read_text())["torch"] == torch.__version__
    plan = secateur.Plan.from_json((run / "stages" / "02-prune" / "plan.json").read_text())
    assert plan.settings["budget"] == pytest.approx({"macs": 0.5**0.5})
    again = run_recipe("full.yaml", ["seed=1", "name=full"], resume=True)
    assert [stage["name"] for stage in again.stages] == [
        *("00-start", "01-finetune", "02-prune", "03-finetune", "04-prune", "05-finetune"),
        *("06-export", "07-quantize"),
    ]


def the_weights_are_those_of_the_last_stage(run: Path) -> None:
    model = secateur.load(dense(), run / "model.safetensors").eval()
    last = secateur.load(dense(), run / "stages" / "05-finetune" / "weights.safetensors")
    assert all(
        torch.equal(value, last.state_dict()[name]) for name, value in model.state_dict().items()
    )
    before = secateur.profile(dense(), torch.zeros(1, 1, 8, 8))
    after = secateur.profile(model, torch.zeros(1, 1, 8, 8))
    assert 0.4 * before.macs < after.macs <= 0.5 * before.macs, "of the model at the start"


def the_metrics_have_a_line_for_every_epoch_and_stage(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    epochs = [(line["step"], line["epoch"]) for line in lines if "epoch" in line]
    assert epochs == [
        *(("01-finetune", epoch) for epoch in (1, 2, 3)),
        ("03-finetune", 1),
        ("05-finetune", 1),
    ]
    stages = {line["step"]: line for line in lines if "epoch" not in line}
    assert len(stages) == 8
    assert stages["05-finetune"]["accuracy"] > 0.6 > stages["00-start"]["accuracy"]
    quantized, notes = (
        stages["07-quantize"],
        json.loads((run / "stages" / "07-quantize" / "stage.json").read_text())["notes"],
    )
    assert quantized["int8"] and quantized["accuracy"] == notes["accuracy"]
    assert quantized["loss"] is None, "it is that of other weights"
    assert not any(line["int8"] for name, line in stages.items() if name != "07-quantize")
    assert stages["04-prune"]["macs"] < stages["02-prune"]["macs"] < stages["00-start"]["macs"]


def the_way_has_a_point_for_the_integers(run: Path, page: str) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    score = 100 * next(line["accuracy"] for line in lines if line.get("int8"))
    axes = secateur.plot.accuracy(run).axes[0]
    assert axes.lines[0].get_ydata()[-1] == pytest.approx(score), "the way ends there"
    (ring,) = axes.collections[0].get_offsets()
    assert ring[1] == pytest.approx(score) and ring[0] == axes.lines[0].get_xdata()[-1]
    for said in ("quantized quantized.onnx", f"{score:.2f}", "ring is the file in 8-bit integers"):
        assert said in page


def the_exports_compute_what_the_weights_do(run: Path) -> None:
    model = secateur.load(dense(), run / "model.safetensors").eval()
    images = secateur_digits()
    with torch.no_grad():
        expected = model(images)
    (actual,) = OnnxSession(run / "exports" / "small.onnx")(["x"], [images])
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    (rounded,) = OnnxSession(run / "exports" / "quantized.onnx")(["x"], [images])
    assert (rounded.argmax(1) == expected.argmax(1)).double().mean() > 0.9
    size = (run / "exports" / "quantized.onnx").stat().st_size
    notes = json.loads((run / "stages" / "07-quantize" / "stage.json").read_text())["notes"]
    assert notes["bytes"] == size and notes["accuracy"] > 0.6


def secateur_digits() -> torch.Tensor:
    from secateur.data import load_digits

    return load_digits(size=8).test.inputs


def test_weights_that_a_recipe_names_are_those_that_it_begins_with(folder: Path) -> None:
    torch.manual_seed(5)
    model = dense()
    secateur.prune(model, torch.zeros(1, 1, 8, 8), budget={"macs": 0.8})
    secateur.save(model, "own.safetensors")
    result = run_recipe("quick.yaml", ["weights=own.safetensors"], out="own")
    start = secateur.load(dense(), folder / "own" / "stages" / "00-start" / "weights.safetensors")
    assert torch.equal(start.fc.weight, model.fc.weight)
    assert result.stages[1]["macs"] <= 0.6 * result.stages[0]["macs"]
    with pytest.raises(RecipeError, match=r"quick.yaml.*weights: .* is for another model|weights"):
        run_recipe("quick.yaml", ["weights=own.safetensors", "model.kwargs.blocks=2"], out="other")


def test_masks_stay_through_training_and_zeros_can_be_taken_out(folder: Path) -> None:
    text = QUICK.replace(
        "  - prune: {budget: {macs: 0.6}}\n",
        "  - sparsify: {granularity: element, budget: {sparsity: 0.9}, steps: 2,"
        " schedule: linear, finetune: {epochs: 1}}\n"
        "  - sparsify: {budget: {sparsity: 0.99}, compact: true}\n",
    )
    (folder / "sparse.yaml").write_text(text)
    stages = {stage["name"]: stage for stage in run_recipe("sparse.yaml").stages}
    assert list(stages)[1:] == [
        *("01-sparsify", "02-finetune", "03-sparsify", "04-finetune", "05-sparsify")
    ]
    # Biases and norms are not pruned, so that less than the sparsity of all parameters is zero.
    assert stages["04-finetune"]["nonzero"] <= stages["03-sparsify"]["nonzero"]
    assert stages["03-sparsify"]["nonzero"] < 0.2 * stages["03-sparsify"]["params"]
    assert stages["05-sparsify"]["params"] < stages["04-finetune"]["params"]
    model = secateur.load(dense(), folder / "runs" / "quick" / "model.safetensors")
    assert sum(p.numel() for p in model.parameters()) == stages["05-sparsify"]["params"]


def test_searches_see_the_validation_part_and_keep_a_journal(folder: Path) -> None:
    result = run_recipe("quick.yaml", ["steps.prune.allocation=netadapt"])
    assert result.stages[1]["macs"] <= 0.6 * result.stages[0]["macs"]
    journal = folder / "runs" / "quick" / "checkpoints" / "01-prune" / "journal.jsonl"
    assert len(journal.read_text().splitlines()) > 2


def test_loaders_from_python_take_the_place_of_the_recipes_data(folder: Path) -> None:
    text = QUICK.replace('data: {source: "digits:8", batch_size: 256}\n', "")
    (folder / "bare.yaml").write_text(text)
    read_recipe("bare.yaml")
    made = TensorDataset(torch.randn(16, 1, 6, 6), torch.arange(16) % 10)
    result = run_recipe("bare.yaml", data={"train": DataLoader(made, batch_size=8)})
    assert result.stages[0]["accuracy"] is not None
    bare = run_recipe("bare.yaml", ["model.input_shape=[1, 1, 8, 8]"], out="without")
    assert bare.stages[0]["accuracy"] is None


def test_text_trains_a_model_of_language(folder: Path) -> None:
    (folder / "language.py").write_text(
        "import torch\n"
        "class Next(torch.nn.Module):\n"
        "    def __init__(self, width):\n"
        "        super().__init__()\n"
        "        self.embed = torch.nn.Embedding(256, 8)\n"
        "        self.hidden = torch.nn.Linear(8, width)\n"
        "        self.out = torch.nn.Linear(width, 256)\n"
        "    def forward(self, tokens):\n"
        "        return self.out(torch.relu(self.hidden(self.embed(tokens))))\n"
    )
    (folder / "text.txt").write_text("the cat sat on the mat and the dog sat on the log. " * 40)
    (folder / "text.yaml").write_text(
        "model: {source: 'language:Next', kwargs: {width: 32}}\n"
        "data: {source: 'text:text.txt', options: {length: 16}}\n"
        "steps:\n"
        "  - finetune: {epochs: 2, optimizer: adamw, lr: 0.01}\n"
        "  - prune: {granularity: neuron, budget: {macs: 0.7}, ignore: [embed]}\n"
        "report: false\n"
    )
    stages = run_recipe("text.yaml").stages
    assert stages[1]["loss"] < stages[0]["loss"] and stages[2]["macs"] <= 0.7 * stages[0]["macs"]


def test_a_run_is_not_begun_twice_and_goes_on_with_its_own_recipe_only(folder: Path) -> None:
    first = run_recipe("quick.yaml")
    with pytest.raises(RecipeError, match="holds a run already; go on with it with --resume"):
        run_recipe("quick.yaml")
    with pytest.raises(
        RecipeError,
        match=r"runs/quick is of another recipe: steps.1.prune.budget.macs is 0.6 there and 0.5",
    ):
        run_recipe("quick.yaml", ["steps.prune.budget.macs=0.5"], resume=True)
    (folder / "longer.yaml").write_text(QUICK.replace("report:", "  - export\nreport:"))
    with pytest.raises(RecipeError, match=r"of another recipe: steps.2.* is 'absent' there"):
        run_recipe("longer.yaml", out="runs/quick", resume=True)
    again = run_recipe("quick.yaml", ["engine=processes:1"], resume=True)
    assert again.stages == first.stages
    (folder / "else").mkdir()
    (folder / "else" / "photo.png").touch()
    with pytest.raises(RecipeError, match="holds something that is no run"):
        run_recipe("quick.yaml", out="else")


def test_a_run_that_was_killed_as_it_began_can_begin_again(folder: Path) -> None:
    run = folder / "runs" / "quick"
    (run / ".secateur-xyz").mkdir(parents=True)
    (run / ".secateur-xyz" / "recipe.yaml").write_text("name: ")
    run_recipe("quick.yaml", resume=True)
    assert not list(run.rglob(".secateur-*"))


def test_two_processes_do_not_share_a_folder(folder: Path) -> None:
    with (
        RunFolder(folder / "runs" / "quick").alone(),
        pytest.raises(RecipeError, match="another process is at work in runs/quick"),
    ):
        run_recipe("quick.yaml")
    run_recipe("quick.yaml")


def test_another_version_on_the_way_is_told(folder: Path) -> None:
    run_recipe("quick.yaml")
    kept = folder / "runs" / "quick" / "environment.json"
    values = json.loads(kept.read_text())
    kept.write_text(json.dumps({**values, "torch": "1.0"}))
    with pytest.warns(UserWarning, match=r"begun with torch 1.0, and goes on with"):
        run_recipe("quick.yaml", resume=True)


def test_fractions_are_of_the_model_at_the_start(folder: Path) -> None:
    steps = [
        {"sparsify": {"budget": {"sparsity": 0.5}}},
        {"prune": {"budget": {"macs": 0.8}}},
        {"prune": {"budget": {"params": 0.5}}},
        {"prune": {"budget": {"activations": 0.8}, "round_to": 2}},
    ]
    (folder / "four.yaml").write_text(yaml.safe_dump({**yaml.safe_load(QUICK), "steps": steps}))
    stages = run_recipe("four.yaml", ["data.options.seed=4"]).stages
    assert 0.7 * stages[0]["macs"] < stages[2]["macs"] <= 0.8 * stages[0]["macs"]
    assert 0.4 * stages[0]["params"] < stages[3]["params"] <= 0.5 * stages[0]["params"]
    peak = [
        CostModel(
            secateur.trace(model, torch.zeros(1, 1, 8, 8)), model, measures=["activations"]
        ).dense["activations"]
        for model in (dense(), secateur.load(dense(), "runs/quick/model.safetensors"))
    ]
    assert peak[1] <= 0.8 * peak[0]
    steps[1] = {"prune": {"budget": {"macs": 0.5}}}
    steps[2] = {"prune": {"budget": {"latency": 0.5}}}
    (folder / "late.yaml").write_text(yaml.safe_dump({**yaml.safe_load(QUICK), "steps": steps}))
    with pytest.raises(RecipeError, match=r"steps.3.prune: .* give that step one as well"):
        run_recipe("late.yaml", out="late")


def test_a_step_learns_from_the_model_of_the_step_it_names(folder: Path) -> None:
    steps = [
        {"finetune": {"epochs": 1, "lr": 0.1}},
        "export",
        {"prune": {"budget": {"macs": 0.6}, "recalibrate": 0}},
        {"finetune": {"epochs": 1, "lr": 0.02, "distill": {"alpha": 1.0, "teacher": 2}}},
    ]
    (folder / "late.yaml").write_text(yaml.safe_dump({**yaml.safe_load(QUICK), "steps": steps}))
    run = run_recipe("late.yaml")

    def stage(name: str) -> SmallResNet:
        return secateur.load(dense(), run.folder / "stages" / name / "weights.safetensors")

    data = load_data("digits:8", seed=0)
    model = stage("03-prune")
    secateur.recover(
        model,
        data.train.batches(256, shuffle=True, seed=4),
        epochs=1,
        lr=0.02,
        teacher=stage("01-finetune"),
        distill={"alpha": 1.0},
        seed=4,
    )
    final = stage("04-finetune").state_dict()
    assert all(torch.equal(value, final[name]) for name, value in model.state_dict().items())


def test_a_stage_that_was_changed_is_refused(folder: Path) -> None:
    run_recipe("quick.yaml")
    stage = folder / "runs" / "quick" / "stages" / "01-prune"
    weights = stage / "weights.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)
    (folder / "more.yaml").write_text(QUICK)
    with pytest.raises(FileFormatError, match="checksum"):
        run_recipe("quick.yaml", ["report.enabled=true"], resume=True)
    (stage / "stage.json").write_text("{")
    with pytest.raises(FileFormatError, match=r"stage.json was changed"):
        run_recipe("quick.yaml", resume=True)
    other = (stage.parent / "00-start" / "stage.json").read_text()
    (stage / "stage.json").write_text(other)
    with pytest.raises(FileFormatError, match="another one's notes"):
        run_recipe("quick.yaml", resume=True)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.source=timm:resnet81",
            r"the command line: model.source: .*mean 'resnet18'",
        ),
        (
            "model.kwargs.classes=9",
            r"data: labels of digits:8 \(train\) go from 0 to 9.* 9",
        ),
        ("data.source=folder:empty", r"data: .*zero rows"),
        ("data.options.length=3", r"data: data 'digits' takes no option 'length'"),
        ("model.kwargs.blocks=none", r"model.source: .*raised TypeError"),
        ("model.input_shape=[1, 3, 8, 8]", r"model: the model rejects the example inputs"),
        ("steps.prune.ignore=[layer9]", r"steps.1.prune: .*matches no module"),
        ("steps.prune.budget.macs=0.001", r"steps.1.prune: .*budget"),
        ("weights=quick.yaml", r"weights: quick.yaml is truncated or is not a safetensors"),
    ],
)
def test_what_the_recipe_names_and_cannot_be_used(
    override: str, message: str, folder: Path
) -> None:
    for name in ("a", "b"):
        (folder / "empty" / name).mkdir(parents=True)
    with pytest.raises(RecipeError, match=message) as caught:
        run_recipe("quick.yaml", [override])
    assert "\n" not in str(caught.value)
    if "steps" not in override:
        # Nothing was begun, so that the mended recipe can begin.
        run_recipe("quick.yaml")


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    result = call("run", "small.yaml", "--dry-run", "steps.1.finetune.epochs=7")
    assert result.exit_code == 0, result.stderr
    assert sorted(folder.rglob("*")) == before
    for text in ("01-finetune", "7 epochs", "04-finetune", "1258 train", "runs/small"):
        assert text in result.stdout
    foreseen = preview(read_recipe("small.yaml"))
    done = run_recipe("small.yaml", ["steps.prune.criterion=magnitude", "name=done"]).stages
    assert foreseen.estimated, "its criterion is taylor"
    assert foreseen.lines[0].macs == done[0]["macs"]
    # At random weights and at trained ones other units go, for as many MACs but those of one unit.
    for macs in (foreseen.lines[2].macs, done[2]["macs"]):
        assert 0.5 * done[0]["macs"] < macs <= 0.6 * done[0]["macs"]
    assert foreseen.lines[3].nonzero < foreseen.lines[3].params


def test_init_writes_a_recipe_that_can_be_read(folder: Path) -> None:
    arguments = ["init", "secateur.models:small_resnet", "--input-shape", "1x1x16x16"]
    result = call(*arguments, "--out", "new.yaml")
    assert result.exit_code == 0, result.stderr
    text = (folder / "new.yaml").read_text()
    assert "secateur.models:small_resnet: 174,970 parameters" in text and "# kwargs" in text
    assert [step.kind for step in read_recipe("new.yaml").recipe.steps] == [
        *("prune", "finetune", "export")
    ]
    assert call("run", "new.yaml", "--dry-run").exit_code == 0
    result = call(*arguments, "--out", "new.yaml")
    assert result.exit_code == 2 and "is there already" in result.stderr


def test_ctrl_c_says_how_to_go_on(folder: Path, monkeypatch) -> None:
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("secateur.recipes.run.open_work", interrupted)
    result = call("run", "quick.yaml", "seed=2", "--out", "here")
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == (
        "stopped; go on with: secateur run quick.yaml seed=2 --out here --resume"
    )


def test_tensorboard_gets_every_number(folder: Path) -> None:
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run = run_recipe("small.yaml").folder
    events = loading.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    expected: dict[str, list[tuple[int, float]]] = {}
    for group, measured in (
        ("epochs", [line for line in metrics if "epoch" in line]),
        ("steps", [line for line in metrics if "epoch" not in line]),
    ):
        for number, line in enumerate(measured, 1):
            for name, value in line.items():
                if name not in ("step", "epoch", "int8"):
                    expected.setdefault(f"{group}/{name}", []).append((number, value))
    assert len(expected["epochs/loss"]) == 4 and len(expected["steps/accuracy"]) == 5
    assert set(events.Tags()["scalars"]) == set(expected)
    for tag, values in expected.items():
        found = [(event.step, event.value) for event in events.Scalars(tag)]
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in values], tag
