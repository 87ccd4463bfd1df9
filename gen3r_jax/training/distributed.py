"""Training in several processes: how they find each other, and how they end together.

A job of one process needs nothing. Otherwise each process finds its place in the environment:

* ``GEN3R_COORDINATOR`` (host:port of process 0), ``GEN3R_NUM_PROCESSES`` and ``GEN3R_PROCESS_ID``;
* that of Slurm, where a job has more than one task;
* that of Cloud TPU in GKE, where a slice has more than one machine, or there are several slices.

Machines of a queued resource say their places in their metadata only; ``launch/tpu_worker.sh`` reads it and sets the
first three.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils

from gen3r_jax.errors import UserError
from gen3r_jax.storage.checkpoint import LOST_SIGNS

LOST = 75  # exit status ("try again") of a process that lost another
EXPLICIT = ("GEN3R_COORDINATOR", "GEN3R_NUM_PROCESSES", "GEN3R_PROCESS_ID")
# Seconds without a sign of life after which a process counts as lost, and for which one waits at the end.
PATIENCE = 30


def initialize() -> None:
    """Joins the other processes, if there are any. To be called before anything asks JAX for its devices.

    Raises UserError when the environment is incomplete. Where the others cannot be reached JAX aborts the process, with
    status 134; where one is lost later, ``LOST`` is the status.
    """
    timeouts: dict[str, Any] = {"heartbeat_timeout_seconds": PATIENCE, "shutdown_timeout_seconds": PATIENCE}
    given = {name: os.environ[name] for name in EXPLICIT if os.environ.get(name)}
    if given and len(given) < len(EXPLICIT):
        missing = ", ".join(name for name in EXPLICIT if name not in given)
        raise UserError(f"{', '.join(given)} without {missing}: set all three, or none for a single process")
    try:
        if given:
            count, index = int(given["GEN3R_NUM_PROCESSES"]), int(given["GEN3R_PROCESS_ID"])
            if not 0 <= index < count:
                raise ValueError(f"process {index} of {count}")
            jax.distributed.initialize(given["GEN3R_COORDINATOR"], count, index, **timeouts)
        elif _several_tasks():
            jax.distributed.initialize(**timeouts)
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"the processes of this job do not find each other: {reason}") from None
    if jax.distributed.is_initialized():
        ctypes.CDLL(None).signal(signal.SIGABRT, _on_abort)  # Python's own handlers wait for the main thread


@ctypes.CFUNCTYPE(None, ctypes.c_int)
def _on_abort(_: int) -> None:
    """Ends this process with ``LOST`` when JAX, told that another one is gone, aborts it from a thread of its own.

    JAX's own callback for that cannot be written in Python. An abort in the main thread is a fault, and goes on.
    """
    if threading.get_native_id() != threading.main_thread().native_id:
        os.write(2, b"error: another process ended or is out of reach; the same command goes on from the checkpoint\n")
        os._exit(LOST)


def _several_tasks() -> bool:
    several_slices = "MEGASCALE_COORDINATOR_ADDRESS" in os.environ
    tpu_machines = os.environ.get("TPU_WORKER_HOSTNAMES", "").count(",") > 0
    return several_slices or tpu_machines or int(os.environ.get("SLURM_NTASKS", "1")) > 1


def wait_for_all(name: str) -> None:
    """Returns when every process has come here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def peer_errors() -> Iterator[None]:
    """Turns what JAX raises when another process is gone into a line, and the exit status ``LOST``."""
    try:
        yield
    except Exception as error:
        from_jax, is_memory = isinstance(error, jax.errors.JaxRuntimeError), "RESOURCE_EXHAUSTED" in str(error)
        lost = from_jax or (not isinstance(error, UserError) and any(sign in str(error) for sign in LOST_SIGNS))
        if jax.process_count() == 1 or is_memory or not lost:
            raise
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:200]
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} stopped, for another ended or cannot be "
            f"reached ({reason}); the same command goes on from the last checkpoint",
            file=sys.stderr,
        )
        sys.stderr.flush()
        os._exit(LOST)  # the others are not there to say goodbye to, and JAX would abort when it finds that out
