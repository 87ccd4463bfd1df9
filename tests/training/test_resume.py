"""A run that was killed goes on as if nothing had happened: same parameters, same data, on the same or another mesh."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.options import read_options
from gen3r_jax.sharding import MeshOptions, make_mesh
from gen3r_jax.storage.checkpoint import load_network
from gen3r_jax.storage.train_checkpoints import TrainCheckpoints
from gen3r_jax.training.metrics import read_metrics
from gen3r_jax.training.optim import learning_rate, make_optimizer
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.state import abstract_state
from tests.helpers import toy_training
from tests.helpers.paths import REPOSITORY
from tests.helpers.toy_training import ToyStage, run, toy_config, toy_loader, watched


def _state(workdir):
    """The newest checkpoint of a toy run, on one device: {dotted path: array}."""
    options = read_options(LoopOptions, toy_config())
    tx, mesh = make_optimizer(options.optim, 1), make_mesh(MeshOptions(), jax.devices()[:1])
    abstract = abstract_state(ToyStage(), tx, mesh, with_ema=True)
    checkpoints = TrainCheckpoints(workdir / "checkpoints", keep=2)
    return module.flatten(checkpoints.restore(checkpoints.latest(), abstract))


def _data_order(workdir):
    """Which samples went into each step, as their mean number and the count of replaced ones."""
    lines = read_metrics(workdir / "metrics.jsonl")
    return [
        (line["step"], line["data/number"], line["data/replaced"], line["loss"]) for line in lines if "loss" in line
    ]


def _assert_same_run(got, wanted):
    assert _data_order(got) == _data_order(wanted)
    got, wanted = _state(got), _state(wanted)
    assert got.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


def _start(command, **environment):
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stderr=subprocess.PIPE, text=True)


def _run_toy(workdir, *arguments):
    process = _start([sys.executable, "-m", toy_training.MODULE, workdir, *arguments])
    _, errors = process.communicate(timeout=300)
    return process.returncode, errors


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("uninterrupted")
    run(workdir)
    return workdir


@pytest.mark.slow
def test_killed_after_three_steps_of_six(tmp_path, uninterrupted):
    status, errors = _run_toy(tmp_path, "--kill_after=4")  # at the fifth batch: step 4 is done but not saved
    assert status == -signal.SIGKILL, errors
    assert TrainCheckpoints(tmp_path / "checkpoints", keep=2).latest() == 3
    assert len(_data_order(tmp_path)) >= 3
    status, errors = _run_toy(tmp_path)
    assert status == 0, errors
    assert "resuming after step 3" in errors
    _assert_same_run(tmp_path, uninterrupted)


def test_a_finished_run_has_nothing_to_do(uninterrupted, capfd):
    before = _data_order(uninterrupted)
    run(uninterrupted)
    assert "nothing to do" in capfd.readouterr().err
    assert _data_order(uninterrupted) == before


def test_a_run_goes_back_to_an_earlier_checkpoint(tmp_path, uninterrupted):
    """What came after it is moved aside, and comes again."""
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    run(workdir, restore=3)
    assert (workdir / "checkpoints-left-1" / "6").is_dir()
    _assert_same_run(workdir, uninterrupted)


def test_a_checkpoint_under_another_name_is_refused(tmp_path, uninterrupted):
    """Also one of a version that wrote no checksums."""
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted, workdir)
    shutil.rmtree(workdir / "checkpoints" / "6")
    (workdir / "checkpoints" / "3").rename(workdir / "checkpoints" / "4")
    with pytest.raises(UserError, match="the data position is not the one that was saved with step 4"):
        run(workdir)
    shutil.rmtree(workdir / "checkpoints" / "4" / "checksums")
    with pytest.raises(UserError, match=r"checkpoints/4 holds the state after step 3; give it that name again"):
        run(workdir)


def test_a_longer_last_phase_goes_on_after_the_end_and_without_validation(tmp_path, uninterrupted, capfd):
    def loader(**wanted):
        assert wanted["split"] == "train", "validation data were opened"
        return toy_loader(**wanted)

    shutil.copytree(uninterrupted, tmp_path, dirs_exist_ok=True)
    run(tmp_path, loader=loader, train__phases=((5, 8, 4),), validation__every=0)
    errors = capfd.readouterr().err
    assert "the last phase grows from 6 to 8 steps" in errors and "resuming after step 6" in errors
    batches = toy_loader(batch_size=8, num_frames=5, seed=3)
    numbers = [np.mean([int(name.removeprefix("sample")) for name in next(batches)["sample_id"]]) for _ in range(8)]
    lines = [line for line in read_metrics(tmp_path / "metrics.jsonl") if "loss" in line]
    assert [64 * line["data/number"] for line in lines] == pytest.approx(numbers)
    rate = learning_rate(read_options(LoopOptions, toy_config()).optim, 8)
    assert [line["optim/learning_rate"] for line in lines[6:]] == pytest.approx([float(rate(6)), float(rate(7))])
    np.testing.assert_array_equal(np.load(tmp_path / "weights" / "up.npy"), _state(tmp_path)["ema.mlp.up.kernel"])
    assert [path.name for path in (tmp_path / "validation").iterdir()] == ["step_000000", "step_000006"]


TWO_PHASES = {"train__phases": ((5, 3, 4), (9, 4, 2)), "checkpoint__every": 2}


@pytest.fixture(scope="module")
def two_phases(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two_phases")
    run(workdir, **TWO_PHASES)
    return workdir


class Dies(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("dies_at", [(1, 0), (1, 3)], ids=lambda at: f"phase{at[0]}-batch{at[1]}")
def test_a_run_of_two_phases_goes_on_from_anywhere(tmp_path, two_phases, dies_at):
    """Phase 1 begins at step 3; checkpoints are at 2, 3 (its beginning), 4, 6 and 7."""
    phase = iter(range(2))

    def loader(**wanted):
        if wanted["split"] == "test":
            return toy_loader(**wanted)
        this = next(phase)

        def before(count):
            if (this, count) == dies_at:
                raise Dies

        return watched(before)(**wanted)

    with pytest.raises(Dies):
        run(tmp_path, loader=loader, **TWO_PHASES)
    run(tmp_path, **TWO_PHASES)
    _assert_same_run(tmp_path, two_phases)


@pytest.mark.slow
def test_a_run_goes_on_on_another_mesh(tmp_path, uninterrupted):
    def before(count):
        if count == 3:
            raise Dies

    with pytest.raises(Dies):
        run(tmp_path, loader=watched(before), mesh__data=2, mesh__fsdp=2, mesh__tensor=2, train__phases=((5, 6, 2),))
    run(tmp_path, mesh__fsdp=4, mesh__seq=2, mesh__tensor=1, train__phases=((5, 6, 1),))
    assert [line[:3] for line in _data_order(tmp_path)] == [line[:3] for line in _data_order(uninterrupted)]
    got, wanted = _state(tmp_path), _state(uninterrupted)
    for name in wanted:
        np.testing.assert_allclose(got[name], wanted[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_a_rerun_goes_on(tmp_path, uninterrupted, monkeypatch):
    """The disk is full when step 6 is saved."""
    save = TrainCheckpoints.save

    def save_on_a_small_disk(self, step, *arguments):
        if step == 6:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))
            try:
                save(self, step, *arguments)
                self.wait()
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        else:
            save(self, step, *arguments)

    monkeypatch.setattr(TrainCheckpoints, "save", save_on_a_small_disk)
    with pytest.raises(UserError, match=r"File too large; the last good checkpoint is step 3"):
        run(tmp_path)
    monkeypatch.undo()
    _wait_until_quiet(tmp_path / "checkpoints")
    run(tmp_path)
    _assert_same_run(tmp_path, uninterrupted)


def _wait_until_quiet(folder):
    """The failed save's threads end a little after its error; another process, which a rerun is, never meets them."""
    before, now = None, sorted(folder.rglob("*"))
    while now != before:
        time.sleep(0.3)
        before, now = now, sorted(folder.rglob("*"))


def _train_adapter(workdir):
    """Starts the real command: six steps of a tiny adapter on one device, saved after three."""
    command = [sys.executable, "-m", "gen3r_jax.train", "--config", "configs/adapter.py:tiny", "--workdir", workdir]
    command += ["--config.train.phases=((5, 6, 1),)", "--config.train.batch_size=1", "--config.checkpoint.every=3"]
    return _start(command, XLA_FLAGS=os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1"))


@pytest.mark.slow
def test_the_adapter_goes_on_after_kill_9(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = _train_adapter(whole)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    process = _train_adapter(killed)
    while not (killed / "checkpoints" / "3").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.005)
    process.kill()
    process.wait()
    assert len([line for line in read_metrics(killed / "metrics.jsonl") if "loss" in line]) < 6, "killed too late"
    assert _train_adapter(killed).wait(timeout=300) == 0

    losses = [
        [(line["step"], line["loss"]) for line in read_metrics(run / "metrics.jsonl") if "loss" in line]
        for run in (whole, killed)
    ]
    assert losses[0] == losses[1]
    one, other = (load_network(run / "weights" / "geometry_adapter", GeometryAdapter)[1] for run in (whole, killed))
    chex.assert_trees_all_equal(one, other)
