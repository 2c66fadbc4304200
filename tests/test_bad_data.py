"""Data that cannot be used: one clear line, a model bit for bit as it was, and no file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import secateur as sc
from recovering import images, net, same, state
from secateur.data import as_data
from secateur.errors import InputError, RecipeError
from secateur.models.resnet import SmallResNet
from secateur.recipes import run_recipe

PIXELS = torch.zeros(2, 3, 6, 6)

USES: dict[str, Callable[[nn.Module, Any, Path], Any]] = {
    "recover": lambda model, data, folder: sc.recover(
        model, data, epochs=1, checkpoint=folder / "kept"
    ),
    "distil": lambda model, data, folder: sc.recover(
        model, data, epochs=1, teacher=net(1), checkpoint=folder / "kept"
    ),
    "validation": lambda model, data, folder: sc.evaluate(model, data),
    "score": lambda model, data, folder: sc.prune(
        model, PIXELS, criterion="taylor", data=data, budget={"macs": 0.5}
    ),
}


def refused(use: str, data: Any, folder: Path, message: str) -> None:
    model = net()
    before = state(model)
    with pytest.raises(InputError, match=message) as caught:
        USES[use](model, data, folder)
    assert "\n" not in str(caught.value)
    assert same(state(model), before)
    assert not [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("label", [-1, 3, 1000])
@pytest.mark.parametrize("use", USES)
def test_a_label_that_the_model_has_no_output_for(use: str, label: int, tmp_path: Path) -> None:
    (inputs, labels), *rest = images()
    data = [(inputs, torch.cat([labels[:-1], torch.tensor([label])])), *rest]
    low, high = min(label, 0), max(label, 2)
    refused(use, data, tmp_path, f"labels of a batch go from {low} to {high}, .* 3 outputs")


@pytest.mark.parametrize("use", USES)
def test_labels_that_are_to_be_ignored_are_no_error(use: str, tmp_path: Path) -> None:
    (inputs, labels), *rest = images()
    data = [(inputs, torch.cat([labels[:-1], torch.tensor([-100])])), *rest]
    USES[use](net(), data, tmp_path)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ["list", "loader"])
def test_a_data_set_of_zero_rows(use: str, kind: str, tmp_path: Path) -> None:
    empty = TensorDataset(torch.zeros(0, 3, 6, 6), torch.zeros(0).long())
    refused(use, [] if kind == "list" else DataLoader(empty, 4), tmp_path, "batch")


RECIPE = """\
name: mine
model: {source: "secateur.models.resnet:SmallResNet", kwargs: {widths: [8, 16], blocks: 1}}
data: {source: "mine:data"}
steps:
  - finetune: {epochs: 1}
report: false
"""


def pairs(labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(len(labels), 1, 8, 8), labels


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (pairs(torch.arange(30) % 11), r"recipe.yaml:3: data: labels of the data .* 0 to 10, and"),
        (
            DataLoader(TensorDataset(*pairs(torch.arange(30) % 11)), 30),
            r"recipe.yaml:5: steps.1.finetune: labels of a batch go from 0 to 10, and",
        ),
    ],
)
def test_a_recipe_names_the_key_whose_labels_are_out_of_range(
    train: Any, message: str, tmp_path: Path
) -> None:
    path, run = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(RECIPE)
    good = pairs(torch.arange(20) % 10)
    with pytest.raises(RecipeError, match=message) as caught:
        run_recipe(path, out=run, data={"train": train, "val": good, "test": good})
    assert "\n" not in str(caught.value)
    done = run_recipe(path, out=run, resume=True, data={"train": good, "val": good, "test": good})
    assert sc.load(SmallResNet(widths=(8, 16), blocks=1), done.weights) is not None


@pytest.mark.parametrize(
    "train", [pairs(torch.arange(0)), [], DataLoader(TensorDataset(*pairs(torch.arange(0))), 4)]
)
def test_parts_of_zero_rows_are_refused_before_anything_is_made(train: Any) -> None:
    with pytest.raises(InputError) as caught:
        as_data("mine", {"train": train})
    assert "\n" not in str(caught.value)
