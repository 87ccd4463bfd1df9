"""Weights and training states on disk: round trips, other meshes, and everything that can be wrong with a folder."""

import dataclasses
import json
import resource
import shutil

import chex
import grain
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from gen3r_jax import module
from gen3r_jax.compact import compact
from gen3r_jax.errors import UserError
from gen3r_jax.info import describe
from gen3r_jax.models.umt5 import UMT5Config, UMT5Encoder
from gen3r_jax.sharding import MeshOptions, make_mesh
from gen3r_jax.storage import checkpoint
from gen3r_jax.storage.checkpoint import load_network, save_network, save_weights
from gen3r_jax.storage.train_checkpoints import TrainCheckpoints


@dataclasses.dataclass(frozen=True)
class NetConfig:
    dim: int = 8
    depth: int = 3
    scales: tuple[float, ...] = (0.5, 2.0)
    label: str | None = None


class Net(nnx.Module):
    Config = NetConfig

    def __init__(self, config: NetConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.blocks = module.stack(lambda r: nnx.Linear(config.dim, config.dim, rngs=r), rngs, config.depth)
        self.heads = nnx.List([nnx.Linear(config.dim, 2, rngs=rngs), nnx.LayerNorm(2, rngs=rngs)])


class OtherNet(Net):
    pass


@pytest.fixture
def saved(tmp_path):
    network = Net(NetConfig(label="a"), rngs=nnx.Rngs(0))
    save_network(tmp_path / "net", network)
    return tmp_path / "net", network


def _assert_equal(got, want):
    chex.assert_trees_all_equal(got, want)


def test_a_network_comes_back(saved):
    path, network = saved
    graphdef, params = load_network(path, Net)
    _assert_equal(params, module.split(network)[1])
    assert module.merge(graphdef, params).config == network.config
    assert json.loads((path / "config.json").read_text())["network"] == "Net"


def test_a_network_comes_back_in_another_dtype_and_on_a_mesh(saved):
    path, network = saved
    mesh = make_mesh(MeshOptions(fsdp=8))
    with jax.set_mesh(mesh):
        _, params = load_network(path, Net, dtype=jnp.bfloat16)
    kernel = params["blocks"]["kernel"]
    assert kernel.dtype == jnp.bfloat16
    assert kernel.sharding.spec == PartitionSpec(None, None, "fsdp")
    np.testing.assert_array_equal(kernel, network.blocks.kernel[...].astype(jnp.bfloat16))


def test_saving_again_replaces(saved):
    path, _ = saved
    save_network(path, Net(NetConfig(dim=4), rngs=nnx.Rngs(1)))
    assert load_network(path, Net)[1]["blocks"]["kernel"].shape == (3, 4, 4)
    assert [entry.name for entry in path.parent.iterdir()] == ["net"]


def test_a_folder_that_holds_something_else_is_not_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(UserError, match="no weights folder"):
        save_network(tmp_path / "photos", Net(NetConfig(), rngs=nnx.Rngs(0)))
    assert (tmp_path / "photos").exists()


@pytest.mark.parametrize("interrupted", [False, True])
def test_other_files_in_a_weights_folder_are_kept(saved, interrupted):
    """Also where an earlier save was killed between moving the old folder away and the new one into its place."""
    path, network = saved
    (path / "README.md").write_text("mine")
    if interrupted:
        path.rename(path.with_name(".net.old"))
    save_network(path, network)
    assert (path / "README.md").read_text() == "mine"
    assert [other.name for other in path.parent.iterdir()] == ["net"]
    load_network(path, Net)


def test_a_damaged_folder_is_told_before_it_is_loaded(saved):
    path, _ = saved
    (path / "params" / "manifest.ocdbt").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"weights in .*net are damaged"):
        describe(path)


def test_a_missing_folder_and_a_wrong_network_are_named(saved):
    path, _ = saved
    with pytest.raises(UserError, match=r"no weights of Net at .*nowhere"):
        load_network(path.parent / "nowhere", Net)
    with pytest.raises(UserError, match="holds weights of Net, not of OtherNet"):
        load_network(path, OtherNet)
    (path / "hashes.json").unlink()
    (path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not JSON"):
        load_network(path, Net)


def test_every_wrong_tensor_is_listed_in_one_line(tmp_path):
    params = module.split(Net(NetConfig(), rngs=nnx.Rngs(0)))[1]
    del params["heads"]["0"]["bias"]
    params["blocks"]["gate"] = jnp.zeros(3)
    params["heads"]["1"]["scale"] = jnp.zeros(5)
    save_weights(tmp_path / "net", Net, NetConfig(), params)
    with pytest.raises(UserError) as caught:
        load_network(tmp_path / "net", Net)
    message = str(caught.value)
    assert "missing heads.0.bias" in message
    assert "extra blocks.gate" in message
    assert "heads.1.scale has shape (5,), needed (2,)" in message
    assert "\n" not in message


class LargerNet(Net):
    """Net as a later version may have it; it was not saved with its tail."""

    def __init__(self, config: NetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.tail = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 2, rngs=rngs)])


