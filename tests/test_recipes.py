"""What a recipe may say, and how an error says where it went wrong."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
from tests.recipe_runs import SMALL

import secateur
from secateur.errors import RecipeError
from secateur.export.quantized import quantize
from secateur.recipes import read_recipe
from secateur.recipes.steps import STEPS, Deciding, Finetune, Prune, Quantize
from secateur.recipes.tasks import tasks_of
from secateur.recover import recover


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def refused(text: str, *overrides: str) -> str:
    path = Path("wrong.yaml")
    path.write_text(text)
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


HEAD = "name: x\nmodel: timm:resnet18\ndata: digits\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + "stps:\n  - export\n", "wrong.yaml:4: stps: unknown key; did you mean 'steps'?"),
        (HEAD + "steps:\n  - prun: {}\n", "wrong.yaml:5: steps.1.prun: unknown key; did you mean"),
        (
            HEAD + "steps:\n  - prune:\n      bugdet: {macs: 0.5}\n",
            "wrong.yaml:6: steps.1.prune.bugdet: unknown key; did you mean 'budget'?",
        ),
        (
            HEAD + "steps:\n  - prune:\n      steps: 2\n      finetune: {epoch: 1}\n",
            "wrong.yaml:7: steps.1.prune.finetune.epoch: unknown key; did you mean 'epochs'?",
        ),
        (
            HEAD + "steps:\n  - finetune:\n      epochs: three\n",
            "wrong.yaml:6: steps.1.finetune.epochs: input should be a valid integer, not 'three'",
        ),
        (HEAD + "steps:\n  - finetune: {epochs: 1.5}\n", "valid integer, not 1.5"),
        (HEAD + "steps:\n  - finetune: {epochs: true}\n", "valid integer, not True"),
        (HEAD + "steps:\n  - finetune: {lr: 0}\n", "steps.1.finetune.lr: input should be greater"),
        (HEAD + "steps:\n  - finetune: {optimizer: adm}\n", "'sgd' or 'adamw', not 'adm'"),
        (HEAD + "steps:\n  - export\nseed: -1\n", "wrong.yaml:6: seed: input should be greater"),
        (HEAD + "steps: []\n", "wrong.yaml:4: steps: list should have at least 1 item"),
        (HEAD, "wrong.yaml: steps: this key is missing"),
        (HEAD + "steps:\n  - prune: {}\n    export: {}\n", "wrong.yaml:5: steps.1: a step is one"),
        (HEAD + "steps:\n  - prune: {budget: {mac: 1}}\n", "budget: unknown budget 'mac'; did you"),
        (HEAD + "steps:\n  - prune: {budget: {macs: 2}}\n", "must lie in (0, 1]"),
        (HEAD + "steps:\n  - prune: {criterion: magnitud}\n", "did you mean 'magnitude'?"),
        (HEAD + "steps:\n  - prune: {allocation: globl}\n", "did you mean 'global'?"),
        (HEAD + "steps:\n  - prune: {granularity: 2:4}\n", "'2:4' makes zeros; write it in a step"),
        (HEAD + "steps:\n  - sparsify: {granularity: filter}\n", "takes units out; write it in"),
        (HEAD + "steps:\n  - prune: {round_to: 0}\n", "round_to is a number from 1 on"),
        (HEAD + "steps:\n  - prune: {latency: tensorflow}\n", "steps.1.prune.latency: unknown"),
        (HEAD + "steps:\n  - prune: {schedule: agb}\n", "steps.1.prune.schedule: unknown schedule"),
        (HEAD + "steps:\n  - prune: {finetune: {}}\n", "finetune is for several steps"),
        (
            HEAD + "steps:\n  - prune: {steps: 2, budget: {accuracy_drop: 0.01}}\n",
            "accuracy_drop is searched for in one call",
        ),
        (
            HEAD + "steps:\n  - export\n  - export\n",
            "wrong.yaml:6: steps.2.export.file: an",
        ),
        (HEAD + "steps:\n  - export: {file: ../a.onnx}\n", "give a name, not '../a.onnx'"),
        (HEAD + "engine: proceses\nsteps:\n  - export\n", "engine: unknown engine 'proceses'; did"),
        (HEAD + "weights: no.safetensors\nsteps: [export]\n", "wrong.yaml:4: weights: there is no"),
        ("name: x y\nmodel: a\nsteps: [export]\n", "wrong.yaml:1: name: string should match"),
        (
            "model: timm:resnet18\ndata:\n  source: parquet:/no/such.parquet\nsteps: [export]\n",
            "wrong.yaml:3: data.source: there is no file or folder '/no/such.parquet'",
        ),
        (
            "model: a:b\ndata: {source: digits, options: {sise: 3}}\nsteps: [export]\n",
            "wrong.yaml:2: data.options.sise: unknown key; did you mean 'size'?",
        ),
        (
            "model: a:b\ndata: digits\nsteps:\n  - export\n  - finetune: {distill: {teacher: 2}}\n",
            "wrong.yaml:5: steps.2.finetune.distill.teacher: step 2 learns from a model before it",
        ),
        (
            "model: a:b\ndata: digits\nsteps:\n"
            "  - prune: {steps: 2, finetune: {distill: {teacher: 1}}}\n",
            "steps.1.prune.finetune.distill.teacher: step 1 learns from a model before it",
        ),
        ("model: a:b\ndata: {batch_size: 3}\nsteps: [export]\n", "data needs a source, or train"),
        ("model: a:b\nsteps: [finetune]\n", "wrong.yaml:2: steps.1.finetune: this step needs data"),
        ("model: a:b\nsteps: [quantize]\n", "steps.1.quantize: this step needs data"),
        ("model: a:b\nmodel: c:d\n", "wrong.yaml:2: model stands here a second time"),
        ("model: [\n", "wrong.yaml:2: this is no YAML"),
        ("- a\n", "a recipe is a mapping"),
        ("", "a recipe is a mapping"),
    ],
)
def test_an_error_names_line_and_key(text: str, message: str, recipe: Path) -> None:
    assert message in refused(text)


def test_of_several_errors_the_first_is_told_and_the_others_counted(recipe: Path) -> None:
    said = refused(HEAD + "steps:\n  - finetune: {lr: x}\n  - prune: {min_keep: x}\nsed: 1\n")
    assert said.startswith("wrong.yaml:5: steps.1.finetune.lr: ") and said.endswith("(and 2 more)")


def test_files_that_are_no_recipes(recipe: Path) -> None:
    with pytest.raises(RecipeError, match="there is no recipe"):
        read_recipe("absent.yaml")
    Path("bytes.yaml").write_bytes(b"name: \xff")
    with pytest.raises(RecipeError, match="not UTF-8"):
        read_recipe("bytes.yaml")


def test_numbers_are_those_of_yaml_1_2(recipe: Path) -> None:
    text = (
        HEAD.replace("name: x", "name: no")
        + "steps:\n  - finetune: {lr: 1e-3}\n  - sparsify: {granularity: 2:4}\n"
    )
    recipe.write_text(text)
    read = read_recipe(recipe).recipe
    assert read.name == "no"
    assert read.steps[0].finetune.lr == 0.001 and read.steps[1].sparsify.granularity == "2:4"


def test_the_name_is_the_files_unless_it_says_another(recipe: Path) -> None:
    recipe.write_text("model: a:b\nsteps: [export]\n")
    assert read_recipe(recipe).recipe.name == "small"


def test_overrides_take_the_place_of_what_the_file_says(recipe: Path) -> None:
    read = read_recipe(
        recipe,
        [
            "seed=3",
            "steps.2.prune.budget.macs=0.4",
            "steps.sparsify.granularity=1:4",
            "steps.4.finetune.clip_norm=1.0",
            "data.options.seed=9",
            "report.enabled=true",
            "model.kwargs.widths=[4, 8]",
        ],
    ).recipe
    assert read.seed == 3 and read.steps[1].prune.budget == {"macs": 0.4}
    assert read.steps[2].sparsify.granularity == "1:4" and read.steps[3].finetune.clip_norm == 1
    assert read.data.options == {"seed": 9} and read.report.enabled
    assert read.model.kwargs == {"widths": [4, 8], "blocks": 1}
    recipe.write_text("model: a:b\ndata: digits\nsteps: [export, finetune]\n")
    read = read_recipe(recipe, ["steps.export.opset=18", "data.batch_size=2", "model.kwargs.a=1"])
    assert read.recipe.steps[0].export.opset == 18 and read.recipe.data.batch_size == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "write an override as key.path=value, not 'seed'"),
        ("sed=1", "the command line: sed: unknown key; did you mean 'seed'?"),
        ("steps.2.prune.min_keep=x", "the command line: steps.2.prune.min_keep: input should"),
        ("steps.finetune.lr=1", "several steps 'finetune'; name one by its number: 1, 4"),
        ("steps.9.lr=1", "no '9' among 1 to 4"),
        ("steps.prun.min_keep=1", "no 'prun' among 1 to 4; did you mean 'prune'?"),
        ("seed.x=1", "nothing to put 'x' into"),
        ("seed=[", "the value is no YAML"),
        ("data.source=text:absent.txt", "the command line: data.source: there is no file"),
    ],
)
def test_a_wrong_override_is_told_as_one(override: str, message: str, recipe: Path) -> None:
    assert message in refused(SMALL, override)


def test_a_budget_in_steps_comes_apart(recipe: Path) -> None:
    recipe.write_text(
        HEAD
        + "steps:\n"
        + "  - prune: {budget: {macs: 0.25}, steps: 2, finetune: {epochs: 3}}\n"
        + "  - sparsify: {budget: {sparsity: 0.8}, steps: 2, schedule: linear}\n"
    )
    tasks = tasks_of(read_recipe(recipe).recipe)
    kinds = ["prune", "finetune", "prune", "finetune", "sparsify", "sparsify"]
    assert [task.kind for task in tasks] == kinds
    assert [task.name for task in tasks][:2] == ["01-prune", "02-finetune"]
    budgets = [task.options.budget for task in tasks if isinstance(task.options, Deciding)]
    assert budgets == [
        pytest.approx({"macs": 0.5}),
        pytest.approx({"macs": 0.25}),
        pytest.approx({"sparsity": 0.4}),
        pytest.approx({"sparsity": 0.8}),
    ]
    assert tasks[1].options.epochs == 3 and tasks[1].key == ("steps", 0, "prune", "finetune")


def options_of(function: object) -> dict[str, object]:
    """Keyword arguments with their defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize(
    ("step", "function", "elsewhere"),
    [
        (
            Prune,
            secateur.prune,
            # What a recipe says for all steps, objects that no file can hold, and what changes the
            # shape of the data.
            "data loss evaluate engine journal progress optimizer ema form prune_inputs "
            "prune_outputs base accelerator",
        ),
        (Finetune, recover, "validation progress teacher checkpoint accelerator"),
        (STEPS["export"], secateur.export, ""),
        (Quantize, quantize, ""),
    ],
)
def test_a_step_has_the_options_and_defaults_of_its_function(step, function, elsewhere) -> None:
    theirs = options_of(function)
    ours = {
        name: field.get_default(call_default_factory=True)
        for name, field in step.model_fields.items()
    }
    assert set(theirs) - set(ours) == set(elsewhere.split())
    own = {"batches", "recalibrate", "steps", "schedule", "finetune", "batch_size", "file", "seed"}
    for name in set(theirs) & set(ours) - own:
        default = list(theirs[name]) if isinstance(theirs[name], tuple) else theirs[name]
        assert ours[name] == default, name


def test_the_recipe_of_the_documentation_is_one(recipe: Path) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "how-to" / "recipes.md"
    text = page.read_text(encoding="utf-8").partition("```yaml\n")[2].partition("```")[0]
    recipe.write_text(text)
    assert len(tasks_of(read_recipe(recipe).recipe)) == 8
    said = refused(text.replace("budget:", "bugdet:"))
    assert said.removeprefix("wrong.yaml") in page.read_text(encoding="utf-8")
