"""compile keeps what is fastest, says why, and notices what changes afterwards."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.sparse_runtime import VARIANTS, masked
from torch import Tensor, nn

import secateur as sc
from secateur.errors import InputError
from secateur.sparse import candidates as ways
from secateur.sparse import choices, compiling, dense
from secateur.sparse.activations import ACTIVATIONS
from secateur.sparse.layer import SparseLayer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 16, 3, 2, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.shared = nn.Linear(16, 16)
        self.head = nn.Linear(16, 10)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(self.first(x).relu()).relu()
        x = self.depthwise(x).mean((2, 3))
        return self.head(self.shared(self.shared(x)))


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    model = Net().eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name in ("second", "depthwise", "shared", "head", "unused"):
            layer = getattr(model, name)
            layer.weight.copy_(masked(layer.weight, 4, 0.1, generator))
    return model


IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, float]], list[tuple[int, ...]]]:
    """Decides what candidates take, and notes the sizes that were asked for."""

    def wind(medians: dict[str, float]) -> list[tuple[int, ...]]:
        asked: list[tuple[int, ...]] = []

        def timed(layer: nn.Module, makers: dict, shape: tuple[int, ...]) -> dict[str, float]:
            asked.append(shape)
            for make in makers.values():
                made, x = make(layer), torch.randn(shape)
                torch.testing.assert_close(made(x), layer(x), atol=0.02, rtol=0.02)
            return {name: medians.get(name, 5.0) for name in makers}

        monkeypatch.setattr(compiling, "_timed", timed)
        # What the whole model takes is decided here as well.
        real = compiling.interleave

        def turns(candidates: dict, **options: object) -> dict:
            found = real(candidates, **{**options, "runs": 5, "warmup": 0})
            taken = {"dense": 2.0, "compiled": medians.get("whole", 1.0)}
            return {
                name: type(timing)(name, (taken[name],) * 5, timing.threads)
                for name, timing in found.items()
            }

        monkeypatch.setattr(compiling, "interleave", turns)
        return asked

    return wind


SPARSE = "sparse, 4x1" if VARIANTS else "sparse, torch CSR"


def test_the_fastest_way_is_taken_and_explained(
    net: Net, clock: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = copy.deepcopy(net.state_dict())
    asked = clock({"dense": 3.0, SPARSE: 1.0})
    compiled = sc.sparse.compile(net, IMAGES, cache=tmp_path / "times.json")
    chosen = {choice.name: choice.chosen for choice in compiled.choices}
    assert chosen == {
        "first": "dense", "second": SPARSE, "depthwise": "dense", "shared": SPARSE,
        "head": SPARSE, "unused": "dense",
    }  # fmt: skip
    why = {choice.name: choice.why for choice in compiled.choices}
    assert why["first"] == "0 % of the weights are zero"
    assert why["depthwise"] == "it is depthwise"
    assert why["unused"] == "the example inputs do not reach it"
    assert why["head"] == "3.00 times as fast as dense"
    # A layer that is called twice counts twice.
    assert compiled.choices[3].medians_ms["dense"] == 6.0
    assert asked == [(2, 3, 12, 12), (2, 8, 12, 12), (2, 16, 6, 6), (2, 16), (2, 16)]
    with torch.no_grad():
        torch.testing.assert_close(compiled.model(IMAGES), net(IMAGES), atol=1e-5, rtol=1e-5)
    assert compiled.error < 1e-5 and compiled.gain == 2.0
    # The model that was given is as before.
    assert type(net.second) is nn.Conv2d
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    table = capsys.readouterr().out
    assert table.strip() == str(compiled)
    assert "second" in table and "2.00 times as fast" in table and "it is depthwise" in table


def test_dense_stays_where_it_is_nearly_as_fast(net: Net, clock: Callable) -> None:
    clock({"dense": 1.1, SPARSE: 1.0})
    compiled = sc.sparse.compile(net, IMAGES, cache=False, verbose=False)
    assert {choice.chosen for choice in compiled.choices} == {"dense"}
    assert not any(isinstance(module, SparseLayer) for module in compiled.model.modules())
    compiled = sc.sparse.compile(net, IMAGES, cache=False, verbose=False, least_gain=1.05)
    assert SPARSE in {choice.chosen for choice in compiled.choices}


def test_a_model_that_did_not_become_faster_stays_dense(net: Net, clock: Callable) -> None:
    clock({"dense": 3.0, SPARSE: 1.0, "whole": 2.5})
    compiled = sc.sparse.compile(net, IMAGES, cache=False, verbose=False)
    assert {choice.chosen for choice in compiled.choices} == {"dense"}
    assert "1.25 times as slow" in compiled.choices[1].why
    assert compiled.gain == 1.0
    with torch.no_grad():
        assert torch.equal(compiled.model(IMAGES), net(IMAGES))


def test_other_dense_ways_are_candidates(net: Net, clock: Callable) -> None:
    clock({"dense": 3.0, "dense, channels last": 2.0, "dense, prepacked": 1.0})
    compiled = sc.sparse.compile(net, IMAGES, cache=False, verbose=False)
    best = "dense, prepacked" if dense.can_prepack() else "dense, channels last"
    assert compiled.choices[1].chosen == best
    other = torch.randn(3, 3, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(compiled.model(other), net(other), atol=1e-5, rtol=1e-5)
        copied = copy.deepcopy(compiled.model)
        torch.testing.assert_close(copied(other), net(other), atol=1e-5, rtol=1e-5)
    for parameter in compiled.model.parameters():
        parameter.grad = None
    compiled.model(other).sum().backward()  # these layers can still be trained


def test_bfloat16_only_where_it_is_allowed(net: Net, clock: Callable) -> None:
    clock({"dense": 3.0, "dense, bfloat16": 0.5})
    compiled = sc.sparse.compile(net, IMAGES, cache=False, verbose=False)
    assert "bfloat16" not in str(compiled)
    compiled = sc.sparse.compile(
        net, IMAGES, cache=False, verbose=False, dtypes=("float32", "bfloat16")
    )
    assert compiled.choices[4].chosen == "dense, bfloat16"
    with torch.no_grad():
        assert compiled.model(IMAGES).dtype == torch.float32


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(24, 40), nn.Conv2d(4, 8, 3, (1, 2), (2, 1), (2, 1), 2),
        nn.Conv2d(4, 8, 2, padding="same"), nn.Conv2d(6, 8, 1, 2, bias=False),
    ],
    ids=str,
)  # fmt: skip
def test_every_way_computes_the_layer(layer: nn.Module) -> None:
    x = torch.randn(3, 24) if isinstance(layer, nn.Linear) else torch.randn(2, 6, 9, 8)
    if isinstance(layer, nn.Conv2d):
        x = x[:, : layer.in_channels]
    with torch.no_grad():
        layer.weight.copy_(masked(layer.weight, 4, 0.2, torch.Generator().manual_seed(0)))
        expected = layer(x)
        found = ways.candidates(layer, ("float32", "bfloat16"))
        assert set(found) >= {"dense", "sparse, torch CSR", "dense, bfloat16"}
        for name, make in found.items():
            loose = 0.05 if "bfloat16" in name else 1e-5
            made = make(layer)
            for _ in range(2):
                torch.testing.assert_close(made(x), expected, atol=loose, rtol=loose, msg=name)


def test_timings_are_kept_by_size_and_pattern(net: Net, clock: Callable, tmp_path: Path) -> None:
    path = tmp_path / "times.json"
    asked = clock({"dense": 3.0, SPARSE: 1.0})

    def compile_again() -> int:
        asked.clear()
        sc.sparse.compile(net, IMAGES, cache=path, verbose=False)
        return len(asked)

    assert compile_again() == 5
    assert compile_again() == 0
    with torch.no_grad():
        net.second.weight.mul_(2)
    assert compile_again() == 0  # other values, the same zeros
    with torch.no_grad():
        net.second.weight[0, 0, 0, 0] = 1 - (net.second.weight[0, 0, 0, 0] != 0).float()
    assert compile_again() == 1
    path.write_text("{ damaged")
    assert compile_again() == 5
    path.write_text(json.dumps({"a": [1]}))
    assert compile_again() == 5


def test_threads_are_part_of_the_conditions(net: Net, clock: Callable, tmp_path: Path) -> None:
    asked = clock({"dense": 3.0, SPARSE: 1.0})
    before = torch.get_num_threads()
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            sc.sparse.compile(net, IMAGES, cache=tmp_path / "times.json", verbose=False)
    finally:
        torch.set_num_threads(before)
    assert len(asked) == 10


def test_a_weight_that_changed_afterwards_is_noticed(net: Net, clock: Callable) -> None:
    clock({"dense": 3.0, SPARSE: 1.0})
    if not VARIANTS:
        pytest.skip("no compiler here")
    compiled = sc.sparse.compile(net, IMAGES, cache=False, verbose=False)
    compiled.model(IMAGES)
    with torch.no_grad():
        net.head.weight.add_(1)
    with pytest.raises(InputError, match="the weight of 'head' was changed"):
        compiled.model(IMAGES)
    again = sc.sparse.compile(net, IMAGES, cache=False, verbose=False)
    again.model(IMAGES)


def test_a_compiled_model_outlives_the_one_that_was_given(net: Net, clock: Callable) -> None:
    clock({"dense": 3.0, SPARSE: 1.0})
    compiled = sc.sparse.compile(net, IMAGES, cache=False, verbose=False)
    with torch.no_grad():
        expected = net(IMAGES)
        del net
        copied = copy.deepcopy(compiled.model)
        torch.testing.assert_close(copied(IMAGES), expected, atol=1e-5, rtol=1e-5)
        traced = torch.compile(compiled.model, backend="aot_eager")
        torch.testing.assert_close(traced(IMAGES), expected, atol=1e-5, rtol=1e-5)


def test_what_is_real_is_never_much_slower() -> None:
    """Real clocks: whatever is chosen, the table holds together."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(96, 256), nn.ReLU(), nn.Linear(256, 96))
    x = torch.randn(40, 96)
    sc.prune(model, x, granularity="vector:4", budget={"sparsity": 0.95})
    compiled = sc.sparse.compile(model, x, cache=False, verbose=False)
    for choice in compiled.choices:
        assert choice.chosen in choice.medians_ms and choice.medians_ms[choice.chosen] > 0
        assert (choice.chosen, choice.why) == choices.choose(choice.medians_ms, 1.15) or (
            "whole model" in choice.why and choice.chosen == "dense"
        )
    assert compiled.compiled_ms <= compiled.dense_ms


