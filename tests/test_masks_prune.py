"""Masks under pruning: step by step, before a physical cut, in files, and when something fails."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import secateur as sc
from secateur import sparsify
from secateur.masks import keeper_of


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3),
        nn.Flatten(),
        nn.Linear(24, 5),
    )


def images() -> Tensor:
    return torch.randn(2, 3, 4, 4)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 2) -> None:
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        model(images()).square().sum().backward()
        optimizer.step()


def zeros(masks: dict[str, Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


def check(model: nn.Module) -> None:
    for name, mask in sc.masks_of(model).items():
        owner, _, leaf = name.rpartition(".")
        weight = getattr(model.get_submodule(owner), leaf).detach()
        assert torch.count_nonzero(weight[~mask]) == 0 and torch.count_nonzero(weight[mask]) > 0


def snapshot(model: nn.Module) -> dict[str, object]:
    return {
        "state": {key: tensor.clone() for key, tensor in model.state_dict().items()},
        "masks": sc.masks_of(model),
        "history": sc.history(model),
        "hooks": [len(p._backward_hooks or ()) for p in model.parameters()],
        "module hooks": [
            (len(m._forward_pre_hooks), len(m._load_state_dict_post_hooks), sorted(vars(m)))
            for m in model.modules()
        ],
        "dense": [
            keeper.dense() for p in model.parameters() if (keeper := keeper_of(p)) is not None
        ],
    }


def same(before: dict[str, object], after: dict[str, object]) -> None:
    for key in ("state", "masks", "dense"):
        torch.testing.assert_close(after[key], before[key], rtol=0, atol=0)
    for key in ("history", "hooks", "module hooks"):
        assert after[key] == before[key]


@pytest.mark.parametrize("schedule", ["agp", "iterative"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_steps_count_exactly_and_masks_only_grow(schedule: str, allocation: str) -> None:
    model = net()
    total = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=0.01)
    train(model, optimizer)
    pruner = sc.Pruner(
        model,
        images(),
        schedule=schedule,
        steps=4,
        granularity="element",
        allocation=allocation,
        budget={"sparsity": 0.9},
        optimizer=optimizer,
    )
    held: dict[str, Tensor] = {}
    for step, _ in enumerate(pruner, start=1):
        masks = sc.masks_of(model)
        assert zeros(masks) == int(pruner.target(step)["sparsity"] * total + 1e-9)
        assert all(not bool((masks[name] & ~mask).any()) for name, mask in held.items())
        train(model, optimizer)
        check(model)
        held = masks
    assert len(sc.history(model)) == 4


@given(
    first=st.sampled_from(["element", "kernel", "vector:4", "block:2x2", "shape"]),
    second=st.sampled_from(["element", "kernel", "vector:4", "run:3", "block:4x2"]),
    criterion=st.sampled_from(["magnitude", "random"]),
    low=st.floats(0.05, 0.5),
    more=st.floats(0.0, 0.3),
)
@settings(max_examples=25, deadline=None)
def test_pruning_again_counts_the_zeros_that_are_there(
    first: str, second: str, criterion: str, low: float, more: float
) -> None:
    model = net()
    options = {"ignore": ["5"], "criterion": criterion}
    sc.prune(model, images(), granularity=first, budget={"sparsity": low}, **options)
    before = sc.masks_of(model)
    high = zeros(before) / 648 + more
    result = sc.prune(model, images(), granularity=second, budget={"sparsity": high}, **options)
    after = sc.masks_of(model)
    assert all(not bool((after[name] & ~mask).any()) for name, mask in before.items())
    largest = {"element": 1, "kernel": 9, "vector:4": 4, "run:3": 3, "block:4x2": 8}[second]
    assert 0 <= zeros(after) - int(high * 648 + 1e-9) < largest
    assert {n: m.tolist() for n, m in result.plan.masks.items()} == {
        n: m.tolist() for n, m in after.items()
    }


def test_a_lower_sparsity_leaves_what_is_zero() -> None:
    model = net()
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.5})
    before = sc.masks_of(model)
    result = sc.prune(model, images(), granularity="element", budget={"sparsity": 0.2})
    assert zeros(sc.masks_of(model)) == zeros(before) == zeros(result.plan.masks)


@pytest.mark.parametrize("form", ["python", "graph"])
def test_a_physical_cut_cuts_the_masks(form: str, tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    train(model, optimizer)
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.4})
    dense = keeper_of(model[3].weight).dense()  # type: ignore[union-attr]
    masks = sc.masks_of(model)
    given = {"optimizer": optimizer} if form == "python" else {"form": "graph"}
    result = sc.prune(model, images(), budget={"macs": 0.6}, **given)
    small = result.model
    weight = small.get_parameter("3.weight")
    assert 0 < weight.shape[1] < 8
    cuts = result.plan.removed["3.weight"]

    def cut(tensor: Tensor) -> Tensor:
        for dim, gone in cuts.items():
            stay = sorted(set(range(tensor.shape[dim])) - set(gone))
            tensor = tensor.index_select(dim, torch.tensor(stay))
        return tensor

    if form == "graph":
        sc.save(small, tmp_path / "graph.safetensors")
        loaded = sc.load(sc.to_graph(net(), images()), tmp_path / "graph.safetensors")
        torch.testing.assert_close(sc.masks_of(loaded), sc.masks_of(small))
    mask = cut(masks["3.weight"])
    assert torch.equal(sc.masks_of(small)["3.weight"], mask)
    train(small, optimizer if form == "python" else torch.optim.SGD(small.parameters(), lr=0.01))
    check(small)
    sc.remove_masks(small)
    assert torch.equal(weight[~mask], cut(dense)[~mask])


@pytest.mark.parametrize("style", ["weight_norm", "spectral_norm", "old weight_norm"])
def test_a_physical_cut_of_a_computed_masked_weight(style: str) -> None:
    model = computed(style)
    masks = {name: torch.rand(p.shape) > 0.4 for name, p in _effective(model).items()}
    sc.apply_masks(model, masks)
    try:
        result = sc.prune(model, torch.randn(2, 6), budget={"params": 0.7})
    except sc.errors.NothingToPruneError:
        # Where the graph protects what a hook computes, nothing goes, and with a reason.
        assert style != "weight_norm"
        return
    removed = result.plan.removed
    model(torch.randn(2, 6))
    for name, mask in sc.masks_of(model).items():
        whole = masks[name]
        assert mask.shape == _effective(model)[name].shape
        assert mask.numel() < whole.numel()
    assert removed
    check(model)


def computed(style: str) -> nn.Sequential:
    torch.manual_seed(0)
    make = {
        "weight_norm": parametrizations.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "old weight_norm": nn.utils.weight_norm,
        "old spectral_norm": nn.utils.spectral_norm,
    }[style]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(
            make(nn.Linear(6, 8)), nn.ReLU(), make(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)
        )


def _effective(model: nn.Module) -> dict[str, Tensor]:
    return {
        f"{path}.weight": module.weight.detach()
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


@pytest.mark.parametrize("style", ["weight_norm", "spectral_norm", "old weight_norm"])
def test_computed_weights_are_pruned_and_saved_masked(style: str, tmp_path: Path) -> None:
    model = computed(style)
    x = torch.randn(2, 6)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    result = sc.prune(model, x, granularity="element", budget={"sparsity": 0.5})
    assert result.error == 0.0
    for name, buffer in buffers.items():
        assert torch.equal(model.get_buffer(name), buffer)
    assert zeros(sc.masks_of(model)) == 68
    again = sc.prune(model, x, granularity="element", budget={"sparsity": 0.75})
    assert zeros(sc.masks_of(model)) == 102 and again.error == 0.0
    model.eval()
    check(model)
    sc.save(model, tmp_path / "masked.safetensors")
    loaded = sc.load(computed(style), tmp_path / "masked.safetensors").eval()
    assert torch.equal(loaded(x), model(x))
    check(loaded)


SCRIPT = """
import sys, torch
from torch import nn
import secateur as sc
from tests.test_masks_prune import check, images, net, train, zeros
folder = sys.argv[1]
model = net()
with torch.no_grad():
    for p in model.parameters():
        p.normal_()
