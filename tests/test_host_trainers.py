"""Training loops that people have go on after surgery in their middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur as sc
from recovering import images

FIRST = images()[0][0]


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 3),
    )  # fmt: skip


def parts(model: nn.Module) -> list[Any]:
    """A regularizer of scales, one of weights."""
    return [
        sc.regularizer("slimming:strength=0.001", model),
        sc.regularizer("l1:strength=0.0001", model),
    ]


def cut(model: nn.Module, optimizer: Any) -> None:
    """Prune to half; the optimizer keeps the momentum of what stays, bit for bit."""
    momentum = {
        id(parameter): state["momentum_buffer"].clone()
        for parameter, state in optimizer.state.items()
        if state.get("momentum_buffer") is not None
    }
    result = sc.prune(model, FIRST, budget={"macs": 0.5}, optimizer=optimizer)
    assert result.after.macs <= 0.5 * result.before.macs
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            buffer = optimizer.state[parameter].get("momentum_buffer")
            assert buffer is not None and buffer.shape == parameter.shape
    names = dict(model.named_parameters())
    for name, dims in result.plan.removed.items():
        if name not in names:
            continue
        kept = momentum[id(names[name])]
        for dim, gone in dims.items():
            stays = [at for at in range(kept.shape[int(dim)]) if at not in set(gone)]
            kept = kept.index_select(int(dim), torch.tensor(stays))
        assert torch.equal(optimizer.state[names[name]]["momentum_buffer"], kept), name


def returns(model: nn.Module, folder: Path) -> None:
    """Saved and loaded into a dense model, it computes the same bits."""
    model.eval()
    assert model[0].out_channels < 16
    sc.save(model, folder / "small.safetensors")
    again = sc.load(net(), folder / "small.safetensors").eval()
    with torch.no_grad():
        assert torch.equal(again(FIRST), model(FIRST))


def test_a_plain_loop(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    followers = sc.follow(optimizer, *parts(model))
    losses = []
    for epoch in range(6):
        if epoch == 2:
            cut(model, optimizer)
        for x, y in images():
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    followers.finish()
    assert losses[-1] < losses[2]
    assert followers.parts[0].steps_done == 24
    returns(model, tmp_path)


def test_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            logits = self.net(x)
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    class Pruning(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if state.global_step == 3:
                cut(given["model"].net, given["optimizer"])

    model = Wrapped()
    arguments = transformers.TrainingArguments(
        str(tmp_path), max_steps=8, per_device_train_batch_size=12, report_to=[], use_cpu=True,
        save_strategy="no", disable_tqdm=True, logging_steps=1,
    )  # fmt: skip
    data = [{"x": x, "labels": y} for batch in images() for x, y in zip(*batch, strict=True)]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    constant = torch.optim.lr_scheduler.ConstantLR(optimizer, 1.0)
    follower = sc.huggingface_callback(*parts(model.net))
    trainer = transformers.Trainer(
        model, arguments, train_dataset=data, callbacks=[follower, Pruning()],
        optimizers=(optimizer, constant),
    )  # fmt: skip
    trainer.train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert trainer.state.global_step == 8
    trainer.evaluate(data)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    returns(model.net, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_lightning(tmp_path: Path) -> None:
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    class Pruning(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
            if trainer.current_epoch == 1:
                cut(module.net, trainer.optimizers[0])

    module = Module()
    follower = sc.lightning_callback(*parts(module.net))
    trainer = pl.Trainer(
        default_root_dir=tmp_path, max_epochs=3, callbacks=[follower, Pruning()],
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, torch.utils.data.DataLoader(images(), batch_size=None))
    assert trainer.global_step == 12
    assert follower.state_dict()["parts"][0]["steps"] == 12
    returns(module.net, tmp_path)


def test_a_replica_is_pruned_and_wrapped_anew(tmp_path: Path) -> None:
    """DistributedDataParallel in a process group of one, as a loop of one's own has it."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1
    )
    try:
        model = net()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        wrapped = nn.parallel.DistributedDataParallel(model)
        for epoch in range(4):
            if epoch == 2:
                cut(wrapped.module, optimizer)
                wrapped = nn.parallel.DistributedDataParallel(model)
            for x, y in images():
                optimizer.zero_grad()
                nn.functional.cross_entropy(wrapped(x), y).backward()
                optimizer.step()
        returns(model, tmp_path)
    finally:
        torch.distributed.destroy_process_group()
