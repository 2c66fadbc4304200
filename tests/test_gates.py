"""Dynamic methods: a contract that every registered one is held to, on every kind of model."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from tests.gated_nets import NETS, images, net
from torch import Tensor, nn

import secateur as sc
from secateur.dynamic import GATES, Gated
from secateur.dynamic.cgnet import PartialSumGate
from secateur.dynamic.proving import forcing
from secateur.errors import InputError, NothingToPruneError, SecateurError, UnknownNameError
from secateur.specs import catalogue

NAMES = [entry.names[0] for entry in catalogue(GATES)]
VARIANTS = ["channel:estimator=gumbel", "channel:target=macs", "cgnet:eta=2,groups=2"]
LINES = [*NAMES, *VARIANTS]
# Models without anything that such a method can gate.
NONE = {("layer", "plain"), ("layer", "squeezed"), ("spatial", "transformer")}
PAIRS = [
    (line, name)
    for line in LINES
    for name in NETS
    if (GATES[line.partition(":")[0]].kind, name) not in NONE
]
X = images()
Y = torch.arange(4) % 3


def gated(line: str, name: str = "residual", **options: object) -> Gated:
    return sc.dynamic.gate(net(name), X, line, **options)  # type: ignore[arg-type]


def outputs(model: nn.Module, x: Tensor = X) -> Tensor:
    with torch.no_grad():
        return model.eval()(x)


def steps(found: Gated, count: int, weight: float = 1.0, lr: float = 0.05) -> None:
    optimizer = torch.optim.SGD(found.model.parameters(), lr=lr)
    found.model.train()
    for _ in range(count):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(found.model(X), Y)
        (loss + weight * found.loss()).backward()
        optimizer.step()


def stirred(found: Gated, seed: int = 0) -> None:
    """Weights with which gates open one thing for one input and another for another."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for gate in found.gates:
            for name, each in gate.named_parameters():
                if "norm" not in name:
                    each.copy_(torch.randn(each.shape, generator=generator))


@pytest.mark.parametrize(("line", "name"), PAIRS)
class TestOnEveryModel:
    def test_gates_start_open(self, line: str, name: str) -> None:
        before = outputs(net(name))
        found = gated(line, name, density=1.0)
        assert found.gates
        measured = found.measure([X])
        assert measured.density == 1.0
        after = outputs(found.model)
        if found.method.exact:
            assert torch.allclose(after, before, atol=1e-5)
        else:
            assert (after - before).norm() < 0.35 * before.norm()

    def test_skipping_equals_masking(self, line: str, name: str) -> None:
        found = gated(line, name)
        assert found.error < 1e-4
        for seed in range(2):
            stirred(found, seed)
            masked, one = outputs(found.model), outputs(found.model, X[:1])
            measured = found.measure([X])
            found.skip(measure=False)
            scale = float(masked.abs().max())
            assert torch.allclose(outputs(found.model), masked, atol=1e-4 * scale)
            assert torch.allclose(outputs(found.model, X[:1]), one, atol=1e-4 * scale)
            assert torch.equal(found.measure([X]).open, measured.open)
            if seed:
                found.skip(batch=2)
                assert torch.allclose(outputs(found.model), masked, atol=1e-4 * scale)
                assert torch.allclose(outputs(found.model, X[:1]), one, atol=1e-4 * scale)
            found.mask()
            assert torch.equal(outputs(found.model), masked)

    def test_every_gate_learns(self, line: str, name: str) -> None:
        found = gated(line, name)
        found.model.train()
        task = nn.functional.cross_entropy(found.model(X), Y)
        for loss in (task, found.loss()):
            found.model.zero_grad()
            loss.backward(retain_graph=True)
            for gate in found.gates:
                moved = [each.grad for each in gate.parameters() if each.grad is not None]
                moves = sum(float(each.abs().sum()) for each in moved)
                # Where FBS meets its density by choice, and where a threshold is far away, one of
                # the two alone moves the gate.
                far = isinstance(gate, PartialSumGate) and loss is task
                assert moves > 0 or far, gate.site_name

    def test_it_goes_and_leaves_the_model_as_it_was(self, line: str, name: str) -> None:
        model = net(name)
        keys, types = list(model.state_dict()), [type(module) for module in model.modules()]
        before, asked = outputs(model), [each.requires_grad for each in model.parameters()]
        found = sc.dynamic.gate(model, X, line)
        assert set(keys) < set(model.state_dict())
        found.remove()
        assert list(model.state_dict()) == keys
        assert [type(module) for module in model.modules()] == types
        assert [each.requires_grad for each in model.parameters()] == asked
        assert not any(
            module._forward_hooks or module._forward_pre_hooks for module in model.modules()
        )
        assert torch.allclose(outputs(model), before, atol=1e-5)


