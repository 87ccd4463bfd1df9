"""Every flipped bit of a training checkpoint is found, whatever the mesh, and the run can go back."""

import json
import shutil
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gen3r_jax.errors import UserError
from gen3r_jax.sharding import MeshOptions, make_mesh
from gen3r_jax.storage.checkpoint import hush_background
from gen3r_jax.storage.checksums import array_checksums
from gen3r_jax.storage.train_checkpoints import TrainCheckpoints, go_back
from gen3r_jax.verify import main
from tests.helpers.damage import files_in, flip_bit
from tests.storage.test_checkpoint import _abstract, _assert_equal, _numbers, _state


def test_sums_are_those_of_the_definition_on_every_mesh():
    values = np.random.default_rng(0).standard_normal((8, 16), np.float32)
    mixed = values.view(np.uint32) ^ (np.arange(128, dtype=np.uint32).reshape(8, 16) * np.uint32(0x9E3779B1))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = (mixed ^ (mixed >> np.uint32(shift))) * np.uint32(factor)
    wanted = int((mixed ^ (mixed >> np.uint32(16))).sum(dtype=np.uint32))
    assert array_checksums({"x": jnp.asarray(values)}) == {"x": wanted}
    for options, spec in ((MeshOptions(fsdp=8), ("fsdp",)), (MeshOptions(data=2, fsdp=4), (None, "fsdp"))):
        sharding = NamedSharding(make_mesh(options), PartitionSpec(*spec))
        assert array_checksums({"x": jax.device_put(values, sharding)}) == {"x": wanted}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_every_bit_and_every_place_counts(dtype):
    width = jnp.dtype(dtype).itemsize
    raw = np.zeros(5 * width, np.uint8)
    seen = set()
    for bit in range(1 if dtype == "bool" else 8 * width):
        for place in range(5):
            raw[:] = 0
            raw[place * width + bit // 8] = 1 << bit % 8
            seen |= set(array_checksums({"x": jnp.asarray(raw.view(dtype))}).values())
    assert len(seen) == 5 * (1 if dtype == "bool" else 8 * width)


def test_every_flipped_bit_is_found(tmp_path, capsys):
    rng, state = np.random.default_rng(0), _state(1) | {"count": jnp.int32(3)}
    with TrainCheckpoints(tmp_path / "whole", keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state, _numbers(), {})
    files, refused = files_in(tmp_path / "whole" / "2"), 0
    position = _numbers().get_state()
    for number in range(60):
        folder, data = tmp_path / f"{number}", _numbers()
        shutil.copytree(tmp_path / "whole", folder)
        flip_bit(folder / "2" / files[number % len(files)], rng)
        try:
            restored = TrainCheckpoints(folder, keep=2).restore(2, _abstract(state), data)
        except UserError as error:
            assert "\n" not in str(error) and str(folder / "2") in str(error)
            refused += 1
        else:
            _assert_equal(restored, state)
            assert data.get_state() == position
        shutil.rmtree(folder)
    assert refused > 5  # the others left every value as it was; which files there are differs from run to run


def _change_number(folder, name):
    """Saves a checkpoint again with one number of one array changed, under the checksums of the old one."""
    state = _state(1)
    state["params"]["w"] = state["params"]["w"].at[3, 4].set(7)
    with TrainCheckpoints(folder.parent / "other", keep=1) as checkpoints:
        checkpoints.save(int(folder.name), state, _numbers(), {})
    shutil.rmtree(folder / name)
    shutil.copytree(folder.parent / "other" / folder.name / name, folder / name)


def test_the_array_and_the_checkpoint_before_are_named(tmp_path):
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _state(1), _numbers(), {})
    _change_number(tmp_path / "2", "state")
    with pytest.raises(UserError, match=r"2 is damaged \(params\.w is not what was saved\); --restore 1 goes back"):
        TrainCheckpoints(tmp_path, keep=2).restore(2, _abstract(_state(0)))
    go_back(tmp_path, 1)
    assert TrainCheckpoints(tmp_path, keep=2).latest() == 1
    assert (tmp_path.parent / f"{tmp_path.name}-left-1" / "2").is_dir()
    with pytest.raises(UserError, match="has no checkpoint of step 2; it has 1"):
        go_back(tmp_path, 2)


def test_the_command_that_verifies_names_the_array_and_touches_nothing(tmp_path, capsys):
    with TrainCheckpoints(tmp_path / "checkpoints", keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _state(1), _numbers(), {})
    assert main([str(tmp_path)]) == 0
    _change_number(tmp_path / "checkpoints" / "2", "state")
    before = files_in(tmp_path)
    assert main([str(tmp_path)]) == 1 and files_in(tmp_path) == before
    first, second = capsys.readouterr().out.splitlines()[2:]
    assert first.startswith(f"{tmp_path}/checkpoints/1: ") and first.endswith("arrays are as they were saved")
    assert second == f"checkpoint {tmp_path}/checkpoints/2 is damaged (params.w is not what was saved)"


def test_reads_in_the_background_print_no_tracebacks(monkeypatch):
    told = []
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)  # which is put back
    hush_background(told.append)
    for error in ("Event loop is closed", "reading array index: (). See full TensorStore details: <...>", "mine"):
        sys.unraisablehook(SimpleNamespace(exc_value=RuntimeError(error)))
    assert [str(one.exc_value) for one in told] == ["mine"]


def test_the_position_in_the_data_belongs_to_the_step(tmp_path):
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _state(1), _numbers(), {})
    shutil.copytree(tmp_path / "1", tmp_path / "3")
    with pytest.raises(UserError, match="the data position is not the one that was saved with step 3"):
        TrainCheckpoints(tmp_path, keep=3).restore(3, _abstract(_state(0)))


def test_checkpoints_without_checksums_are_read_with_a_notice(tmp_path, capsys):
    with TrainCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, _state(1), _numbers(), {})
    shutil.rmtree(tmp_path / "1" / "checksums")
    file = tmp_path / "1" / "_CHECKPOINT_METADATA"
    document = json.loads(file.read_text())
    del document["item_handlers"]["checksums"]
    file.write_text(json.dumps(document))
    _assert_equal(TrainCheckpoints(tmp_path, keep=1).restore(1, _abstract(_state(0))), _state(1))
    assert "written without checksums" in capsys.readouterr().err
