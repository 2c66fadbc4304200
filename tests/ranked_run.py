"""What one of several processes does in tests: ``OUT TASK...``, under ``accelerate launch``."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

import secateur as sc
from recovering import images, losses, net
from secateur.data import load_data
from secateur.errors import SecateurError


def plain() -> nn.Module:
    """The net without dropout, whose draws differ from process to process; cut and masked."""
    model = net()
    model[4] = nn.Identity()
    sc.prune(model, images()[0][0], budget={"macs": 0.6})
    sc.prune(model, images()[0][0], granularity="element", budget={"sparsity": 0.3})
    return model


def uneven() -> list[Any]:
    """Batches of 11, 11, 11 and 1: two processes share them unevenly, one gets none of the last."""
    whole = [torch.cat(parts)[:34] for parts in zip(*images(), strict=True)]
    return list(zip(*(part.split(11) for part in whole), strict=True))


def train(folder: str | None = None, epochs: int = 3, **options: Any) -> tuple[nn.Module, Any]:
    """Everything on that makes no draws of its own."""
    model, teacher = plain(), net(1)
    history = sc.recover(
        model, uneven(), epochs=epochs, lr=0.02, accumulate=options.pop("accumulate", 1),
        clip_norm=1.0, ema=0.9, teacher=teacher, distill={"temperature": 2.0},
        validation=images(25, 7, seed=1), checkpoint=folder, **options,
    )  # fmt: skip
    return model, history


class Stopping:
    """Batches that end in an error, in all processes at once, in the second epoch."""

    def __init__(self) -> None:
        self._told = 0

    def __len__(self) -> int:
        return 4

    def __iter__(self) -> Any:
        for batch in uneven():
            self._told += 1
            if self._told > 11:
                raise SecateurError("stopped")
            yield batch


def keep(out: Path, model: nn.Module, history: Any) -> None:
    """What this process came to."""
    rank = int(os.environ.get("RANK", "0"))
    tensors = {name: value.clone() for name, value in model.state_dict().items()}
    save_file(tensors, out / f"weights-{rank}.safetensors")
    (out / f"losses-{rank}.json").write_text(json.dumps(losses(history)))


def recover(out: Path) -> None:
    keep(out, *train())


def accumulate(out: Path) -> None:
    keep(out, *train(accumulate=3))


def resume(out: Path) -> None:
    """Two epochs, then stopped in all processes; then the whole."""
    model, teacher = plain(), net(1)
    options: dict[str, Any] = {
        "epochs": 3, "lr": 0.02, "clip_norm": 1.0, "ema": 0.9, "teacher": teacher,
        "distill": {"temperature": 2.0}, "validation": images(25, 7, seed=1),
    }  # fmt: skip
    try:
        sc.recover(model, Stopping(), checkpoint=out / "kept", **options)
    except SecateurError as error:
        assert "stopped" in str(error), error
    else:
        raise AssertionError("it was to be stopped")
    assert list((out / "kept").iterdir()), "nothing was kept"
    keep(out, *train(str(out / "kept")))


class Noting(Dataset):
    """34 examples, and how often one was read."""

    def __init__(self, seed: int = 0) -> None:
        parts = (torch.cat(each)[:34] for each in zip(*images(seed=seed), strict=True))
        self.inputs, self.labels = parts
        self.reads = 0

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Any:
        self.reads += 1
        return self.inputs[index], self.labels[index]


def write_pictures(folder: Path) -> None:
    """What can be learned, as files; every seventh of them is none."""
    from PIL import Image

    examples = zip(*map(torch.cat, zip(*images(), strict=True)), strict=True)
    for number, (pixels, label) in enumerate(examples):
        file = folder / f"class{int(label)}" / f"{number:02d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        bright = (pixels * 60 + 120).clamp(0, 255).to(torch.uint8)
        Image.fromarray(bright.permute(1, 2, 0).numpy()).save(file)
        if number % 7 == 3:
            file.write_bytes(b"no image")


def train_on(batches: Any, validation: Any) -> tuple[nn.Module, Any]:
    model = plain()
    history = sc.recover(
        model, batches, epochs=3, lr=0.02, accumulate=2, recalibrate=False, validation=validation
    )
    return model, history


def train_on_loader() -> tuple[nn.Module, Any, int]:
    """In an order that PyTorch's generator decides; batches of 11, 11, 11 and 1."""
    dataset = Noting()
    return *train_on(
        DataLoader(dataset, 11, shuffle=True), DataLoader(Noting(1), 11)
    ), dataset.reads


