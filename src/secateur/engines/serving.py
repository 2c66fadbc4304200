"""What a worker process does: get the work once, then do it to task after task."""

from __future__ import annotations

import pickle
import signal
from multiprocessing.connection import Connection

from secateur.engines.outcome import Outcome, attempt, failed
from secateur.errors import InputError, first_line

__all__ = ["serve"]


def serve(connection: Connection) -> None:
    """Serve the process at the other end until it hangs up.

    Everything that is read here was written by that process, on a pipe that no other one has.
    """
    # Ctrl-C is for the process that the user started; it ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        connection.send(Outcome())
        packed = connection.recv_bytes()
        try:
            work = pickle.loads(packed)
        except Exception as error:  # unpickling runs the user's imports
            reason = InputError(
                "a worker process cannot load the model or evaluate "
                f"({type(error).__name__}: {first_line(error)}); define them in modules that "
                "can be imported from anywhere, not in a notebook or on the command line"
            )
            connection.send(failed(reason))
            return
        while True:
            connection.send(attempt(work, pickle.loads(connection.recv_bytes())))
    except (EOFError, OSError):
        return
