"""Gates that learn: the density comes to its target, and the model goes on learning."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.gated_nets import images, net
from torch import Tensor, nn

import secateur as sc
from secateur.dynamic import GATES, Objective, train
from secateur.errors import InputError, UnknownNameError
from secateur.specs import catalogue

NAMES = [entry.names[0] for entry in catalogue(GATES)]
X = images(64, seed=1)
Y = (X.mean((1, 2, 3)) > 0).long() + (X[:, 0].std((1, 2)) > 1).long()
BATCHES = [(X[at : at + 16], Y[at : at + 16]) for at in range(0, 64, 16)]


def trained(line: str, density: float) -> sc.dynamic.Gated:
    found = sc.dynamic.gate(net("residual"), X[:2], line, density)
    train(found, BATCHES, gate_lr=0.05, lr=0.02, epochs=30)
    return found


@pytest.mark.parametrize("line", NAMES)
def test_the_mean_density_comes_to_its_target(line: str) -> None:
    found = trained(line, 0.6)
    measured = found.measure(BATCHES)
    reached = measured.weighted_density if found.method.target == "macs" else measured.density
    # Four residual layers of 64 inputs each take few values.
    assert reached == pytest.approx(0.6, abs=0.08)
    assert measured.ratio < 0.95


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_a_task_is_learnt_under_gates(name: str) -> None:
    found = sc.dynamic.gate(net(name), X[:2], "channel", 0.5)
    history = train(found, BATCHES, epochs=30, lr=0.05, validation=BATCHES)
    assert history[-1].val_accuracy > max(history[0].val_accuracy, 0.8)
    assert found.measure(BATCHES).density < 0.7


def test_the_density_falls_line_by_line() -> None:
    found = sc.dynamic.gate(net("plain"), X[:2], "fbs", 0.5)
    found.anneal(4, start=0.9)
    seen = []
    found.model.train()
    for _ in range(6):
        seen.append(float(found.gates[0].density))
        found.model(X[:2])
    assert seen == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.5])
    # Neither evaluation nor passes without gradients count.
    found.anneal(4)
    with torch.no_grad():
        found.model(X[:2])
    found.model.eval()(X[:2])
    assert float(found.gates[0].density) == pytest.approx(1.0)


def test_single_gates_have_targets_of_their_own() -> None:
    found = sc.dynamic.gate(net("residual"), X[:2], "fbs", 0.5)
    found.targets({"stages.0.*": 0.25})
    rates = found.measure([X]).rates
    assert rates == {
        "stages.0.0.conv1": 0.25,
        "stages.0.1.conv1": 0.25,
        "stages.1.0.conv1": 0.5,
        "stages.1.1.conv1": 0.5,
    }
    with pytest.raises(UnknownNameError, match=r"did you mean 'stages\.0\.0\.conv1'"):
        found.targets({"stages.0.0.conv2": 0.5})
    with pytest.raises(InputError, match="above 0 and up to 1"):
        found.targets({"stages.*": 0.0})
    assert found.measure([X]).rates == rates


def test_warm_up_moves_gates_alone() -> None:
    found = sc.dynamic.gate(net("plain"), X[:2], "channel", 0.5)
    gates = {id(each) for gate in found.gates for each in gate.parameters()}
    before = {name: each.detach().clone() for name, each in found.model.named_parameters()}
    moving: list[set[str]] = []

    def note(done: int, total: int, text: str) -> None:
        moving.append({
            name for name, each in found.model.named_parameters()
            if not torch.equal(each, before[name])
        })  # fmt: skip

    train(found, BATCHES, epochs=1, warmup=2, lr=0.1, progress=note)
    named = dict(found.model.named_parameters())
    early, late = moving[7], moving[-1]
    assert early and all(id(named[name]) in gates for name in early)
    assert any(id(named[name]) not in gates for name in late)
    assert found.density == 0.5


def test_a_teacher_helps() -> None:
    model = net("plain")
    teacher = copy.deepcopy(model)
    found = sc.dynamic.gate(model, X[:2], "channel", 0.5)
    history = train(found, BATCHES, epochs=2, teacher=teacher)
    assert len(history) == 2
    assert not any(isinstance(each, sc.dynamic.Gate) for each in teacher.modules())


def test_noise_comes_near_the_target() -> None:
    """Norms see noisy activations in training, and others in inference: near is all there is."""
    density = trained("channel:estimator=gumbel", 0.6).measure(BATCHES).density
    assert 0.35 < density < 0.8


def test_costs_in_macs_come_to_the_target() -> None:
    found = trained("channel:target=macs", 0.5)
    assert found.measure(BATCHES).weighted_density == pytest.approx(0.5, abs=0.08)


def test_validation_sees_the_task_alone() -> None:
    found = sc.dynamic.gate(net("plain"), X[:2], "channel", 0.5)
    objective = Objective(found, weight=3.0)
    outputs = found.model(X)
    task = nn.functional.cross_entropy(outputs, Y)
    assert torch.allclose(objective(outputs, Y), task + 3 * found.loss())
    with torch.no_grad():
        assert torch.equal(objective(outputs, Y), nn.functional.cross_entropy(outputs, Y))


def test_a_run_that_was_interrupted_comes_to_the_same_bits(tmp_path: object) -> None:
    def run(epochs_before: int | None) -> dict[str, Tensor]:
        torch.manual_seed(0)
        found = sc.dynamic.gate(net("plain"), X[:2], "channel", 0.5)
        folder = f"{tmp_path}/{epochs_before}"

        class Killed(Exception):
            pass

        def kill(done: int, total: int, text: str) -> None:
            if epochs_before is not None and done == 4 * epochs_before + 1:
                raise Killed

        try:
            train(found, BATCHES, epochs=4, checkpoint=folder, progress=kill)
        except Killed:
            found = sc.dynamic.gate(net("plain"), X[:2], "channel", 0.5)
            train(found, BATCHES, epochs=4, checkpoint=folder)
        return found.model.state_dict()

    whole, resumed = run(None), run(2)
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"anneal": 2}, "anneal is a share"),
        ({"warmup": -1}, "warmup is a number of epochs"),
        ({"weight": -1}, "weight must be"),
        ({"gate_lr": 0.1, "optimizer": torch.optim.SGD([torch.zeros(1)], lr=1)}, "by name"),
    ],
)
def test_errors_are_one_clear_line(options: dict[str, object], words: str) -> None:
    found = sc.dynamic.gate(net("plain"), X[:2])
    with pytest.raises(InputError, match=words):
        train(found, BATCHES, **options)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a length above 0"):
        train(found, [])