LargerNet.__name__ = "Net"


@pytest.mark.parametrize("stored", ["folder", "one file"])
def test_parameters_that_a_folder_lacks_are_drawn_and_told(saved, stored, capsys):
    path, network = saved
    if stored == "one file":
        checkpoint.save_compact(path := path.with_name("compact"), Net, network.config, module.split(network)[1])
    loaded = [load_network(path, LargerNet, dtype=jnp.bfloat16, missing=r"tail\..*")[1] for _ in range(2)]
    _assert_equal(*loaded)
    flat, old = module.flatten(loaded[0]), module.flatten(module.split(network)[1])
    assert jax.tree.structure(loaded[0]) == jax.tree.structure(
        module.split(LargerNet(network.config, rngs=nnx.Rngs(0)))[1]
    )
    _assert_equal({name: flat[name] for name in old}, module.cast(old, jnp.bfloat16))
    new = {name: leaf for name, leaf in flat.items() if name not in old}
    assert all(leaf.dtype == jnp.bfloat16 for leaf in new.values())
    assert (new["tail.0.bias"] == 0).all() and (new["tail.0.kernel"] != new["tail.1.kernel"]).any()
    line = f"{path} lacks 4 parameters of Net, which are drawn: tail.0.bias, tail.0.kernel, tail.1.bias, ..."
    assert capsys.readouterr().err.splitlines() == [line, line]


def test_other_parameters_that_a_folder_lacks_are_refused(saved, capsys):
    path, _ = saved
    with pytest.raises(UserError, match=r"do not fit Net: missing tail\.1\.bias; missing tail\.1\.kernel$"):
        load_network(path, LargerNet, missing=r"tail\.0\..*")
    with pytest.raises(UserError, match="is no regular expression"):
        load_network(path, LargerNet, missing="(")
    load_network(path, Net, missing=".*")
    assert capsys.readouterr().err == "", "nothing is missing"


def test_fields_that_a_saved_config_lacks_have_their_defaults(saved):
    path, network = saved
    (path / "hashes.json").unlink()
    description = json.loads((path / "config.json").read_text())
    del description["config"]["scales"]
    (path / "config.json").write_text(json.dumps(description))
    assert checkpoint.read_config(path, Net) == network.config
    description["config"]["labels"] = "b"
    (path / "config.json").write_text(json.dumps(description))
    with pytest.raises(UserError, match=r"unknown key .*config\.labels \(did you mean label\?\)"):
        checkpoint.read_config(path, Net)


def test_damaged_weights_are_one_line(saved):
    path, _ = saved
    for file in (path / "params" / "d").iterdir():
        file.write_bytes(b"")
    with pytest.raises(UserError, match="damaged") as caught:
        load_network(path, Net)
    assert "\n" not in str(caught.value)


def test_weights_are_not_blamed_for_memory_that_ran_out(saved, monkeypatch):
    path, _ = saved

    def full(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.")

    monkeypatch.setattr(checkpoint, "_restore_params", full)
    with pytest.raises(jax.errors.JaxRuntimeError, match="RESOURCE_EXHAUSTED"):
        load_network(path, Net)


def test_a_full_disk_is_one_line_whatever_its_code(tmp_path, monkeypatch):
    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device [os_error_code='28']")

    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(UserError, match="cannot write a checkpoint"):
            checkpoints.save(1, _state(1), _numbers(), {})


def test_an_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write weights to .*: Not a directory"):
        save_network(tmp_path / "file" / "net", Net(NetConfig(), rngs=nnx.Rngs(0)))


# Training states


def _numbers():
    return iter(grain.MapDataset.range(100).seed(1).shuffle().repeat().batch(4).to_iter_dataset())


def _abstract(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def _state(value: float):
    return {"params": {"w": jnp.full((32, 8), value)}, "moments": (jnp.arange(8.0), {"count": jnp.int32(value)})}


def test_state_and_data_position_come_back(tmp_path):
    data = _numbers()
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        next(data)
        checkpoints.save(1, _state(1), data, {"a": 1})
        after = next(data)
    restored, again = _numbers(), TrainCheckpoints(tmp_path, keep=2)
    assert again.latest() == 1
    _assert_equal(again.restore(1, _abstract(_state(0)), restored), _state(1))
    np.testing.assert_array_equal(next(restored), after)


def test_a_state_saved_on_one_mesh_comes_back_on_another(tmp_path):
    two_by_four, eight = make_mesh(MeshOptions(data=2, fsdp=4)), make_mesh(MeshOptions(fsdp=8))
    state = {"w": jax.device_put(jnp.arange(64.0).reshape(8, 8), NamedSharding(two_by_four, PartitionSpec("fsdp")))}
    with TrainCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, _numbers(), {})
    for sharding in (NamedSharding(eight, PartitionSpec(None, "fsdp")), jnp.zeros(1).sharding):
        wanted = {"w": jax.ShapeDtypeStruct((8, 8), jnp.float32, sharding=sharding)}
        got = TrainCheckpoints(tmp_path, keep=1).restore(1, wanted)
        assert got["w"].sharding == sharding
        _assert_equal(got, state)


def test_the_last_ones_and_every_nth_are_kept(tmp_path):
    data = _numbers()
    with TrainCheckpoints(tmp_path, keep=2, keep_every=3) as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, _state(step), data, {})
            checkpoints.wait()
    kept = {int(path.name) for path in tmp_path.iterdir()}
    assert kept == {3, 6, 7, 8}


