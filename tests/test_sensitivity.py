"""The sensitivity scan: what it measures, what it keeps on disk, and what it refuses."""

from __future__ import annotations

import copy
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.test_cli import SMALL, call
from torch import Tensor, nn

import secateur as sc
from secateur.errors import (
    CriterionError,
    FileFormatError,
    InputError,
    NothingToPruneError,
    UnknownNameError,
)

RATIOS = (0.25, 0.5, 0.75)


def make() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(),
        nn.Linear(16, 4),
    )  # fmt: skip
    return net, torch.randn(6, 3, 8, 8)


class Fidelity:
    """How near a model's outputs are to those of the one it is made from; counts its calls."""

    def __init__(self, net: nn.Module, x: Tensor, stop_after: int | None = None) -> None:
        self.x, self.calls, self.stop_after = x, 0, stop_after
        with torch.no_grad():
            self.wanted = copy.deepcopy(net).eval()(x)

    def __call__(self, model: nn.Module) -> float:
        if self.calls == self.stop_after:
            raise KeyboardInterrupt
        self.calls += 1
        with torch.no_grad():
            return -float((model(self.x) - self.wanted).abs().mean())


def by_hand(net: nn.Sequential, x: Tensor, name: str, count: int) -> nn.Module:
    """The channels of one layer with the smallest norms, cut out with plain indexing."""
    net = copy.deepcopy(net).eval()
    at = int(name.partition(".")[0])
    layer = net[at]
    readers = [module for module in net[at + 1 :] if isinstance(module, (nn.Conv2d, nn.Linear))]
    following, norm = readers[0], net[at + 1]
    stay = layer.weight.square().flatten(1).sum(1).argsort(stable=True)[count:].sort().values
    with torch.no_grad():
        layer.weight, layer.bias = (
            nn.Parameter(layer.weight[stay]), nn.Parameter(layer.bias[stay])
        )  # fmt: skip
        following.weight = nn.Parameter(following.weight[:, stay])
        if isinstance(norm, nn.BatchNorm2d):
            norm.weight, norm.bias = nn.Parameter(norm.weight[stay]), nn.Parameter(norm.bias[stay])
            norm.running_mean, norm.running_var = norm.running_mean[stay], norm.running_var[stay]
    return net


def test_every_value_is_that_of_the_layer_cut_by_hand() -> None:
    net, x = make()
    evaluate = Fidelity(net, x)
    table = sc.sensitivity(net, x, evaluate, ratios=RATIOS, criterion="l2:view=producer")
    assert [curve.name for curve in table] == ["0.weight", "3.weight", "7.weight"]
    assert [curve.size for curve in table] == [8, 12, 16]
    for curve in table:
        assert curve.ratios == RATIOS
        for amount, value in zip(curve.amounts, curve.values, strict=True):
            assert value == pytest.approx(evaluate(by_hand(net, x, curve.name, amount)), abs=1e-6)


def test_without_any_removal_there_is_no_drop() -> None:
    net, x = make()
    evaluate = Fidelity(net, x)
    table = sc.sensitivity(net, x, evaluate, ratios=RATIOS)
    assert table.baseline == evaluate(copy.deepcopy(net).eval())
    assert all(curve.baseline == table.baseline for curve in table)
    assert set(table.amounts(0.0).values()) == {0}


@pytest.mark.parametrize("granularity", ["element", "block:2x2", "2:4", "vector:4/2:4"])
def test_weights_are_masked_alone(granularity: str) -> None:
    net, x = make()
    zeros: list[list[int]] = []

    def evaluate(model: nn.Module) -> float:
        layers = [m for m in model if isinstance(m, (nn.Conv2d, nn.Linear))]
        zeros.append([int((layer.weight == 0).sum()) for layer in layers])
        return 1.0 / (1 + sum(zeros[-1]))

    table = sc.sensitivity(net, x, evaluate, granularity=granularity, ratios=RATIOS)
    assert zeros[:2] == [[0] * 4] * 2
    assert all(sum(count > 0 for count in each) == 1 for each in zeros[2:])
    assert [amount for curve in table for amount in curve.amounts] == [max(z) for z in zeros[2:]]
    for curve in table:
        assert curve.values == tuple(1 / (1 + amount) for amount in curve.amounts)
        if granularity == "element":
            np.testing.assert_allclose(curve.ratios, RATIOS, atol=1 / curve.size)


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_the_model_is_not_touched(granularity: str) -> None:
    net, x = make()
    net.train()
    net[3].eval()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    identities = [id(p) for p in net.parameters()]
    state = torch.get_rng_state()

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                tensor.zero_()
        return float(torch.rand(()))

    sc.sensitivity(net, x, evaluate, granularity=granularity, ratios=RATIOS)
    assert torch.equal(state, torch.get_rng_state())
    assert [id(p) for p in net.parameters()] == identities
    assert net.training and not net[3].training and net[0].training
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_groups_that_only_lose_whole_units_try_each_amount_once() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    table = sc.sensitivity(net, torch.ones(1, 4), lambda model: 1.0, ratios=(0.1, 0.4, 0.5, 0.9))
    assert table["0.weight"].amounts == (1, 2)
    assert table.ratios == (0.1, 0.4, 0.5, 0.9)


