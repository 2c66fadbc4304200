"""A Ray cluster, or Ray on this machine alone."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlsplit

import torch

from secateur.engines.base import ATTEMPTS, ENGINES, Engine, Work, Workers, count
from secateur.engines.conditions import Conditioned
from secateur.engines.outcome import attempt
from secateur.errors import EngineError, InputError, first_line, require

__all__ = ["OnRay"]

SECONDS = 10.0
"""Within which whatever listens at an address has to answer."""

TOKENS = "; if the cluster asks for a token, set RAY_AUTH_MODE and RAY_AUTH_TOKEN as it does"


@ENGINES.register("ray")
class OnRay(Engine):
    """Tasks of a Ray cluster.

    The work is put into the cluster's object store once. A task whose worker or machine dies is
    tried again. Needs the extra ``ray``; secateur has to be installed on every machine, in the
    same version.

    Parameters
    ----------
    address : str, optional
        ``"ray://host:port"`` of a Ray client server. If not given: the connection that this
        process has already, the cluster that `RAY_ADDRESS` names or that this machine is part of,
        or else one of this machine alone.
    workers : int, optional
        How many tasks run at once on a cluster of this machine alone, which is then what is
        started; one for every core if not given.
    gpus : float, optional
        GPUs that each task has to itself, as Ray counts them; one if this process uses CUDA, and
        none otherwise, if not given.

    Examples
    --------
    >>> OnRay.from_text("//cluster.example:10001").address
    'ray://cluster.example:10001'
    """

    name = "ray"

    def __init__(
        self, address: str | None = None, workers: int | None = None, gpus: float | None = None
    ) -> None:
        if address is not None and (
            not address.startswith("ray://") or not urlsplit(address).hostname
        ):
            raise InputError(f"write an address of Ray as 'ray://host:10001', not {address!r}")
        self.address = address
        self.workers = None if workers is None else count(self.name, workers)
        self.gpus = float(torch.cuda.is_initialized()) if gpus is None else gpus

    @classmethod
    def from_text(cls, text: str) -> Engine:
        if text.startswith("//"):
            return cls(f"ray:{text}")
        return cls(workers=count(cls.name, text) if text else None)

    def start(self, work: Work) -> Workers:
        ray = require("ray", "ray")
        own = self._connect(ray)
        try:
            try:
                stored = ray.put(Conditioned(work))
            except Exception as error:  # pickle raises what the objects raise
                raise InputError(
                    "engine 'ray' sends the model and evaluate to other processes, and they "
                    f"cannot be pickled ({first_line(error)})"
                ) from error
            task = ray.remote(num_cpus=1, num_gpus=self.gpus, max_retries=ATTEMPTS - 1)(attempt)
            return _Tasks(ray, task, stored, own)
        except BaseException:  # also when stopped: Ray is not to stay
            if own:
                ray.shutdown()
            raise

    def _connect(self, ray: Any) -> bool:
        """Connect; whether the connection is this engine's own."""
        if ray.is_initialized():
            if self.address is not None or self.workers is not None:
                raise InputError(
                    "this process is connected to Ray already; engine='ray' uses that connection"
                )
            return False
        settings: dict[str, Any] = {}
        address = self.address or os.environ.get("RAY_ADDRESS")
        if self.workers is not None:
            settings = {"address": "local", "num_cpus": self.workers, "include_dashboard": False}
        elif address and address not in ("auto", "local"):
            _check_answers(address)
            settings = {"address": address}
        try:
            with _without_statistics():
                ray.init(logging_level="ERROR", log_to_driver=False, **settings)
        except Exception as error:  # Ray's errors have no common base
            raise EngineError(
                f"Ray cannot be reached or started{f' at {address}' if address else ''}: "
                f"{first_line(error)}{TOKENS if address else ''}"
            ) from error
        return True


class _Tasks(Workers):
    def __init__(self, ray: Any, task: Any, stored: Any, own: bool) -> None:
        self._ray, self._task, self._stored, self._own = ray, task, stored, own

    def run(self, tasks: Sequence[Any]) -> Iterator[tuple[int, float]]:
        pending = {self._task.remote(self._stored, task): index for index, task in enumerate(tasks)}
        try:
            while pending:
                for reference in self._ray.wait(list(pending), num_returns=1)[0]:
                    yield pending.pop(reference), self._outcome(reference).get()
        finally:
            for reference in pending:
                self._ray.cancel(reference, force=True)

    def _outcome(self, reference: Any) -> Any:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            raise EngineError(
                f"Ray lost {ATTEMPTS} workers on the same candidate, or could not run it "
                f"({type(error).__name__}: {first_line(error)}); if memory ran out, take fewer "
                "workers"
            ) from error

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()


def _check_answers(address: str) -> None:
    """Whether anything answers there at all: Ray itself would try for much longer.

    Raises
    ------
    EngineError
    """
    parts = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        where = (parts.hostname or "", parts.port or 10001)
        socket.create_connection(where, timeout=SECONDS).close()
        if address.startswith("ray://") and not os.environ.get("RAY_USE_TLS"):
            _check_speaks(*where)
    except (OSError, ValueError) as error:
        raise EngineError(
            f"no Ray cluster answers at {address} ({first_line(error)}); check host and port, and "
            "that its head was started with: ray start --head --ray-client-server-port=10001"
        ) from error


def _check_speaks(host: str, port: int) -> None:
    """Whether what listens there speaks the protocol of a Ray client server.

    Raises
    ------
    TimeoutError
    """
    grpc = require("grpc", "ray")
    with grpc.insecure_channel(f"[{host}]:{port}" if ":" in host else f"{host}:{port}") as channel:
        try:
            grpc.channel_ready_future(channel).result(timeout=SECONDS)
        except grpc.FutureTimeoutError:
            raise TimeoutError(f"silent for {SECONDS:g} s") from None


@contextlib.contextmanager
def _without_statistics() -> Iterator[None]:
    """Let a cluster that starts here send no usage statistics, unless the user has a say on it."""
    name = "RAY_USAGE_STATS_ENABLED"
    said = os.environ.get(name)
    os.environ.setdefault(name, "0")
    try:
        yield
    finally:
        if said is None:
            os.environ.pop(name, None)
