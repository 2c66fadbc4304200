"""A pool of processes on this machine, whose members may die."""

from __future__ import annotations

import collections
import multiprocessing
import pickle
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from secateur.engines.base import ATTEMPTS, ENGINES, Engine, Work, Workers, count
from secateur.engines.conditions import Conditioned
from secateur.engines.outcome import Outcome
from secateur.engines.serving import serve
from secateur.errors import EngineError, InputError, first_line

__all__ = ["Processes"]


@ENGINES.register("processes")
class Processes(Engine):
    """Processes of this machine.

    Every process gets the work once and tasks one at a time. One that dies is replaced, and its
    task is tried again. They are started anew (`spawn`), so what they are sent has to be
    picklable, and a script needs its ``if __name__ == "__main__":``. They compute with as many
    threads as this process, for with fewer the last digits would differ: set
    ``torch.set_num_threads`` to the cores that each is to have.

    Parameters
    ----------
    workers : int, optional
        One for every core that this process may use, if not given.

    Examples
    --------
    >>> with Processes(2).start(abs) as workers:
    ...     dict(workers.run([-1.0, 3.0]))
    {...}
    """

    name = "processes"

    def __init__(self, workers: int | None = None) -> None:
        self.workers = count(self.name, workers)

    @classmethod
    def from_text(cls, text: str) -> Engine:
        return cls(count(cls.name, text or None))

    def start(self, work: Work) -> Workers:
        try:
            packed = pickle.dumps(Conditioned(work))
        except Exception as error:  # pickle raises what the objects raise
            raise InputError(
                "engine 'processes' sends the model and evaluate to other processes, and they "
                f"cannot be pickled ({first_line(error)}); make evaluate a function at the top "
                "level of a module, not a lambda or one inside another function"
            ) from error
        return _Pool(packed, self.workers)


class _Worker:
    """A process, its pipe, and the task it is at."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe: Connection
        self.pipe, end = context.Pipe()
        # Not a daemon, which could have no loader processes of its own.
        self.process: SpawnProcess = context.Process(target=serve, args=(end,))
        self.process.start()
        end.close()
        self.serving = False
        self.task: int | None = None

    def end(self) -> int | None:
        """End the process, if it runs still, and say how it ended."""
        self.pipe.close()
        # One that hung up is on its way out, and says with which code; others serve no more.
        self.process.join(5)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        return self.process.exitcode


class _Pool(Workers):
    def __init__(self, packed: bytes, size: int) -> None:
        self._packed, self._size = packed, size
        self._workers: list[_Worker] = []
        self._stillborn = 0

    def run(self, tasks: Sequence[Any]) -> Iterator[tuple[int, float]]:
        packed = [pickle.dumps(task) for task in tasks]
        waiting = collections.deque(range(len(tasks)))
        deaths: collections.Counter[int] = collections.Counter()
        done = 0
        try:
            while done < len(tasks):
                while len(self._workers) < min(self._size, len(tasks) - done):
                    self._workers.append(_Worker())
                for worker in list(self._workers):
                    if worker.serving and worker.task is None and waiting:
                        worker.task = waiting.popleft()
                        self._send(worker, packed[worker.task], waiting, deaths)
                expected = {w.pipe: w for w in self._workers if not w.serving or w.task is not None}
                # None where the last one turned out to be dead: there will be others.
                for pipe in wait(list(expected)) if expected else ():
                    worker = expected[pipe]  # type: ignore[index]
                    try:
                        outcome: Outcome = worker.pipe.recv()
                    except (EOFError, OSError):
                        self._bury(worker, waiting, deaths)
                        continue
                    value = outcome.get()
                    if worker.task is None:
                        worker.serving, self._stillborn = True, 0
                        self._send(worker, self._packed, waiting, deaths)
                        continue
                    index, worker.task = worker.task, None
                    done += 1
                    yield index, value
        except BaseException:
            # Answers to these tasks must not be taken for answers to the next ones.
            self.close()
            raise

    def _send(
        self,
        worker: _Worker,
        content: bytes,
        waiting: collections.deque[int],
        deaths: collections.Counter[int],
    ) -> None:
        try:
            worker.pipe.send_bytes(content)
        except OSError:
            self._bury(worker, waiting, deaths)

    def _bury(
        self,
        worker: _Worker,
        waiting: collections.deque[int],
        deaths: collections.Counter[int],
    ) -> None:
        """Let go of a worker that died, and put its task back, if it may be tried again."""
        self._workers.remove(worker)
        code = worker.end()
        if worker.task is None:
            self._stillborn += 1
            if self._stillborn >= ATTEMPTS:
                raise EngineError(
                    f"worker processes die at their start (exit code {code}); a script that uses "
                    "them has to call secateur under: if __name__ == '__main__':"
                )
            return
        deaths[worker.task] += 1
        if deaths[worker.task] >= ATTEMPTS:
            raise EngineError(
                f"{ATTEMPTS} worker processes died on the same candidate (exit code {code}); "
                "if memory ran out, take fewer workers"
            )
        waiting.appendleft(worker.task)

    def close(self) -> None:
        for worker in self._workers:
            if worker.task is not None or not worker.serving:
                worker.process.terminate()
        for worker in self._workers:
            worker.end()
        self._workers.clear()
