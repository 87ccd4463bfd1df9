"""Work on files of strangers, in a process of its own that is bounded in time and memory and may die."""

import importlib
import multiprocessing
import resource
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

from gen3r_jax.errors import UserError, one_line

MODULE = "gen3r_jax.serve.requests"
"""What the processes have imported when they begin."""


class Bounded:
    """Calls functions of ``MODULE``, by name, in processes that are forked from one that has imported it.

    Args:
      seconds: of wall time, and of processor time of each thread together.
      memory: bytes of address space.
      at_once: how many run at the same time; others wait.
    """

    def __init__(self, seconds: float, memory: int, at_once: int = 4):
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload([MODULE])
        self._seconds, self._memory = seconds, memory
        self._places = threading.Semaphore(at_once)

    def __call__(self, function: str, *arguments: Any) -> Any:
        """The function's result. Raises UserError as it does, and where it dies, takes too long or too much memory."""
        ours, theirs = self._context.Pipe(duplex=False)
        with self._places, ours:
            process = self._context.Process(
                target=_run, args=(theirs, self._seconds, self._memory, function, arguments), daemon=True
            )
            process.start()
            theirs.close()
            try:
                if not ours.poll(self._seconds):
                    raise UserError(f"the files take longer than {self._seconds:.0f} s to decode; send smaller ones")
                try:
                    good, result = ours.recv()
                except EOFError:
                    raise UserError(
                        "decoding the files ended the process that did it: they are damaged, or need too much memory"
                    ) from None
            finally:
                process.kill()
                process.join()
                process.close()
        if not good:
            raise UserError(result)
        return result


def _run(pipe: Connection, seconds: float, memory: int, function: str, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _bound(resource.RLIMIT_AS, memory)
    _bound(resource.RLIMIT_CPU, round(2 * seconds) + 1)
    _bound(resource.RLIMIT_CORE, 0)
    try:
        answer = (True, getattr(importlib.import_module(MODULE), function)(*arguments))
    except UserError as error:
        answer = (False, str(error))
    except MemoryError:
        answer = (False, "decoding the files needs too much memory; send smaller ones")
    except Exception as error:  # of what libraries raise over damaged files
        answer = (False, f"the files cannot be read: {one_line(error)}")
    pipe.send(answer)


def _bound(what: int, most: int) -> None:
    _, hard = resource.getrlimit(what)
    if hard == resource.RLIM_INFINITY or most < hard:
        resource.setrlimit(what, (most, hard))
