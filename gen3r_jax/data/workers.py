"""Worker processes of the data commands and loaders. None outlives the process that started it."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.synchronize import Barrier
from typing import Any, TypeVar

from gen3r_jax.errors import UserError

T = TypeVar("T")
SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def unsignalled() -> Iterator[None]:
    """Processes and threads started inside never see SIGINT and SIGTERM, which reach all processes at Ctrl-C or when a
    machine is preempted: who started them says when they end."""
    resource_tracker.ensure_running()  # when Python starts it later, it unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def worker_pool(workers: int, start: Callable[..., None] | None = None, *arguments: Any) -> Iterator[Executor]:
    """Fresh processes, in each of which ``start(*arguments)`` runs first. Work that they have not begun when the body
    ends is dropped, with an error or Ctrl-C also what they are at. Raises UserError when one of them is killed."""
    fresh = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, fresh, _start_worker, (fresh.Barrier(workers), start, arguments))
    try:
        with unsignalled():
            for _ in range(workers):
                executor.submit(int)  # starts one, as no other can be idle yet
        yield executor
    except BrokenProcessPool:
        raise UserError(
            "a worker was killed (out of memory?); run the same command again, with fewer --workers if need be"
        ) from None
    except BaseException:
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        executor.shutdown(cancel_futures=True)


def within(seconds: float, function: Callable[[], T]) -> T:
    """What `function` gives. Raises TimeoutError where that takes longer; it is left to itself then."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)


def end_with_parent() -> None:
    """Ends this process as soon as the one that started it is gone: when that is killed, nobody else would do it."""

    def wait() -> None:
        if parent := multiprocessing.parent_process():
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _start_worker(all_started: Barrier, start: Callable[..., None] | None, arguments: tuple) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the one that started us ends us
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    end_with_parent()
    all_started.wait()
    if start is not None:
        start(*arguments)
