"""Several processes are one training: the toy stage in two processes with four devices each, on this machine."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.training import distributed
from gen3r_jax.training.metrics import read_metrics
from tests.helpers import toy_training
from tests.helpers.toy_training import run

MESH = {"mesh.data": 2, "mesh.fsdp": 4, "mesh.tensor": 1, "train.phases": ((5, 6, 1),)}


def start(workdir: Path, processes: int, devices: int, **changes) -> list[subprocess.Popen]:
    """The toy command as so many processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = re.sub(r"device_count=\d+", f"device_count={devices}", os.environ["XLA_FLAGS"])
    arguments = [f"--{name}={value}" for name, value in {**MESH, **changes}.items()]
    place = {"GEN3R_COORDINATOR": f"127.0.0.1:{port}", "GEN3R_NUM_PROCESSES": str(processes)} if processes > 1 else {}
    return [
        subprocess.Popen(
            [sys.executable, "-m", toy_training.MODULE, str(workdir), *arguments],
            env={**os.environ, "XLA_FLAGS": flags, **place, **({"GEN3R_PROCESS_ID": str(i)} if place else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(processes)
    ]


def finish(jobs: list[subprocess.Popen], status: int = 0) -> list[str]:
    errors = [job.communicate(timeout=120)[1] for job in jobs]
    assert [job.returncode for job in jobs] == [status] * len(jobs), "\n".join(errors)
    return errors


def losses(workdir: Path) -> list[tuple]:
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line]
    return [(line["step"], line["loss"], line["data/number"]) for line in lines]


def weights(workdir: Path) -> np.ndarray:
    return np.load(workdir / "weights" / "up.npy")


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    finish(start(workdir, 1, 8))
    return workdir


def assert_same(workdir: Path, alone: Path) -> None:
    """Data and losses of every step once, and the weights; measured 1.0e-6 (sums in another order)."""
    got, wanted = losses(workdir), losses(alone)
    assert [line[0] for line in got] == [line[0] for line in wanted]
    np.testing.assert_allclose(got, wanted, rtol=3e-6)
    np.testing.assert_allclose(weights(workdir), weights(alone), rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path, alone):
    finish(start(tmp_path, 2, 4))
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_two_processes_that_work_on_every_other_part_of_a_batch_equal_one(tmp_path, alone):
    finish(start(tmp_path, 2, 4, mingled=1))
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_devices_of_two_processes_share_a_sample(tmp_path, alone):
    finish(start(tmp_path, 2, 4, **{"mesh.data": 1, "mesh.fsdp": 1, "mesh.tensor": 8, "train.phases": ((5, 6, 8),)}))
    assert_same(tmp_path, alone)


@pytest.mark.slow  # the other one waits for half a minute
def test_a_killed_process_ends_the_job_and_it_goes_on(tmp_path, alone):
    """The second process dies before step 5; both go on after step 3, now with one process."""
    jobs = start(tmp_path, 2, 4, kill_after=4)
    for job in jobs[:1]:
        began = time.monotonic()
        errors = job.communicate(timeout=120)[1]
        assert time.monotonic() - began < 90
    assert jobs[0].returncode == distributed.LOST, errors
    assert "the same command goes on" in errors and "cannot write" not in errors
    for job in jobs:
        job.kill()
        job.wait()
    finish(start(tmp_path, 1, 8))
    assert_same(tmp_path, alone)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_after_the_same_step(tmp_path, alone):
    jobs = start(tmp_path, 2, 4, wait_after=2)
    while not (tmp_path / "waiting").exists():
        assert all(job.poll() is None for job in jobs), jobs[0].communicate()[1]
        time.sleep(0.02)
    jobs[1].send_signal(signal.SIGTERM)
    (tmp_path / "waiting").unlink()
    errors = finish(jobs, 128 + signal.SIGTERM)
    assert "SIGTERM: saved after step" in errors[0]
    finish(start(tmp_path, 1, 1, **{"mesh.data": 1, "mesh.fsdp": 1, "train.phases": ((5, 6, 8),)}))
    assert_same(tmp_path, alone)


def test_an_incomplete_environment_says_so(monkeypatch):
    monkeypatch.setenv("GEN3R_COORDINATOR", "127.0.0.1:1")
    with pytest.raises(UserError, match="GEN3R_COORDINATOR without GEN3R_NUM_PROCESSES, GEN3R_PROCESS_ID"):
        distributed.initialize()
    monkeypatch.setenv("GEN3R_NUM_PROCESSES", "2")
    monkeypatch.setenv("GEN3R_PROCESS_ID", "2")
    with pytest.raises(UserError, match="process 2 of 2"):
        distributed.initialize()


def test_a_batch_must_divide_among_processes(tmp_path):
    with pytest.raises(UserError, match=r"train\.batch_size 12 is not a multiple of 8"):
        run(tmp_path, train__batch_size=12, mesh__data=8, mesh__tensor=1, train__phases=((5, 6, 1),))
