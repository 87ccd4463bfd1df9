"""A worker: takes one job after the other, on one device, with everything warm."""

import importlib
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gen3r_jax.errors import UserError, main_guard, one_line, shortened
from gen3r_jax.serve.child import end_with_supervisor, read_orders
from gen3r_jax.serve.options import ServeOptions
from gen3r_jax.serve.queue import Job
from gen3r_jax.serve.store import Store
from gen3r_jax.storage.locks import locked

IDLE = 0.1
"""Seconds between two looks at an empty queue."""

HEARTBEAT = 2.0

Tell = Callable[[float, str, float | None], None]
"""Takes the progress from 0 to 1, the stage, and the seconds that are left; raises Cancelled where there is no use."""


class Cancelled(BaseException):
    """The job is not wanted any more. No Exception: nothing on its way is to take it for an error."""


class Maker(Protocol):
    """What does the work.

    Attributes:
      device: on what, in words.
    """

    device: str

    def __call__(self, job: Job, inputs: Path, output: Path, tell: Tell) -> None:
        """Makes a job's folder, whole or not at all. Raises UserError where that cannot be."""
        ...


class Worker:
    """The loop of one slot; :meth:`stop` may be called from another thread."""

    def __init__(self, options: ServeOptions, store: Store, slot: int, maker: Maker):
        self._options, self._store, self._slot, self._maker = options, store, slot, maker
        self._job: Job | None = None

    def run(self) -> None:
        """Works until the process ends."""
        queue = self._store.queue
        queue.recover(self._slot)
        self._store.sweep()
        threading.Thread(target=self._beat, daemon=True).start()
        while True:
            self._job = queue.claim(self._slot)
            if self._job is None:
                time.sleep(IDLE)
                continue
            self._make(self._job)
            self._job = None
            self._store.trim(self._options.keep)

    def stop(self) -> None:
        """Gives back the job that is under way; the process ends then."""
        if job := self._job:
            self._store.queue.release(job)

    def _make(self, job: Job) -> None:
        store, queue = self._store, self._store.queue

        def tell(progress: float, stage: str, seconds_left: float | None) -> None:
            if not queue.tell(job, progress, stage, seconds_left):
                raise Cancelled

        try:
            if not store.is_whole(job.id, job.kind):  # a worker may have died between the scene and its row
                tell(0.0, "Beginning", None)
                self._maker(job, store.inputs(job.id), store.scene(job.id), tell)
            queue.end(job, "done", size=store.size(job.id))
        except Cancelled:
            queue.end(job, "cancelled")
        except UserError as error:
            queue.end(job, "failed", self._readable(error, job))
        except MemoryError:
            queue.end(job, "failed", "there is too little memory for it; make it smaller (size, frames)")
        except Exception as error:
            print(f"job {job.id} failed: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)
            queue.end(job, "failed", f"{type(error).__name__}: {shortened(self._readable(error, job), 300)}")

    def _readable(self, error: Exception, job: Job) -> str:
        """The message of an error without the places of the store."""
        return one_line(error).replace(f"{self._store.inputs(job.id)}/", "").replace(f"{self._store.root}/", "")

    def _beat(self) -> None:
        while True:
            self._store.queue.seen(self._slot, self._maker.device)
            time.sleep(HEARTBEAT)


def main() -> None:
    """The process of a worker."""

    worker: Worker | None = None

    def end() -> None:
        if worker:
            worker.stop()
        os._exit(0)

    def run() -> int:
        nonlocal worker
        options, own = read_orders()
        end_with_supervisor(end)
        store, slot = Store(options.store), own["slot"]
        with locked(store.lock(slot), f"slot {slot} of the store", wait=True):
            module, _, function = options.maker.partition(":")
            worker = Worker(options, store, slot, getattr(importlib.import_module(module), function)(options))
            worker.run()
        return 0

    main_guard(run)
