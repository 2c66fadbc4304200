"""Ultralytics' own trainer goes on with a pruned YOLO. AGPL-3.0: never a dependency of Secateur."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import secateur as sc

pytestmark = pytest.mark.slow

SIZE = 64


@pytest.fixture(scope="module")
def ultralytics(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        # Its settings are a file in the user's folder otherwise, and it asks the network.
        patch.setenv("YOLO_CONFIG_DIR", str(tmp_path_factory.mktemp("settings")))
        patch.setenv("YOLO_OFFLINE", "true")
        yield pytest.importorskip("ultralytics")


def squares(folder: Path, count: int = 8) -> Path:
    """A data set in YOLO's layout: one bright square on every image."""
    generator = torch.Generator().manual_seed(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(count):
        pixels = torch.randint(0, 60, (SIZE, SIZE, 3), generator=generator, dtype=torch.uint8)
        x, y = torch.randint(0, SIZE // 2, (2,), generator=generator).tolist()
        pixels[y : y + SIZE // 2, x : x + SIZE // 2] = 255
        Image.fromarray(pixels.numpy()).save(folder / "images" / f"{number}.png")
        middle = [(x + SIZE / 4) / SIZE, (y + SIZE / 4) / SIZE]
        box = " ".join(map(str, [0, *middle, 0.5, 0.5]))
        (folder / "labels" / f"{number}.txt").write_text(box)
    described = folder / "data.yaml"
    described.write_text(f"path: {folder}\ntrain: images\nval: images\nnames: {{0: square}}\n")
    return described


@pytest.mark.parametrize("config", ["yolov5n.yaml", "yolov8n.yaml", "yolo11n.yaml"])
@pytest.mark.parametrize("criterion", ["fpgm", "magnitude"])
@pytest.mark.filterwarnings("ignore")
def test_its_trainer_goes_on(ultralytics: Any, config: str, criterion: str, tmp_path: Path) -> None:
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn.tasks import DetectionModel

    def dense() -> torch.nn.Module:
        torch.manual_seed(0)
        return DetectionModel(config, nc=1, verbose=False)

    model, example = dense(), torch.rand(1, 3, SIZE, SIZE)
    result = sc.prune(model, example, criterion=criterion, budget={"macs": 0.6})
    assert result.after.macs <= 0.6 * result.before.macs

    class Further(DetectionTrainer):
        def get_model(self, cfg: Any = None, weights: Any = None, verbose: bool = True) -> Any:
            return model

        def validate(self) -> Any:
            # Needs torchvision's compiled operators, and eight squares say nothing.
            return {}, 0.0

    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = Further(
        overrides={
            "model": config, "data": str(squares(tmp_path / "squares")), "epochs": 2, "batch": 4,
            "imgsz": SIZE, "device": "cpu", "workers": 0, "plots": False, "val": False,
            "save": False, "project": str(tmp_path), "amp": False, "verbose": False,
            "optimizer": "SGD", "lr0": 0.01, "nbs": 4, "warmup_epochs": 0,
        }
    )  # fmt: skip
    trainer.train()
    assert trainer.model is model
    assert any(not torch.equal(before[key], value) for key, value in model.named_parameters())
    assert all(before[key].shape == value.shape for key, value in model.named_parameters())
    model.float().eval()
    sc.save(model, tmp_path / "small.safetensors")
    again = sc.load(dense(), tmp_path / "small.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again(example)[0], model(example)[0])
    if criterion == "fpgm":
        sc.export(model, example, tmp_path / "small.onnx")