def test_a_save_that_never_finished_is_not_a_checkpoint(tmp_path):
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        checkpoints.save(1, _state(1), _numbers(), {})
    shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
    assert TrainCheckpoints(tmp_path, keep=2).latest() == 1


def test_a_state_that_does_not_fit_lists_everything(tmp_path):
    with TrainCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, _state(1), _numbers(), {})
    wanted = _abstract({"params": {"w": jnp.zeros((32, 9)), "v": jnp.zeros(2)}, "moments": (jnp.zeros(8),)})
    with pytest.raises(UserError) as caught:
        TrainCheckpoints(tmp_path, keep=1).restore(1, wanted)
    for problem in ("missing params.v", "extra moments.1.count", "params.w has shape (32, 8), needed (32, 9)"):
        assert problem in str(caught.value)


def test_a_damaged_checkpoint_names_the_one_before(tmp_path):
    with TrainCheckpoints(tmp_path, keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _state(step), _numbers(), {})
    shutil.rmtree(tmp_path / "2" / "state")
    with pytest.raises(UserError, match="--restore 1 goes back to the one before"):
        TrainCheckpoints(tmp_path, keep=2).restore(2, _abstract(_state(0)))


@pytest.fixture
def small_files():
    """No file may grow beyond 64 KiB: as on a full disk, writing fails in the middle."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 * 1024, limits[1]))

    yield limit
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk_stops_with_one_line_and_keeps_the_last_checkpoint(tmp_path, small_files):
    rng, data = np.random.default_rng(0), _numbers()
    state = {"w": jnp.asarray(rng.normal(size=(256, 256)), jnp.float32)}
    with pytest.raises(UserError) as caught, TrainCheckpoints(tmp_path, keep=1) as checkpoints:
        checkpoints.save(1, state, data, {})
        checkpoints.wait()
        small_files()
        checkpoints.save(2, jax.tree.map(lambda x: x + 1, state), data, {})
    assert "cannot write a checkpoint" in str(caught.value)
    assert str(caught.value).endswith("File too large; the last good checkpoint is step 1")
    _assert_equal(TrainCheckpoints(tmp_path, keep=1).restore(1, _abstract(state)), state)


def test_a_full_disk_keeps_the_old_weights(saved, small_files):
    path, network = saved
    small_files()
    with pytest.raises(UserError, match=r"cannot write weights to .*: File too large"):
        save_network(path, Net(NetConfig(dim=256), rngs=nnx.Rngs(0)))
    _assert_equal(load_network(path, Net)[1], module.split(network)[1])


def test_compact_weights(tmp_path):
    """One file, half the bytes, read like the folder it came from."""
    config = UMT5Config.tiny()
    network = UMT5Encoder(config, rngs=nnx.Rngs(0))
    save_network(tmp_path / "weights" / "umt5", network)
    (tmp_path / "weights" / "scheduler.json").write_text('{"shift": 2.0}')
    compact(tmp_path / "weights", tmp_path / "small", "bfloat16")
    graphdef, params = load_network(tmp_path / "small" / "umt5", UMT5Encoder, dtype=jnp.float32)
    assert module.merge(graphdef, params).config == config
    for name, leaf in module.flatten(module.split(network)[1]).items():
        found = module.flatten(params)[name]
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, leaf, rtol=2**-8)
    assert "bfloat16" in describe(tmp_path / "small" / "umt5")[0]
    assert any("shift 2.0" in line for line in describe(tmp_path / "small"))
    (tmp_path / "small" / "umt5" / "params.safetensors").write_bytes(b"cut short")
    with pytest.raises(UserError, match=r"params\.safetensors is damaged"):
        load_network(tmp_path / "small" / "umt5", UMT5Encoder)
    with pytest.raises(UserError, match="holds no weights"):
        compact(tmp_path, tmp_path / "smaller", "bfloat16")