def test_norms_and_activations_are_computed_along(clock: Callable) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.Flatten(),
        nn.Linear(800, 16), nn.GELU(),
    ).eval()  # fmt: skip
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].bias.normal_()
        for layer in (model[0], model[4]):
            layer.weight.copy_(masked(layer.weight, 4, 0.3, torch.Generator().manual_seed(0)))
    clock({"dense": 3.0, SPARSE: 1.0})
    compiled = sc.sparse.compile(model, IMAGES, cache=False, verbose=False)
    with torch.no_grad():
        torch.testing.assert_close(compiled.model(IMAGES), model(IMAGES), atol=1e-5, rtol=1e-5)
    assert compiled.choices[0].along[0] == "batch norm"
    assert isinstance(compiled.model[1], nn.Identity)
    if VARIANTS:
        assert [choice.along for choice in compiled.choices] == [("batch norm", "relu6"), ("gelu",)]
        assert isinstance(compiled.model[5], nn.Identity)
        assert "sparse, 4x1 + batch norm + relu6" in str(compiled)
    assert type(model[1]) is nn.BatchNorm2d and model[0].bias is None


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("layer", [nn.Linear(24, 40), nn.Conv2d(6, 8, 3, 2, 1)], ids=str)
def test_prepacked_layers_compute_activations_along(layer: nn.Module, activation: str) -> None:
    if not dense.can_prepack():
        pytest.skip("no oneDNN here")
    x = 3 * torch.randn(5, 24) if isinstance(layer, nn.Linear) else 3 * torch.randn(2, 6, 9, 8)
    packed = dense.Prepacked(layer)
    packed.compute_along(activation)
    with torch.no_grad():
        expected = ACTIVATIONS[activation][0](layer(x))
        torch.testing.assert_close(packed(x), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(packed(x), expected, atol=1e-4, rtol=1e-4)


def test_refusals(net: Net) -> None:
    with pytest.raises(InputError, match="dtypes"):
        sc.sparse.compile(net, IMAGES, dtypes=("float32", "int8"), cache=False, verbose=False)
    with pytest.raises(InputError, match="least_gain"):
        sc.sparse.compile(net, IMAGES, least_gain=0.5)
    with pytest.raises(InputError, match="rejects the example inputs"):
        sc.sparse.compile(net, torch.randn(2, 5, 12, 12), cache=False)
    hooked = copy.deepcopy(net)
    hooked.head.register_forward_hook(lambda *_: None)
    assert ways.fixed(hooked.head) == "it has hooks"
    assert ways.fixed(net.head.double()) == "it is in float64"
    assert ways.fixed(nn.Conv2d(1, 1, 3, 1, 1, padding_mode="circular")) == "it pads by 'circular'"
    assert ways.why_not(nn.Conv2d(1, 1, 40, 40)) == "its stride is over 32"