def test_coupled_channels_go_together() -> None:
    model, x = sc.models.small_resnet(), torch.randn(2, 1, 8, 8)
    widths: list[tuple[int, ...]] = []

    def evaluate(candidate: nn.Module) -> float:
        candidate(x)
        widths.append(tuple(p.shape[0] for p in candidate.parameters()))
        return 0.0

    table = sc.sensitivity(model, x, evaluate, ratios=(0.5,))
    assert len(table) == len(sc.trace(model, x).groups)
    assert len(set(widths)) == len(table) + 1


def test_ignored_modules_are_not_scanned() -> None:
    net, x = make()
    table = sc.sensitivity(net, x, Fidelity(net, x), ratios=(0.5,), ignore=["3"])
    assert [curve.name for curve in table] == ["0.weight", "7.weight"]
    with pytest.raises(NothingToPruneError):
        sc.sensitivity(net, x, Fidelity(net, x), ignore=["0", "3", "7"])


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_criteria_may_need_data_that_come_once(granularity: str) -> None:
    net, x = make()
    data = ((x, torch.arange(6) % 4) for _ in range(2))
    table = sc.sensitivity(
        net, x, Fidelity(net, x), granularity=granularity, criterion="taylor", data=data,
        ratios=RATIOS,
    )  # fmt: skip
    assert table.criterion == "taylor" and all(len(curve.values) == 3 for curve in table)


def test_progress_counts_to_the_end_and_tells_the_time_left() -> None:
    net, x = make()
    said: list[tuple[int, int, str]] = []
    sc.sensitivity(
        net, x, Fidelity(net, x), ratios=RATIOS, progress=lambda *each: said.append(each)
    )
    assert [done for done, _, _ in said] == [*range(2, 11)]
    assert {total for _, total, _ in said} == {10}
    assert all(text.endswith(" left") for _, _, text in said[:-1])
    assert said[0][2].startswith("0.weight without 2 of 8: ")


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_a_stopped_scan_measures_only_what_is_missing(granularity: str, tmp_path: Path) -> None:
    net, x = make()
    cache = tmp_path / "new" / "scan.jsonl"
    options = {"granularity": granularity, "ratios": RATIOS}
    whole = Fidelity(net, x)
    expected = sc.sensitivity(net, x, whole, **options)
    first, second, third = Fidelity(net, x, stop_after=6), Fidelity(net, x), Fidelity(net, x)
    with pytest.raises(KeyboardInterrupt):
        sc.sensitivity(net, x, first, cache=cache, **options)
    # A kill in the middle of a write leaves part of a line.
    with cache.open("ab") as file:
        file.write(b'{"trial": "12')
    assert sc.sensitivity(net, x, second, cache=cache, **options) == expected
    assert (first.calls - 2) + (second.calls - 2) == whole.calls - 2
    assert sc.sensitivity(net, x, third, cache=cache, **options) == expected
    assert third.calls == 2
    assert all(json.loads(line) for line in cache.read_text().splitlines())


def test_more_shares_measure_only_the_new_ones(tmp_path: Path) -> None:
    net, x = make()
    cache = tmp_path / "scan.jsonl"
    sc.sensitivity(net, x, Fidelity(net, x), ratios=RATIOS, cache=cache)
    evaluate = Fidelity(net, x)
    sc.sensitivity(net, x, evaluate, ratios=(0.125, *RATIOS), cache=cache, criterion="l2")
    assert evaluate.calls == 2 + 3


