"""What users do with a graph form: save, load, export, copy, train, prune again."""

from __future__ import annotations

import copy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import secateur as sc
from parity import outputs, randomise, tensors
from secateur.errors import InputError, PlanError, SecateurError
from secateur.recover import recalibrate_batchnorm

LITERAL = """
import torch
from torch import nn


class Literal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16 * 64, 6)

    def forward(self, x):
        return self.head(self.drop(self.norm(self.conv(x)).relu().view(-1, 1024)))
"""
scope: dict[str, type[nn.Module]] = {"__name__": __name__}
exec(LITERAL, scope)
Literal = scope["Literal"]


def example(batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def small(batch: int = 2, **options: object) -> nn.Module:
    torch.manual_seed(0)
    model = randomise(Literal()).eval()
    return sc.prune(model, example(batch), form="graph", **options).model  # type: ignore[arg-type]


def test_save_and_load_in_a_fresh_process(tmp_path: Path) -> None:
    model = small()
    assert model.conv.weight.shape[0] < 16
    sc.save(model, tmp_path / "small.safetensors")
    torch.save(model(example()), tmp_path / "expected.pt")
    code = f"""
    import secateur as sc

    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    model = sc.load(sc.to_graph(Literal(), x), {str(tmp_path / "small.safetensors")!r}).eval()
    assert torch.equal(model(x), torch.load({str(tmp_path / "expected.pt")!r}))
    """
    program = LITERAL + textwrap.dedent(code)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_load_refuses_what_is_not_the_same_graph(tmp_path: Path) -> None:
    path = sc.save(small(), tmp_path / "small.safetensors")
    with pytest.raises(PlanError, match="to_graph"):
        sc.load(Literal(), path)
    larger = sc.to_graph(nn.Sequential(Literal(), nn.ReLU()), example())
    with pytest.raises(PlanError, match="another model"):
        sc.load(larger, path)

    class Relu(Literal):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    with pytest.raises(PlanError, match="another graph form"):
        sc.load(sc.to_graph(Relu(), example()), path)
    sequence = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    plan = sc.prune(copy.deepcopy(sequence), torch.zeros(2, 3)).plan
    with pytest.raises(PlanError, match="the model itself"):
        plan.apply(sc.to_graph(sequence, torch.zeros(2, 3)))


@pytest.mark.parametrize("batch", [1, 3])
def test_the_batch_size_stays_free(batch: int) -> None:
    model = small(batch)
    whole = model(example(4))
    assert whole.shape == (4, 6)
    for size in (1, 2):
        torch.testing.assert_close(model(example(4)[:size]), whole[:size])


def test_a_size_that_the_graph_does_not_hold_is_refused() -> None:
    model = small()
    with pytest.raises(InputError, match=r"of \[any, 3, 8, 8\], not of \[2, 3, 4, 16\]"):
        model(torch.zeros(2, 3, 4, 16))


def test_export_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)
    model = small()
    exported = sc.export(model, example(), tmp_path / "small.onnx")
    assert exported.dynamic
    assert exported.error is not None and exported.error < 1e-4


def test_a_copy_is_a_model_of_its_own(tmp_path: Path) -> None:
    model = small()
    copied = copy.deepcopy(model)
    assert sc.history(copied) == sc.history(model)
    assert [m.training for m in copied.modules()] == [m.training for m in model.modules()]
    assert torch.equal(copied(example()), model(example()))
    with torch.no_grad():
        copied.head.weight.zero_()
    assert not torch.equal(copied(example()), model(example()))
    path = sc.save(copied, tmp_path / "copy.safetensors")
    loaded = sc.load(sc.to_graph(Literal(), example()), path).eval()
    assert torch.equal(loaded(example()), copied(example()))


@pytest.mark.parametrize("form", ["python", "graph"])
def test_pruned_twice(form: str, tmp_path: Path) -> None:
    first = small(budget={"params": 0.7})
    before = first.conv.weight.shape[0]
    result = sc.prune(first, example(), form=form, budget={"params": 0.6})  # type: ignore[arg-type]
    assert (result.model is first) == (form == "python")
    assert result.model.conv.weight.shape[0] < before
    assert len(sc.history(result.model)) == 2
    path = sc.save(result.model, tmp_path / "twice.safetensors")
    loaded = sc.load(sc.to_graph(Literal(), example()), path).eval()
    assert torch.equal(loaded(example()), result.model(example()))