@pytest.mark.parametrize("line", LINES)
class TestContract:
    def test_eval_is_deterministic(self, line: str) -> None:
        found = gated(line)
        stirred(found)
        assert torch.equal(outputs(found.model), outputs(found.model))
        # An input is decided about alone.
        assert torch.allclose(outputs(found.model)[:1], outputs(found.model, X[:1]), atol=1e-5)

    def test_a_state_dict_goes_round(self, line: str) -> None:
        found = gated(line, density=0.7)
        found.anneal(10)
        steps(found, 4)
        buffer = io.BytesIO()
        torch.save(found.model.state_dict(), buffer)
        buffer.seek(0)
        other = sc.dynamic.gate(net("residual", seed=3), X, line)
        other.model.load_state_dict(torch.load(buffer, weights_only=True))
        assert torch.equal(outputs(other.model), outputs(found.model))
        assert other.density == pytest.approx(0.7)
        assert torch.equal(other.gates[0].density, found.gates[0].density)

    def test_a_copy_is_a_model_of_its_own(self, line: str) -> None:
        found = gated(line)
        stirred(found)
        steps(found, 1)
        twin = copy.deepcopy(found)
        expected = outputs(found.model)
        assert torch.equal(outputs(twin.model), expected)
        steps(twin, 2)
        assert torch.equal(outputs(found.model), expected)
        assert not torch.equal(outputs(twin.model), expected)
        twin.skip(measure=False)
        assert not found.skipping
        model = copy.deepcopy(found.model)
        assert torch.equal(outputs(model), expected)

    def test_costs_are_those_of_the_profile(self, line: str) -> None:
        found = gated(line, density=1.0)
        dense = sc.profile(net("residual"), X[:1]).macs
        assert found.costs.dense == dense
        measured = found.measure([X])
        assert measured.macs.tolist() == [dense + found.costs.gates] * len(X)
        assert measured.gates < 0.2 * dense

    def test_closing_costs_less(self, line: str) -> None:
        found = gated(line)
        closed = [torch.arange(gate.units) < gate.units / 2 for gate in found.gates]
        if found.method.kind == "layer":
            closed = [torch.zeros(1) > 0 for gate in found.gates]
        with forcing(found.gates, closed):
            measured = found.measure([X])
        assert measured.ratio < 0.8
        assert measured.spread == 0.0

    def test_it_says_how_to_build_it_again(self, line: str) -> None:
        spec = gated(line).method.spec
        assert gated(spec).method.spec == spec

    def test_an_empty_batch_goes_through(self, line: str) -> None:
        found = gated(line)
        for skip in (False, True):
            if skip:
                found.skip(measure=False)
            assert outputs(found.model, X[:0]).shape == (0, 3)

    def test_the_same_seed_makes_the_same_gates(self, line: str) -> None:
        torch.manual_seed(5)
        expected = torch.rand(1)
        model, other = net("residual"), net("residual")
        torch.manual_seed(5)
        first, second = (sc.dynamic.gate(each, X, line, seed=1) for each in (model, other))
        for key, value in first.model.state_dict().items():
            assert torch.equal(value, second.model.state_dict()[key])
        assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("density", [0, 1.5, -1, "half", True, float("nan")])
def test_a_density_is_a_share(density: object) -> None:
    model = net("plain")
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(InputError, match="above 0 and up to 1"):
        sc.dynamic.gate(model, X, density=density)  # type: ignore[arg-type]
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("make", "line", "error", "words"),
    [
        (lambda: nn.Linear(3, 2), "channel", NothingToPruneError, "can be gated by 'channel'"),
        (lambda: net("plain"), "skipnet", NothingToPruneError, "can be gated by 'skipnet'"),
        (lambda: net("plain"), "chanel", UnknownNameError, "did you mean 'channel'"),
        (
            lambda: net("plain"),
            "channel:estimator=gumble",
            UnknownNameError,
            "mean 'gumbel'",
        ),
        (lambda: net("plain"), "channel:temperature=0", InputError, "temperature must be a number"),
        (lambda: net("plain"), "fbs:l1=-1", InputError, "l1 must be a number"),
        (lambda: net("plain"), "cgnet:eta=1", InputError, "eta must be a number"),
    ],
)
def test_errors_are_one_clear_line(make: object, line: str, error: type, words: str) -> None:
    model = make()  # type: ignore[operator]
    keys = list(model.state_dict())
    with pytest.raises(error) as caught:
        sc.dynamic.gate(model, torch.randn(2, 3) if isinstance(model, nn.Linear) else X, line)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, SecateurError)
    assert list(model.state_dict()) == keys


def test_an_empty_example_batch_is_an_error() -> None:
    with pytest.raises(InputError, match="batch of size 0"):
        sc.dynamic.gate(net("plain"), X[:0])


def test_gates_come_once() -> None:
    found = gated("channel", "plain")
    with pytest.raises(InputError, match="has gates already"):
        sc.dynamic.gate(found.model, X)
    found.remove()
    sc.dynamic.gate(found.model, X)


def test_loss_before_a_batch_is_an_error() -> None:
    found = gated("channel", "plain")
    with pytest.raises(InputError, match="decided nothing yet"):
        found.loss()


def test_a_narrow_layer_has_a_hidden_unit() -> None:
    found = gated("channel", "plain")
    assert found.gates[0].squeeze.hidden.out_features == 1


def test_ignored_layers_have_no_gate() -> None:
    found = gated("channel", "residual", ignore=["stages.0.*"])
    assert all(not site.name.startswith("stages.0") for site in found.sites)
    assert ("stages.0.0.conv1", "it is ignored") in found.skipped


def test_blocks_that_change_the_shape_are_never_gated() -> None:
    found = gated("aig")
    names = [site.name for site in found.sites]
    assert names == ["stages.0.0.conv1", "stages.0.1.conv1", "stages.1.1.conv1"]


def test_coupled_channels_close_together() -> None:
    """The channels of a stage, which every block adds to, under one gate."""
    found = gated("channel", "residual", streams=True)
    (stream,) = [site for site in found.sites if site.name == "conv1"]
    assert len(stream.makes) == 3 and len(stream.reads) == 4
    opened = [torch.ones(gate.units) > 0 for gate in found.gates]
    opened[0] = torch.arange(8) != 3
    with forcing(found.gates, opened):
        closed = outputs(found.model)
    found.remove()
    with torch.no_grad():
        for path in stream.reads:
            layer = found.model.get_submodule(path)
            layer.weight[:, 3] = 0
    assert torch.allclose(outputs(found.model), closed, atol=1e-5)
    inner = gated("channel", "residual")
    assert "conv1" not in [site.name for site in inner.sites]
    assert any("streams=True" in reason for _, reason in inner.skipped)