KILLED = """
import os, signal, sys
from tests.test_sensitivity import Fidelity, RATIOS, make, sc
net, x = make()
inner = Fidelity(net, x)
def evaluate(model):
    if inner.calls == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(model)
sc.sensitivity(net, x, evaluate, ratios=RATIOS, cache=sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no such signal on this system")
def test_a_killed_process_loses_one_trial(tmp_path: Path) -> None:
    cache = tmp_path / "scan.jsonl"
    root = Path(__file__).resolve().parents[1]
    path = os.pathsep.join([str(root), str(root / "src"), os.environ.get("PYTHONPATH", "")])
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(cache)], env={**os.environ, "PYTHONPATH": path},
        capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert len(cache.read_text().splitlines()) == 1 + 5
    net, x = make()
    evaluate = Fidelity(net, x)
    table = sc.sensitivity(net, x, evaluate, ratios=RATIOS, cache=cache)
    assert evaluate.calls == 2 + 9 - 5
    assert table == sc.sensitivity(net, x, evaluate, ratios=RATIOS)


def test_a_cache_of_something_else_is_refused(tmp_path: Path) -> None:
    net, x = make()
    cache = tmp_path / "scan.jsonl"
    sc.sensitivity(net, x, Fidelity(net, x), ratios=(0.5,), cache=cache)
    held = cache.read_bytes()
    other = copy.deepcopy(net)
    with torch.no_grad():
        other[3].weight[0, 0, 0, 0] += 1e-6
    with pytest.raises(InputError, match="of another model"):
        sc.sensitivity(other, x, Fidelity(other, x), ratios=(0.5,), cache=cache)
    with pytest.raises(InputError, match="of seed 0"):
        sc.sensitivity(net, x, Fidelity(net, x), ratios=(0.5,), cache=cache, seed=1)
    with pytest.raises(InputError, match="of another evaluate"):
        sc.sensitivity(net, x, lambda model: 0.5, ratios=(0.5,), cache=cache)
    assert cache.read_bytes() == held
    for text in (b"notes\n", b"notes", b'{"format": "secateur trials 9"}\n', b"[1]\n"):
        cache.write_bytes(text)
        with pytest.raises(FileFormatError, match="no cache of trials"):
            sc.sensitivity(net, x, Fidelity(net, x), ratios=(0.5,), cache=cache)
        assert cache.read_bytes() == text
    cache.write_bytes(held + b'{"trial": 1}\n')
    with pytest.raises(FileFormatError, match="damaged"):
        sc.sensitivity(net, x, Fidelity(net, x), ratios=(0.5,), cache=cache)
    with pytest.raises(InputError, match="is a folder"):
        sc.sensitivity(net, x, Fidelity(net, x), ratios=(0.5,), cache=tmp_path)


def test_a_kill_before_the_first_line_was_whole_starts_anew(tmp_path: Path) -> None:
    net, x = make()
    cache = tmp_path / "scan.jsonl"
    expected = sc.sensitivity(net, x, Fidelity(net, x), ratios=(0.5,), cache=cache)
    header = cache.read_bytes().splitlines()[0]
    for length in (0, 5, 20, len(header)):
        cache.write_bytes(header[:length])
        assert sc.sensitivity(net, x, Fidelity(net, x), ratios=(0.5,), cache=cache) == expected


def raising(model: nn.Module) -> float:
    raise RuntimeError("out of data")


@pytest.mark.parametrize(
    ("evaluate", "message"),
    [
        (raising, "evaluate raised RuntimeError on a copy of the model: out of data"),
        (lambda model: math.nan, "finite number"),
        (lambda model: None, "finite number"),
        (lambda model: True, "finite number"),
        ("accuracy", "must be a function from a model"),
    ],
)
@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_a_broken_evaluate_is_one_clear_error(
    evaluate: Callable[..., float], message: str, granularity: str
) -> None:
    net, x = make()
    with pytest.raises(InputError, match=message):
        sc.sensitivity(net, x, evaluate, granularity=granularity)


@pytest.mark.parametrize("granularity", ["channel", "element"])
def test_a_copy_without_a_value_is_one_clear_error(granularity: str, tmp_path: Path) -> None:
    net, x = make()
    values = iter([0.5, 0.5, 0.4, math.nan])
    cache = tmp_path / "scan.jsonl"
    with pytest.raises(InputError, match=r"finite number.*nan"):
        sc.sensitivity(net, x, lambda model: next(values), granularity=granularity, cache=cache)
    assert len(cache.read_text().splitlines()) == 2


@pytest.mark.parametrize("allocation", [None, "sensitivity"])
def test_an_evaluate_that_says_another_thing_every_time_is_found_out(
    allocation: str | None,
) -> None:
    net, x = make()
    values = iter(np.linspace(0.5, 0.9, 100).tolist())
    with pytest.raises(InputError, match=r"not deterministic: 0\.5, then 0\.504"):
        if allocation is None:
            sc.sensitivity(net, x, lambda model: next(values))
        else:
            sc.prune(net, x, allocation=allocation, evaluate=lambda model: next(values))


def test_randomness_that_the_seed_governs_is_no_noise() -> None:
    net, x = make()
    table = sc.sensitivity(net, x, lambda model: float(torch.rand(())), ratios=(0.5,))
    assert {curve.drops for curve in table} == {(0.0,)}


@pytest.mark.parametrize(
    "ratios", [(), [], None, "0.5", 0.5, (0.0,), (1.0,), (0.5, 1.5), (-0.1,), (math.nan,), (True,),
               ("a",)],
)  # fmt: skip
def test_shares_that_mean_nothing_are_refused(ratios: object) -> None:
    net, x = make()
    with pytest.raises(InputError, match="ratio"):
        sc.sensitivity(net, x, Fidelity(net, x), ratios=ratios)


def test_a_criterion_without_its_data_is_refused() -> None:
    net, x = make()
    with pytest.raises((InputError, CriterionError), match="data"):
        sc.sensitivity(net, x, Fidelity(net, x), criterion="taylor")


def test_a_table_survives_its_json() -> None:
    net, x = make()
    table = sc.sensitivity(net, x, Fidelity(net, x), ratios=RATIOS)
    assert sc.Sensitivity.from_json(table.to_json()) == table
    assert len(table) == 3
    with pytest.raises(UnknownNameError, match=r"did you mean '0\.weight'"):
        table["0.weigth"]
    damaged = json.loads(table.to_json())
    damaged["groups"]["0.weight"]["amounts"] = [4, 2, 6]
    for text in ("", "{}", "[]", '{"format": 1}', json.dumps(damaged)):
        with pytest.raises(FileFormatError, match="no table of a sensitivity scan"):
            sc.Sensitivity.from_json(text)


def test_an_evaluation_has_batches_and_a_metric() -> None:
    x, y = torch.eye(4), torch.tensor([0, 1, 2, 0])
    assert sc.Evaluation([(x, y), (x[:1], y[1:2])])(nn.Identity()) == 3 / 5

    def mean(output: Tensor, targets: Tensor) -> float:
        return float((output * targets[:, None]).mean())

    expected = float((torch.cat([x, x[:1]]) * torch.tensor([0, 1, 2, 0, 1])[:, None]).mean())
    found = sc.Evaluation([(x, y), (x[:1], y[1:2])], mean)(nn.Identity())
    assert found == pytest.approx(expected)
    with pytest.raises(InputError, match="no batches"):
        sc.Evaluation(iter(()))
    with pytest.raises(InputError, match="pass metric="):
        sc.Evaluation([(x, x)])(nn.Identity())


def test_the_command_prints_and_writes_the_table(tmp_path: Path) -> None:
    out, cache = tmp_path / "new" / "scan.json", tmp_path / "scan.jsonl"
    options = ["--data", "digits:8", "--ratio", "0.5", "--cache", cache, "--out", out]
    result = call("sensitivity", *SMALL, *options)
    assert result.exit_code == 0, result.stderr
    assert "stem.0.weight" in result.stdout or "conv" in result.stdout
    assert "50%" in result.stdout and str(out) in result.stdout.replace("\n", "")
    table = sc.Sensitivity.from_json(out.read_text())
    assert table.ratios == (0.5,) and len(table) > 3
    assert len(cache.read_text().splitlines()) == 1 + len(table)
    pruned = tmp_path / "small.safetensors"
    how = ["--allocation", f"sensitivity:table={out}", "--budget", "macs=0.6", "--out", pruned]
    result = call("prune", *SMALL, *how)
    assert result.exit_code == 0, result.stderr
    assert pruned.is_file()