def test_pruned_step_by_step_with_training_between() -> None:
    torch.manual_seed(0)
    dense = randomise(Literal())
    seen = []
    for result in sc.Pruner(dense, example(), form="graph", steps=2, budget={"params": 0.5}):
        seen.append(result.model)
        with torch.no_grad():
            result.model.head.bias.fill_(3.0)
    assert seen[0] is seen[1]
    assert bool((seen[1].head.bias == 3.0).all())
    assert dense.conv.weight.shape[0] == 16


def test_granularity_and_batch_norm_see_the_layers() -> None:
    result = sc.prune(Literal(), example(), form="graph", granularity="filter")
    model = result.model
    assert model.conv.out_channels == model.norm.num_features == model.conv.weight.shape[0]
    assert recalibrate_batchnorm(model, [example(8)]) == 1
    activations = F.conv2d(example(8), model.conv.weight, model.conv.bias, padding=1)
    torch.testing.assert_close(model.norm.running_mean, activations.mean((0, 2, 3)))


class Modes(nn.Module):
    """Everything that trains otherwise than it infers, and that the graph can follow."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.batch = nn.BatchNorm2d(12)
        self.cumulative = nn.BatchNorm2d(12, momentum=None)
        self.instance = nn.InstanceNorm2d(12, affine=True, track_running_stats=True)
        self.rnn = nn.LSTM(12, 10, 2, dropout=0.5, batch_first=True)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(10, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.instance(self.cumulative(self.batch(self.conv(x)))).flatten(2).transpose(1, 2)
        x = F.dropout(self.drop(self.rnn(x)[0]), 0.2, self.training)
        return self.head(x.mean(1))


def patch(batch: int = 2) -> Tensor:
    return example(batch)[:, :, :2, :2]


def test_training_is_what_it_was() -> None:
    torch.manual_seed(0)
    model = randomise(Modes())
    form = sc.to_graph(model, patch())
    assert all(module.training for module in form.modules())
    for _ in range(2):
        results = []
        for net in (model, form):
            torch.manual_seed(1)
            result = net(patch(4))
            result.square().mean().backward()
            results.append(result)
        torch.testing.assert_close(*results)
    ours, theirs = tensors(form), tensors(model)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
        torch.testing.assert_close(ours[name].grad, theirs[name].grad)
    torch.testing.assert_close(outputs(form.eval(), patch()), outputs(model.eval(), patch()))


def test_one_layer_can_be_frozen() -> None:
    form = sc.to_graph(Modes().train(), patch())
    form.batch.eval()
    before = {name: buffer.clone() for name, buffer in form.named_buffers()}
    form(patch(4))
    changed = {n.partition(".")[0] for n, b in form.named_buffers() if not b.equal(before[n])}
    assert changed == {"cumulative", "instance"}


def test_modes_are_kept() -> None:
    model = Modes().train()
    model.batch.eval()
    model.drop.eval()
    form = sc.to_graph(model, patch())
    modes = {path: module.training for path, module in form.named_modules()}
    assert modes == {path: path not in ("batch", "drop") for path in modes}


class Frozen(nn.Module):
    """A norm whose statistics the code freezes, and a dropout that is always on."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)
        self.register_buffer("mean", torch.rand(8))
        self.register_buffer("var", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.batch_norm(self.conv(x), self.mean, self.var, training=False)
        return F.dropout(x, 0.5, training=True).mean((1, 2, 3))


def test_what_does_not_follow_the_mode_stays() -> None:
    model = Frozen().train()
    form = sc.to_graph(model, example())
    for mode in (True, False):
        torch.manual_seed(0)
        expected = model.train(mode)(example())
        torch.manual_seed(0)
        torch.testing.assert_close(form.train(mode)(example()), expected)
    assert torch.equal(form.mean, model.mean)


def test_shared_layers_stay_one() -> None:
    shared = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))
    form = sc.to_graph(nn.Sequential(shared, nn.ReLU(), shared).train(), torch.randn(3, 6))
    form(torch.randn(3, 6))
    named = dict(form.named_buffers(remove_duplicate=False))
    assert named["0.1.running_mean"] is named["2.1.running_mean"]
    assert int(named["0.1.num_batches_tracked"]) == 2
    assert form.get_parameter("0.0.weight") is form.get_parameter("2.0.weight")


