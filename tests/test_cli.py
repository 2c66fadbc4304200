from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import secateur
from secateur.cli import app
from secateur.errors import BudgetError, InputError, MissingExtraError, UnknownNameError
from secateur.models import load_model, model_names
from secateur.models.sources import import_library
from secateur.progress import Steps

SMALL = ["--model", "secateur.models:small_resnet", "--input-shape", "1x1x8x8"]
BERT = {
    "model_type": "bert",
    "architectures": ["BertForSequenceClassification"],
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 40,
}


def call(*arguments: str | Path):
    """One command in process; exceptions that are no clear error fail the test."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_prune_profile_and_export_go_hand_in_hand(tmp_path: Path) -> None:
    small, plan, onnx = tmp_path / "new" / "s.safetensors", tmp_path / "p.json", tmp_path / "s.onnx"
    result = call("prune", *SMALL, "--budget", "macs=0.5", "--out", small, "--plan", plan)
    assert result.exit_code == 0, result.stderr
    assert "2.0" in result.stdout and "fc.weight" in result.stdout and str(small) in result.stdout
    model = secateur.load(secateur.models.small_resnet(), small)
    dense = secateur.profile(secateur.models.small_resnet(), torch.zeros(1, 1, 8, 8))
    after = secateur.profile(model, torch.zeros(1, 1, 8, 8))
    assert after.macs <= 0.5 * dense.macs
    assert secateur.Plan.from_json(plan.read_text()).settings["budget"] == {"macs": 0.5}

    result = call("profile", *SMALL, "--weights", small, "--all")
    assert result.exit_code == 0, result.stderr
    assert "stages.2.1.conv2" in result.stdout

    result = call("export", *SMALL, "--weights", small, "--out", onnx)
    assert result.exit_code == 0, result.stderr
    assert onnx.is_file() and "free batch size" in result.stdout


def test_the_options_reach_the_plan(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    result = call(
        "prune", *SMALL, "--out", tmp_path / "s.safetensors", "--plan", plan,
        "--budget", "params=60%", "--criterion", "l1", "--allocation", "uniform",
        "--granularity", "filter", "--ignore", "stages.0.*", "--round-to", "2",
        "--min-keep", "4", "--seed", "3", "--no-verify", "--verbose",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    settings = secateur.Plan.from_json(plan.read_text()).settings
    assert settings["criterion"] == "l1" and settings["allocation"] == "uniform"
    assert settings["granularity"] == "filter" and settings["round_to"] == 2
    assert settings["min_keep"] == 4 and settings["seed"] == 3
    assert settings["budget"] == {"params": 0.6} and "stages.0.0.conv1" in settings["ignore"]
    assert "not verified" in result.stdout


def test_pruned_inputs_fit_the_commands_that_follow(tmp_path: Path) -> None:
    many = ("--model", "timm:resnet18", "--input-shape", "1x3x32x32")
    small, plan = tmp_path / "s.safetensors", tmp_path / "p.json"
    result = call(
        "prune", *many, "--out", small, "--plan", plan, "--criterion", "random",
        "--allocation", "uniform", "--budget", "macs=0.3", "--prune-inputs", "--prune-outputs",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    read = secateur.Plan.from_json(plan.read_text())
    assert read.inputs["args.0"][1] and read.outputs["output"][1]
    result = call("profile", *many, "--weights", small)
    assert result.exit_code == 0, result.stderr


def test_the_same_seed_gives_the_same_model(tmp_path: Path) -> None:
    states, plans = [], []
    for run in range(2):
        file, plan = tmp_path / f"{run}.safetensors", tmp_path / f"{run}.json"
        call("prune", *SMALL, "--out", file, "--plan", plan, "--seed", "1")
        states.append(secateur.load(secateur.models.small_resnet(), file).state_dict())
        plans.append(plan.read_text())
    assert plans[0] == plans[1]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_gradients_come_from_named_data(tmp_path: Path) -> None:
    out = tmp_path / "s.safetensors"
    taylor = ["prune", *SMALL, "--criterion", "taylor", "--out", out]
    result = call(*taylor, "--data", "digits:8", "--batch-size", "256")
    assert result.exit_code == 0, result.stderr


def test_a_timm_model_needs_no_data(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    out = tmp_path / "small.safetensors"
    result = call("prune", "--model", "timm:resnet18", "--budget", "macs=0.5", "--out", out)
    assert result.exit_code == 0, result.stderr
    assert "weights are random" in result.stderr
    assert out.is_file()
    assert "resnet18" in model_names("timm", "resnet18*")
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        load_model("timm:resnet81")


def test_torchvision_models_by_name() -> None:
    pytest.importorskip("torchvision")
    loaded = load_model("torchvision:squeezenet1_1")
    assert loaded.example_inputs.shape == (1, 3, 224, 224) and loaded.random
    assert load_model("torchvision:fcn_resnet50", input_shapes=[(2, 3, 64, 64)]).random
    with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
        load_model("torchvision:resnet_18")


def test_hugging_face_models_from_a_configuration(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(json.dumps(BERT))
    for name in (tmp_path, tmp_path / "config.json"):
        loaded = load_model(f"hf:{name}")
        assert type(loaded.model).__name__ == "BertForSequenceClassification" and loaded.random
        assert loaded.example_inputs["input_ids"].shape == (1, 32)
    shaped = load_model(f"hf:{tmp_path}", input_shapes=[(2, 7)])
    assert shaped.example_inputs["input_ids"].shape == (2, 7)
    assert shaped.example_inputs["input_ids"].dtype == torch.int64

    loaded.model.save_pretrained(tmp_path / "saved")
    saved = load_model(f"hf:{tmp_path / 'saved'}")
    assert not saved.random
    assert torch.equal(saved.model.classifier.weight, loaded.model.classifier.weight)

    result = call("prune", "--model", f"hf:{tmp_path}", "--out", tmp_path / "b.safetensors")
    assert result.exit_code == 0, result.stderr
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="cannot be built"):
        load_model(f"hf:{tmp_path}")


def test_a_function_may_bring_its_own_inputs(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "my_own_model.py").write_text(
        "import torch\n"
        "def pair():\n"
        "    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Linear(8, 2)), "
        "torch.zeros(1, 4)\n"
        "def wrong():\n"
        "    return 3\n"
        "def broken():\n"
        "    raise RuntimeError('no weights')\n"
    )
    monkeypatch.chdir(tmp_path)
    result = call("prune", "--model", "my_own_model:pair", "--out", "small.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "random" not in result.stderr
    with pytest.raises(InputError, match="must return a"):
        load_model("my_own_model:wrong")
    with pytest.raises(InputError, match="RuntimeError: no weights"):
        load_model("my_own_model:broken")


def test_a_plain_state_dict_can_be_loaded(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    plain, other = tmp_path / "plain.safetensors", tmp_path / "other.safetensors"
    state = secateur.models.small_resnet().state_dict()
    save_file(state, plain)
    assert call("profile", *SMALL, "--weights", plain).exit_code == 0
    old = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    save_file(old, plain)
    assert call("profile", *SMALL, "--weights", plain).exit_code == 0
    del state["fc.bias"]
    state["more"] = torch.zeros(1)
    save_file(state, other)
    result = call("profile", *SMALL, "--weights", other)
    assert result.exit_code == 2
    assert "fc.bias" in result.stderr and "more is not in the model" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prun"], "prune"),
        (["prune"], "--model"),
        (["prune", *SMALL], "--out"),
        (["prune", *SMALL, "--out", "x", "--round-to", "0"], "--round-to"),
        (["prune", *SMALL, "--out", "x", "--round-to", "layer*"], "layer3.*=16,*=8, not 'layer*'"),
        (["prune", *SMALL, "--out", "x", "--round-to", "head=8"], "'head' matches no module"),
        (["prune", *SMALL, "--out", "x", "--compact", "--round-to", "*=auto"], "with numbers only"),
        (["prune", *SMALL, "--out", "x", "--latency", "torhc"], "did you mean 'torch'"),
        (
            ["prune", *SMALL, "--out", "x", "--latency", "no.json"],
            "cannot read the latency table",
        ),
        (["prune", *SMALL, "--out", "x", "--latency", "torch"], "latency= is for a budget"),
        (["prune", *SMALL, "--out", "x", "--engine", "proceses:2"], "did you mean 'processes'"),
        (
            ["prune", *SMALL, "--out", "x", "--address", "ray://a:1"],
            "--address is for --engine ray",
        ),
        (
            ["prune", *SMALL, "--out", "x", "--engine", "ray", "--address", "ray://"],
            "'ray://host:1",
        ),
        (["prune", *SMALL, "--out", "x", "--allocation", "netadapt"], "pass evaluate="),
        (["prune", *SMALL, "--out", "x", "--evaluate", "accuracy"], "pass --data"),
        (["prune", *SMALL, "--out", "x", "--evaluate", "tests.measures:no"], "has no 'no'"),
        (["prune", *SMALL, "--out", "x", "--budget", "half"], "write a budget as macs=0.5"),
        (["prune", *SMALL, "--out", "x", "--budget", "mac=0.5"], "did you mean 'macs'"),
        (["prune", *SMALL, "--out", "x", "--budget", "macs=2"], "(0, 1]"),
        (["prune", *SMALL, "--out", "x", "--criterion", "magnitud"], "did you mean 'magnitude'"),
        (["prune", *SMALL, "--out", "x", "--allocation", "globl"], "did you mean 'global'"),
        (["prune", *SMALL, "--out", "x", "--granularity", "chanel"], "did you mean 'channel'"),
        (["prune", *SMALL, "--out", "x", "--ignore", "stage.*"], "matches no module"),
        (["prune", *SMALL, "--out", "x", "--criterion", "taylor"], "data"),
        (["prune", *SMALL, "--out", "x", "--weights", "absent"], "there is no file"),
        (["prune", *SMALL[:2], "--out", "x"], "pass --input-shape"),
        (["prune", *SMALL[:3], "1xtwo", "--out", "x"], "write an input shape"),
        (["prune", *SMALL[:3], "1x3x8x8", "--out", "x"], "rejects the example inputs"),
        (["profile", "--model", "tim:resnet18"], "did you mean 'timm'"),
        (["profile", "--model", "resnet18"], "write torchvision:NAME"),
        (["profile", "--model", "timm:"], "lacks a name"),
        (["profile", "--model", "hf:/no/such/folder"], "there is no file or folder"),
        (["profile", "--model", "no_such_module:make"], "cannot import"),
        (["list", "criterias"], "did you mean 'criteria'"),
        (["list", "models", "hf:*"], "has no list"),
        (["demo", "--out", "/dev/null/x"], "/dev/null"),
    ],
)
def test_an_error_is_one_line_and_exit_code_2(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("error: ")
    assert not (tmp_path / "x").exists()


def test_a_library_that_cannot_be_imported_is_one_line(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "half_installed.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="install the torchvision that was built for PyTorch"):
        import_library("half_installed")
    with pytest.raises(MissingExtraError, match=r"secateur\[timm\]"):
        import_library("not_installed_at_all", "timm")


def test_lists_name_what_can_be_chosen() -> None:
    everything = call("list").stdout
    for name in ("magnitude", "uniform", "channel", "timm:NAME", "digits"):
        assert name in everything
    assert "magnitude" not in call("list", "allocations").stdout
    assert "arXiv:1911.11134" in call("list", "schedules").stdout
    assert "arXiv:1708.06519" in call("list", "regularizers").stdout


@pytest.mark.parametrize(
    "kind", ["granularities", "criteria", "allocations", "schedules", "regularizers"]
)
def test_lists_name_the_paper_of_every_method(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    title, *entries = call("list", kind).stdout.strip().splitlines()
    assert title == kind
    cites = re.compile(r"arXiv:\d{4}\.\d{5}|[A-Z][\w,. ]+ (19|20)\d\d")
    assert [line for line in entries if not cites.search(line)] == []


def test_version_and_help() -> None:
    assert secateur.__version__ in call("version").stdout
    assert secateur.__version__ in call("--version").stdout
    assert "prune" in call().stdout
    for command in ("demo", "prune", "profile", "export", "list"):
        result = call(command, "--help")
        assert result.exit_code == 0 and "Usage" in result.stdout


def test_the_command_line_starts_without_torch() -> None:
    code = (
        "import sys, secateur.cli; heavy = {'torch', 'numpy', 'matplotlib'} & set(sys.modules); "
        "sys.exit(' '.join(heavy) or 0)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_budgets_are_read_strictly() -> None:
    from secateur.cli.options import parse_budget

    for wrong in ("macs", "=0.5", "macs=", "macs=x"):
        with pytest.raises(BudgetError, match="write a budget"):
            parse_budget([wrong])


def test_two_in_four_needs_no_budget(tmp_path: Path) -> None:
    out = tmp_path / "sparse.safetensors"
    result = call("prune", *SMALL, "--granularity", "2:4", "--out", out)
    assert result.exit_code == 0, result.output
    assert out.exists()


def test_what_becomes_zero_is_removed_on_request(tmp_path: Path) -> None:
    masked, small = tmp_path / "masked.safetensors", tmp_path / "small.safetensors"
    options = ("--granularity", "element", "--budget", "sparsity=0.995")
    assert call("prune", *SMALL, *options, "--out", masked).exit_code == 0
    result = call("prune", *SMALL, *options, "--compact", "--out", small)
    assert result.exit_code == 0, result.output
    assert "smaller against model with its zeros: error" in " ".join(result.stdout.split())
    assert small.stat().st_size < masked.stat().st_size

    both = call("prune", *SMALL, "--compact", "--plan", tmp_path / "plan.json", "--out", small)
    assert both.exit_code == 2
    assert "--compact makes a second plan" in both.stderr


def test_nothing_to_compact_is_a_note(tmp_path: Path) -> None:
    out = tmp_path / "sparse.safetensors"
    result = call("prune", *SMALL, "--granularity", "2:4", "--compact", "--out", out)
    assert result.exit_code == 0, result.output
    assert "no unit of the model is all-zero" in result.stderr
    assert out.exists()


def test_a_bar_without_a_total_counts() -> None:

    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=120)
    with Steps(console) as steps, steps.step("Pruning") as tick:
        tick(36, None, "trying models out")
        tick(37, None, "trying models out")
        assert steps._bars is not None
        steps._bars.refresh()
    assert "trying models out, 37 so far" in written.getvalue()