model = sc.load(model, folder + "/masked.safetensors").eval()
assert torch.equal(model(torch.load(folder + "/x.pt")), torch.load(folder + "/y.pt"))
assert zeros(sc.masks_of(model)) == int(sys.argv[2])
train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1))
check(model)
mask = sc.masks_of(model)["3.weight"]
sc.remove_masks(model)
assert torch.count_nonzero(model[3].weight[~mask]) == 0
"""


def test_a_saved_model_loads_masked_in_a_fresh_process(tmp_path: Path) -> None:
    model = net()
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.4})
    sc.prune(model, images(), budget={"macs": 0.7})
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.6})
    train(model, torch.optim.Adam(model.parameters()))
    sc.save(model, tmp_path / "masked.safetensors")
    x = images()
    torch.save(x, tmp_path / "x.pt")
    torch.save(model.eval()(x).detach(), tmp_path / "y.pt")
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(Path(sc.__file__).parents[1]), str(root)])
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path),
         str(zeros(sc.masks_of(model)))],
        check=True, env={**os.environ, "PYTHONPATH": path}, cwd=root,
    )  # fmt: skip


def test_masks_that_no_plan_of_the_model_tells_of_are_saved(tmp_path: Path) -> None:
    model = net()
    mask = torch.rand(5, 24) > 0.5
    sc.apply_masks(model[5], {"weight": mask})
    assert sc.history(model) == []
    sc.save(model, tmp_path / "part.safetensors")
    loaded = sc.load(net(), tmp_path / "part.safetensors")
    assert torch.equal(sc.masks_of(loaded)["5.weight"], mask)


def test_masks_that_moved_are_saved_as_they_are(tmp_path: Path) -> None:
    model = net()
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.5})
    sc.prune(model, images(), budget={"macs": 0.7})
    moved = ~sc.masks_of(model)["5.weight"]
    keeper_of(model[5].weight).change(moved, restore=True)  # type: ignore[union-attr]
    path, x = tmp_path / "moved.safetensors", images()
    sc.save(model, path)
    expected = model.eval()(x)
    keeper_of(model[5].weight).change(~moved)  # type: ignore[union-attr]
    for target in (net(), model, model):
        loaded = sc.load(target, path).eval()
        assert torch.equal(loaded(x), expected)
        assert torch.equal(sc.masks_of(loaded)["5.weight"], moved)
        sc.save(loaded, path)
        assert len(sc.history(loaded)) == 3


def test_a_file_that_does_not_fit_leaves_the_masks(tmp_path: Path) -> None:
    model, other = net(), net()
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.5})
    sc.prune(other, images(), budget={"macs": 0.7})
    sc.save(other, tmp_path / "other.safetensors")
    before = snapshot(model)
    with pytest.raises(sc.errors.PlanError):
        sc.load(model, tmp_path / "other.safetensors")
    same(before, snapshot(model))


def test_masks_that_were_taken_off_a_part_are_not_saved(tmp_path: Path) -> None:
    model = net()
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.5})
    sc.remove_masks(model[5])
    sc.save(model, tmp_path / "part.safetensors")
    loaded = sc.load(net(), tmp_path / "part.safetensors")
    assert list(sc.masks_of(loaded)) == ["0.weight", "3.weight"]
    assert torch.equal(loaded[5].weight, model[5].weight)


@pytest.mark.parametrize("end", [sc.remove_masks, sc.finalize])
def test_masks_that_are_gone_do_not_come_back_from_a_file(end: object, tmp_path: Path) -> None:
    model = net()
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.5})
    sc.prune(model, images(), budget={"macs": 0.7})
    end(model)  # type: ignore[operator]
    train(model, torch.optim.SGD(model.parameters(), lr=0.01))
    sc.save(model, tmp_path / "plain.safetensors")
    loaded = sc.load(net(), tmp_path / "plain.safetensors")
    assert sc.masks_of(loaded) == {}
    x = images()
    assert torch.equal(loaded.eval()(x), model.eval()(x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("style", ["plain", "weight_norm", "old weight_norm"])
def test_a_failed_check_puts_everything_back(
    style: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = (net(), images()) if style == "plain" else (computed(style), torch.randn(2, 6))
    if masked:
        sc.prune(model, x, granularity="element", budget={"sparsity": 0.3})
    before = snapshot(model)
    monkeypatch.setattr(sparsify, "difference", lambda *given: (1.0, 1.0))
    with pytest.raises(sc.errors.ParityError):
        sc.prune(model, x, granularity="element", budget={"sparsity": 0.6})
    same(before, snapshot(model))
    if masked and style == "plain":
        train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
        check(model)


def test_a_failed_cut_puts_masks_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = net()
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.3})
    before = snapshot(model)
    monkeypatch.setattr(sys.modules["secateur.proof"], "difference", lambda *given: (1.0, 1.0))
    with pytest.raises(sc.errors.ParityError):
        sc.prune(model, images(), budget={"macs": 0.5})
    same(before, snapshot(model))
    train(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    check(model)


def test_an_averaged_copy_is_masked_alike() -> None:
    model = net()
    ema = copy.deepcopy(model)
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.5}, ema=ema)
    masks = sc.masks_of(model)
    assert {n: m.tolist() for n, m in sc.masks_of(ema).items()} == {
        n: m.tolist() for n, m in masks.items()
    }


def test_a_plan_with_a_mask_that_does_not_fit_changes_nothing() -> None:
    model = net()
    before = snapshot(model)
    for plan in (
        sc.Plan(masks={"5.weight": torch.ones(5, 23, dtype=torch.bool)}),
        sc.Plan(masks={"5.wieght": torch.ones(5, 24, dtype=torch.bool)}),
    ):
        with pytest.raises(sc.errors.PlanError, match="another model"):
            plan.apply(model)
    same(before, snapshot(model))


@given(shape=st.lists(st.integers(0, 6), max_size=4), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_plan_writes_and_reads_its_masks(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    plan = sc.Plan(masks={"w": mask})
    assert torch.equal(sc.Plan.from_json(plan.to_json()).masks["w"], mask)


@pytest.mark.parametrize("bits", ["!", "AAAA", "eJw=", 3, None])
def test_a_damaged_mask_is_one_error(bits: object) -> None:
    data = json.loads(sc.Plan(masks={"w": torch.ones(9, dtype=torch.bool)}).to_json())
    data["masks"]["w"]["bits"] = bits
    with pytest.raises(sc.errors.PlanError, match="not a plan"):
        sc.Plan.from_json(json.dumps(data))


def test_a_masked_model_is_exported(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = net().eval()
    sc.prune(model, images(), granularity="element", budget={"sparsity": 0.5})
    sc.export(model, images(), tmp_path / "masked.onnx")
    check(model)


@pytest.mark.parametrize("style", ["weight_norm", "spectral_norm", "old weight_norm"])
def test_a_weight_that_is_computed_keeps_its_layout(style: str) -> None:
    """Convolutions in channels_last: what is masked is laid out as what was computed."""
    wrap = {
        "weight_norm": parametrizations.weight_norm,
        "spectral_norm": parametrizations.spectral_norm,
        "old weight_norm": nn.utils.weight_norm,
    }[style]
    torch.manual_seed(0)
    model = nn.Sequential(wrap(nn.Conv2d(3, 8, 3)), nn.ReLU(), wrap(nn.Conv2d(8, 4, 3)))
    model = model.to(memory_format=torch.channels_last).eval()
    x = torch.randn(2, 3, 12, 12).to(memory_format=torch.channels_last)
    model(x)
    strides = [model[at].weight.stride() for at in (0, 2)]
    sc.prune(model, x, granularity="element", budget={"sparsity": 0.5})
    model(x)
    assert [model[at].weight.stride() for at in (0, 2)] == strides
    (model(x).sum()).backward()
    for at in (0, 2):
        mask = sc.masks_of(model)[f"{at}.weight"]
        assert not model[at].weight[~mask].any()