class FixedBatch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 16), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.a(x).reshape(1, 32))


def test_a_batch_size_that_the_code_fixes_is_checked() -> None:
    form = sc.to_graph(FixedBatch(), torch.randn(2, 5))
    assert form(torch.randn(2, 5)).shape == (1, 3)
    with pytest.raises(InputError, match=r"of \[2, 5\]"):
        form(torch.randn(4, 5))


class Counts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.calls = nn.Linear(5, 4), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.a(x) * float(x.shape[0] if torch.compiler.is_compiling() else 1)


def test_a_capture_of_something_else_is_refused() -> None:
    model = Counts()
    with pytest.raises(InputError, match="something else"):
        sc.to_graph(model, torch.randn(2, 5))
    assert model.calls == 0


def test_inputs_that_the_model_rejects() -> None:
    with pytest.raises(SecateurError, match="rejects the example inputs"):
        sc.to_graph(Literal(), torch.zeros(2, 4, 8, 8))


def test_keyword_and_nested_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 12), nn.Linear(12, 2)

        def forward(self, pair: tuple[Tensor, Tensor], scale: Tensor | None = None) -> Tensor:
            y = self.a(pair[0] + pair[1])
            return self.b(y.view(-1, 12) if scale is None else (y * scale).view(-1, 12))

    def given(batch: int) -> dict[str, object]:
        pair = (torch.randn(batch, 4), torch.randn(batch, 4))
        return {"pair": pair, "scale": torch.randn(batch, 1)}

    result = sc.prune(Two(), given(1), form="graph")
    assert result.model.a.weight.shape[0] == 6
    assert result.model(**given(3)).shape == (3, 2)


def test_a_setting_that_the_graph_does_not_hold_is_refused() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 12), nn.Linear(12, 2)

        def forward(self, x: Tensor, scale: float = 1.0, mask: Tensor | None = None) -> Tensor:
            y = self.a(x) * scale
            return self.b(y if mask is None else y * mask)

    x = torch.randn(2, 4)
    form = sc.to_graph(Scaled(), {"x": x, "scale": 2.0, "mask": None})
    assert form(x=x, scale=2.0, mask=None).shape == (2, 2)
    with pytest.raises(InputError, match=r"'scale' = 2\.0, not = 3\.0"):
        form(x=x, scale=3.0, mask=None)
    with pytest.raises(InputError, match=r"'mask' = None, not of \[2, 12\]"):
        form(x=x, scale=2.0, mask=torch.ones(2, 12))


class Slices(nn.Module):
    """Slices that count from the end, that step, and narrow."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(5, 24)
        self.b, self.c = nn.Linear(6, 3), nn.Linear(8, 3)
        self.d = nn.Linear(24, 24)
        self.e = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        tail, middle = self.b(y[:, -6:]), self.c(y.narrow(1, 4, 8))
        return tail + middle + self.e(self.d(y)[:, 1::2].relu())


@pytest.mark.parametrize("seed", range(6))
def test_slices_follow(seed: int) -> None:
    torch.manual_seed(0)
    model = randomise(Slices()).double()
    inputs = torch.randn(2, 5, dtype=torch.float64)
    result = sc.prune(
        model, inputs, form="graph", criterion="random", seed=seed, budget={"params": 0.5},
        allocation="uniform",
    )  # fmt: skip
    assert result.error is not None and result.error < 1e-8
    shapes = {name: tuple(p.shape) for name, p in result.model.named_parameters()}
    assert shapes["a.weight"][0] < 24
    assert shapes["b.weight"][1] < 6 or shapes["c.weight"][1] < 8
    assert shapes["e.weight"][1] < 12