def train_on_files(folder: Path) -> tuple[nn.Module, Any, int]:
    """Files of which some are no images; flipped at random where torchvision is installed."""
    flip = importlib.util.find_spec("torchvision") is not None
    data = load_data(f"folder:{folder}", size=6, flip=flip, mean=[0.5] * 3, std=[0.25] * 3)
    part, reads = data.train, []
    read = part.files.read
    part.files.read = lambda index: (reads.append(index), read(index))[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batches = part.batches(9, shuffle=True, seed=3)
        return *train_on(batches, data.val.batches(4)), len(reads)


def train_in_shards(batches: Any = None, folder: Path | None = None) -> tuple[nn.Module, Any]:
    """All that training in shards knows: masks, moments, clipping, groups of batches, a teacher."""
    model, teacher = plain(), net(1)
    # Ahead of a batch norm its gradient is nothing but rounding, which AdamW makes whole steps of.
    model[0].bias.requires_grad_(False)
    history = sc.recover(
        model, batches or uneven(), epochs=3, lr=0.005, optimizer="adamw", accumulate=3,
        clip_norm=1.0, teacher=teacher, distill={"temperature": 2.0},
        validation=images(25, 7, seed=1), checkpoint=folder,
    )  # fmt: skip
    return model, history


def shards(out: Path) -> None:
    """Note how much of the model this process's optimizer steps on, and what it keeps of it."""
    noted: dict[str, int] = {}
    step = torch.optim.AdamW.step

    def watched(self: Any, *given: Any) -> Any:
        result = step(self, *given)
        parameters = [each for group in self.param_groups for each in group["params"]]
        moments = [self.state[each]["exp_avg"].to_local().numel() for each in parameters]
        noted.update(whole=sum(map(torch.numel, parameters)), moments=sum(moments))
        return result

    torch.optim.AdamW.step = watched
    try:
        keep(out, *train_in_shards())
    finally:
        torch.optim.AdamW.step = step
    (out / f"noted-{os.environ['RANK']}.json").write_text(json.dumps(noted))


def shards_resume(out: Path) -> None:
    """Stopped in the second epoch; then the whole."""
    try:
        train_in_shards(Stopping(), out / "kept")
    except SecateurError as error:
        assert "stopped" in str(error), error
    else:
        raise AssertionError("it was to be stopped")
    assert list((out / "kept").iterdir()), "nothing was kept"
    keep(out, *train_in_shards(folder=out / "kept"))


def train_tied() -> tuple[nn.Module, Any]:
    """Two layers of a sequence have one weight."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)
    )
    model[2].weight = model[0].weight
    sc.prune(model, images()[0][0], granularity="element", budget={"sparsity": 0.3})
    return model, sc.recover(model, uneven(), epochs=2, lr=0.02)


def shards_tied(out: Path) -> None:
    keep(out, *train_tied())


def shards_refused(out: Path) -> None:
    failing(out, lambda model: sc.recover(model, images(), epochs=1, ema=0.9))


def loader(out: Path) -> None:
    *made, reads = train_on_loader()
    keep(out, *made)
    note(out, reads)


def files(out: Path) -> None:
    *made, reads = train_on_files(out.parent / "pictures")
    keep(out, *made)
    note(out, reads)


def note(out: Path, reads: int) -> None:
    (out / f"reads-{os.environ['RANK']}.txt").write_text(str(reads))


def halves(out: Path) -> None:
    """Each process has another data set, of one length."""
    rank = int(os.environ["RANK"])
    batches = DataLoader(Noting(rank), 11)
    failing(out, lambda model: sc.recover(model, batches, epochs=1, recalibrate=False))


def lengths(out: Path) -> None:
    """One process has a batch less than the other, which no length tells."""
    rank = int(os.environ["RANK"])

    class Unsized:
        def __iter__(self) -> Any:
            return iter(images()[: 4 - rank])

    failing(out, lambda model: sc.recover(model, Unsized(), epochs=2, recalibrate=False))


def shares(out: Path) -> None:
    """Each process was given its share of the data, as for a loop of one's own."""
    rank = int(os.environ["RANK"])
    failing(out, lambda model: sc.recover(model, images(seed=rank), recalibrate=False))


def weights(out: Path) -> None:
    rank = int(os.environ["RANK"])

    def other(model: nn.Module) -> None:
        with torch.no_grad():
            model[0].bias[0] += rank
        sc.recover(model, images())

    failing(out, other)


def broken(out: Path) -> None:
    """One process fails in the middle of its data."""
    rank = int(os.environ["RANK"])

    class Broken:
        def __iter__(self) -> Any:
            yield images()[0]
            if rank:
                raise OSError("the disk is gone")
            yield images()[1]

    failing(out, lambda model: sc.recover(model, Broken(), recalibrate=False))


def failing(out: Path, action: Any) -> None:
    """Keep the error."""
    model = net()
    rank = int(os.environ["RANK"])
    try:
        action(model)
    except (SecateurError, OSError) as error:
        (out / f"error-{rank}.txt").write_text(f"{type(error).__name__}: {error}")


def scores(out: Path) -> None:
    """One process looks at other data."""
    from accelerate import Accelerator

    rank, first = int(os.environ["RANK"]), images()[0][0]
    options: dict[str, Any] = {"criterion": "taylor", "data": images(seed=rank)}
    model = net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    failing(out, lambda _: sc.prune(model, first, accelerator=Accelerator(cpu=True), **options))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def plans(out: Path) -> None:
    """Plans by data and by magnitude; then one process scores something else."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    rank = accelerator.process_index
    decided = []
    for options in (
        {"criterion": "taylor", "data": images(), "budget": {"macs": 0.5}},
        {"granularity": "2:4"},
    ):
        model = net()
        result = sc.prune(model, images()[0][0], accelerator=accelerator, **options)
        decided.append(result.plan.to_json())
    (out / f"plans-{rank}.json").write_text(json.dumps(decided))
    for granularity in ("channel", "element"):
        model = net()
        with torch.no_grad():
            model[0].weight *= 1 + rank
        before = {name: value.clone() for name, value in model.state_dict().items()}
        try:
            sc.prune(
                model, images()[0][0], granularity=granularity, accelerator=accelerator,
                budget={"macs": 0.5} if granularity == "channel" else {"sparsity": 0.5},
            )  # fmt: skip
        except SecateurError as error:
            (out / f"error-{granularity}-{rank}.txt").write_text(str(error))
        assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


if __name__ == "__main__":
    torch.set_num_threads(1)
    for task in sys.argv[2:]:
        folder = Path(sys.argv[1]) / task
        folder.mkdir(parents=True, exist_ok=True)
        globals()[task](folder)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    # Threads of PyTorch's that still wait for the interpreter abort the process as it ends.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
