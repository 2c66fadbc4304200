"""Engines: the same values everywhere, workers that die, and errors as if they arose here."""

from __future__ import annotations

import multiprocessing
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import measures
from torch import Tensor, nn

import secateur as sc
from secateur.allocation import Allocation, Amounts, GroupScores, Problem
from secateur.engines import ENGINES, Engine, InProcess, OnRay, Processes, as_engine
from secateur.errors import EngineError, InputError, UnknownNameError

Evaluate = Callable[[nn.Module], float]
OTHERS = ["processes:2", "ray"]


class Best(Allocation):
    """The best of a dozen random amounts within the budget, tried out at once."""

    name = "best"

    def __init__(self) -> None:
        self.values: list[float] = []

    def keys(self, group: GroupScores, scores: np.ndarray, shares: np.ndarray) -> np.ndarray:
        return shares

    def amounts(self, problem: Problem) -> Amounts:
        draw = np.random.default_rng(problem.seed)
        listed = [problem.none, problem.most]
        while len(listed) < 12:
            listed.append(problem.floor([draw.uniform(0, most) for most in problem.most]))
        self.values = problem.values(listed, self.name)
        met = [at for at, amounts in enumerate(listed) if problem.met(amounts)]
        return listed[max(met, key=lambda at: self.values[at])]


def make() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 16), nn.ReLU(),
        nn.Linear(16, 4),
    )  # fmt: skip
    return net, torch.randn(2, 3, 8, 8)


def search(engine: str | Engine | None, evaluate: Evaluate) -> tuple[list[float], sc.Result]:
    net, x = make()
    best = Best()
    result = sc.prune(
        net, x, allocation=best, budget={"params": 0.5}, evaluate=evaluate, engine=engine, seed=3
    )
    return best.values, result


