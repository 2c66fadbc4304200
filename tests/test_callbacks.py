"""Callbacks: the loops that people have call each method exactly once around every update."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from secateur.callbacks import Followers
from secateur.errors import InputError, MissingExtraError

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(8) % 2


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2))


def parts(model: nn.Module) -> list[Any]:
    return [
        sc.regularizer("slimming:strength=0.1,proximal=True", model),
        sc.regularizer("l1:strength=0.01", model),
        sc.dynamic_sparsity("set:sparsity=0.5,every=2", model),
    ]


def by_hand(steps: int) -> dict[str, torch.Tensor]:
    model = net()
    slimming, l1, moving = parts(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        for each in (slimming, l1, moving):
            each.add_gradients()
        optimizer.step()
        slimming.after_step(0.1)
        l1.after_step(0.1)
        moving.step()
    return model.state_dict()


def same(model: nn.Module, wanted: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())


def test_a_plain_loop_stays_as_it_is() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    followers = sc.follow(optimizer, *parts(model))
    for _ in range(5):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(X), Y).backward()
        optimizer.step()
    followers.finish()
    assert same(model, by_hand(5))
    optimizer.step()
    assert followers.parts[0].steps_done == 5


def test_what_is_no_method_is_one_clear_line() -> None:
    with pytest.raises(InputError, match="Linear is no regularizer"):
        Followers(nn.Linear(1, 1))  # type: ignore[arg-type]
    from secateur.regularizers import L1

    with pytest.raises(InputError, match="not attached"):
        Followers(L1())


def test_rewinding_follows_too() -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    rewind = sc.Rewind(model, optimizer, at=2)
    sc.follow(optimizer, rewind)
    for _ in range(3):
        model(X).sum().backward()
        optimizer.step()
    assert rewind.steps_done == 3
    rewind.weights({})


def test_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate", reason="the trainer itself needs accelerate")

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    model = Wrapped()
    callback = sc.huggingface_callback(*parts(model.net))
    assert isinstance(callback, transformers.TrainerCallback)
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=4, per_device_train_batch_size=8, report_to=[], use_cpu=True,
        gradient_accumulation_steps=1, save_strategy="no", disable_tqdm=True, max_grad_norm=0,
    )  # fmt: skip
    data = [{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    transformers.Trainer(
        model, arguments, train_dataset=data, callbacks=[callback], optimizers=(optimizer, constant)
    ).train()
    wanted = by_hand(4)
    for key, value in model.net.state_dict().items():
        # The trainer shuffles; sums over a batch then differ in their last bits.
        assert torch.allclose(value, wanted[key], atol=1e-5), key


def test_hugging_face_events() -> None:
    """The trainer's own handler, in the order of its loop: equal bit by bit, without shuffling."""
    handling = pytest.importorskip("transformers.trainer_callback")
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callback = sc.huggingface_callback(*parts(model))
    handler = handling.CallbackHandler([callback], model, None, optimizer, None)
    state, control = handling.TrainerState(), handling.TrainerControl()
    handler.on_train_begin(None, state, control)
    for _ in range(4):
        handler.on_step_begin(None, state, control)
        nn.functional.cross_entropy(model(X), Y).backward()
        handler.on_pre_optimizer_step(None, state, control)
        optimizer.step()
        handler.on_optimizer_step(None, state, control)
        model.zero_grad()
        handler.on_step_end(None, state, control)
    handler.on_train_end(None, state, control)
    assert same(model, by_hand(4))


def lightning_run(
    folder: Path, steps: int, accumulate: int = 1, resume: bool = False
) -> tuple[nn.Module, Any]:
    """Train with Lightning's own trainer, up to so many updates; resume from its checkpoint."""
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
            x, y = batch
            return nn.functional.cross_entropy(self.net(x), y)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.net.parameters(), lr=0.1)

    module = Module()
    callback = sc.lightning_callback(*parts(module.net))
    assert isinstance(callback, pl.Callback)
    batches = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(X.repeat(accumulate, 1), Y.repeat(accumulate)), batch_size=8
    )
    trainer = pl.Trainer(
        default_root_dir=folder, max_epochs=steps, accumulate_grad_batches=accumulate,
        callbacks=[callback], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    checkpoint = str(folder / "last.ckpt")
    trainer.fit(module, batches, ckpt_path=checkpoint if resume else None, weights_only=True)
    trainer.save_checkpoint(checkpoint)
    return module.net, callback


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path, accumulate: int) -> None:
    model, callback = lightning_run(tmp_path, 4, accumulate)
    wanted = by_hand(4)
    for key in ("0.weight", "1.weight", "3.weight"):
        assert torch.allclose(model.state_dict()[key], wanted[key], atol=1e-6)
    assert callback.state_dict()["parts"][0]["steps"] == 4


@pytest.mark.filterwarnings("ignore")
def test_lightning_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    lightning_run(tmp_path, 2)
    model, callback = lightning_run(tmp_path, 5, resume=True)
    assert same(model, by_hand(5))
    assert [part["steps"] for part in callback.state_dict()["parts"]] == [5, 5, 5]


@pytest.mark.parametrize(
    ("make", "module", "extra"),
    [
        ("lightning_callback", "lightning", "lightning"),
        ("huggingface_callback", "transformers", "hf"),
    ],
)
def test_what_is_not_installed_is_named(
    make: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str, *rest: Any, **options: Any) -> Any:
        if name.split(".")[0] in (module, "pytorch_lightning"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **options)

    real = importlib.import_module
    monkeypatch.setattr(importlib, "import_module", absent)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    model = net()
    with pytest.raises(MissingExtraError, match=rf"secateur\[{extra}\]"):
        getattr(sc, make)(sc.regularizer("l1", model))