def needs_ray() -> Any:
    return pytest.importorskip("ray", reason="ray is not installed: pip install 'secateur[ray]'")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A real Ray of this machine, with two workers, as a caller may have connected to."""
    ray = needs_ray()
    ray.init(num_cpus=2, address="local", include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        assert request.getfixturevalue("cluster").is_initialized()
    return str(request.param)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = set(multiprocessing.active_children())
    yield
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.parametrize("engine", OTHERS, indirect=True)
def test_every_engine_finds_the_same(engine: str) -> None:
    here, result = search(None, measures.noisy)
    assert len(set(here)) > 6
    there, other = search(engine, measures.noisy)
    assert there == here
    assert other.plan == result.plan


@pytest.mark.parametrize("engine", OTHERS, indirect=True)
@pytest.mark.parametrize("how", ["exit", pytest.param("kill", marks=pytest.mark.slow)])
def test_a_worker_that_dies_in_the_middle_is_replaced(
    engine: str, how: str, tmp_path: Path
) -> None:
    dying = measures.Dying(tmp_path / "marks", 1, how)
    values, result = search(engine, dying)
    assert not list(dying.folder.iterdir()), "a worker died"
    here, other = search(None, measures.noisy)
    assert values == here
    assert result.plan == other.plan


@pytest.mark.parametrize("engine", OTHERS, indirect=True)
def test_workers_that_die_again_and_again_are_one_clear_error(engine: str, tmp_path: Path) -> None:
    net, x = make()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    evaluate = measures.Dying(tmp_path / "marks", 20, narrow=1)
    with pytest.raises(EngineError, match=r"3 worker.* the same candidate"):
        sc.prune(net, x, allocation=Best(), evaluate=evaluate, engine=engine)
    # More than one candidate may be that narrow, and each is begun three times at most.
    assert 3 <= 20 - len(list(evaluate.folder.iterdir())) < 12
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


@pytest.mark.parametrize("evaluate", [measures.raising, measures.not_a_number])
@pytest.mark.parametrize("engine", OTHERS, indirect=True)
def test_an_error_reads_as_in_this_process(engine: str, evaluate: Evaluate) -> None:
    with pytest.raises(InputError) as here:
        search(None, evaluate)
    with pytest.raises(InputError) as there:
        search(engine, evaluate)
    assert str(there.value) == str(here.value)
    assert "measures.py" in str(there.value.__cause__) or evaluate is measures.not_a_number


def test_what_cannot_be_sent_is_refused_with_advice() -> None:
    with pytest.raises(InputError, match=r"cannot be pickled.*top level of a module"):
        search("processes:2", lambda model: 0.0)


def test_ray_takes_functions_inside_functions(cluster: Any) -> None:
    assert cluster.is_initialized()
    values, _ = search("ray", lambda model: float(sum(p.numel() for p in model.parameters())))
    assert len(set(values)) > 6


@pytest.mark.slow
def test_workers_compute_under_the_settings_of_this_process() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        values, _ = search("processes:1", measures.threads)
    finally:
        torch.set_num_threads(before)
    assert set(values) == {3.0}


@pytest.mark.slow
def test_a_process_that_leaves_is_no_value() -> None:
    with pytest.raises(EngineError, match="exit code 3"):
        search("processes:1", measures.leaving)


@pytest.mark.slow
def test_a_script_without_its_guard_is_told_so(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from secateur.engines import Processes\n"
        "with Processes(1).start(abs) as workers:\n"
        "    print(list(workers.run([-1.0])))\n"
    )
    ran = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    assert "EngineError: worker processes die at their start" in ran.stderr
    assert "if __name__ == '__main__'" in ran.stderr


def test_workers_serve_several_rounds_and_lie_idle_between() -> None:
    with Processes(2).start(abs) as workers:
        assert dict(workers.run([-1.0, -2.0, -3.0])) == {0: 1.0, 1: 2.0, 2: 3.0}
        first = {child.pid for child in multiprocessing.active_children()}
        assert dict(workers.run([-4.0])) == {0: 4.0}
        assert {child.pid for child in multiprocessing.active_children()} == first
        assert list(workers.run([])) == []


@pytest.mark.slow
def test_one_that_died_while_idle_is_replaced() -> None:
    with Processes(1).start(abs) as workers:
        assert list(workers.run([-1.0])) == [(0, 1.0)]
        for child in multiprocessing.active_children():
            child.kill()
            child.join()
        assert list(workers.run([-2.0])) == [(0, 2.0)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("processes:0", "number of workers"),
        ("processes:many", "number of workers"),
        ("ray:-1", "number of workers"),
        ("ray://", "address of Ray"),
        ("in_process:2", "several workers are 'processes:2'"),
    ],
)
def test_a_wrong_spelling_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        as_engine(text)
    net, x = make()
    with pytest.raises(InputError, match=message):
        sc.prune(net, x, engine=text)


def test_names_of_engines() -> None:
    assert set(ENGINES) == {"in_process", "processes", "ray"}
    assert isinstance(as_engine(None), InProcess)
    assert as_engine("processes").workers >= 1  # type: ignore[attr-defined]
    assert isinstance(as_engine(OnRay("ray://a:1")), OnRay)
    with pytest.raises(UnknownNameError, match="did you mean 'processes'"):
        as_engine("process")
    with pytest.raises(InputError, match="not int"):
        as_engine(2)  # type: ignore[arg-type]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(sc.errors.MissingExtraError, match=r"secateur\[ray\]"):
        search("ray", measures.noisy)


def unanswered(address: str) -> str:
    """What a search at this address says, in a process that is not connected to Ray."""
    code = f"from secateur.engines import as_engine; as_engine({address!r}).start(abs)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert ran.returncode == 1
    return ran.stderr.strip().splitlines()[-1]


def test_an_address_where_nothing_listens_is_one_error_in_bounded_time() -> None:
    needs_ray()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"ray://127.0.0.1:{free.getsockname()[1]}"
    assert f"EngineError: no Ray cluster answers at {address}" in unanswered(address)


@pytest.mark.slow
def test_an_address_that_is_silent_is_one_error_in_bounded_time() -> None:
    needs_ray()
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"ray://127.0.0.1:{silent.getsockname()[1]}"
        message = unanswered(address)
    assert f"EngineError: no Ray cluster answers at {address} (silent for 10 s)" in message


def test_a_connection_of_the_caller_is_used_and_left(cluster: Any) -> None:
    search("ray", measures.noisy)
    assert cluster.is_initialized()
    with pytest.raises(InputError, match="connected to Ray already"):
        search("ray:2", measures.noisy)


@pytest.mark.slow
def test_ray_of_this_machine_alone_is_started_and_ended(tmp_path: Path) -> None:
    needs_ray()
    script = tmp_path / "alone.py"
    script.write_text(
        "import ray\n"
        "from secateur.engines import as_engine\n"
        "with as_engine('ray:2').start(abs) as workers:\n"
        "    assert ray.cluster_resources()['CPU'] == 2\n"
        "    assert dict(workers.run([-1.0, -2.0])) == {0: 1.0, 1: 2.0}\n"
        "assert not ray.is_initialized()\n"
    )
    subprocess.run([sys.executable, script], check=True, timeout=180)
