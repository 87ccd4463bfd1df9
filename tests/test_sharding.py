"""The mesh, the rules, and a training step that gives the same numbers on every mesh."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.options import read_options
from gen3r_jax.sharding import AXES, MeshOptions, batch_share, make_mesh, param_shardings, partition, shard
from gen3r_jax.training.optim import make_optimizer
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.state import abstract_state, create_state
from gen3r_jax.training.step import Step, count_micro_batches, make_phases, place_batch
from tests.helpers.toy_training import ToyStage, toy_config, toy_loader


def _mesh(data=1, fsdp=1, seq=1, tensor=1):
    sizes = MeshOptions(data, fsdp, seq, tensor)
    return make_mesh(sizes, jax.devices()[: data * fsdp * seq * tensor])


def test_one_size_may_be_left_to_the_devices():
    assert dict(make_mesh(MeshOptions(data=2, fsdp=-1, seq=2)).shape) == {
        "data": 2,
        "fsdp": 2,
        "rows": 2,
        "columns": 1,
        "tensor": 1,
    }
    assert make_mesh(MeshOptions(fsdp=1, seq=4, tensor=-1)).axis_sizes == (1, 1, 2, 2, 2)


@pytest.mark.parametrize(
    "sizes", [{"data": 3, "fsdp": -1}, {"data": 2, "fsdp": 2}, {"data": -1, "fsdp": -1}, {"seq": 0}]
)
def test_a_mesh_that_does_not_fit_says_so(sizes):
    with pytest.raises(UserError, match="does not fit 8 devices: sizes must multiply to 8, one may be -1"):
        make_mesh(MeshOptions(**sizes))


def _mesh_of_processes(owners):
    """What `batch_share` reads of a mesh; owners: the process of each device, [data, fsdp, rows, ...]."""
    owners = np.asarray(owners)
    owners = owners.reshape(owners.shape + (1,) * (5 - owners.ndim))
    devices = np.vectorize(lambda owner: SimpleNamespace(process_index=int(owner)), otypes=[object])(owners)
    return SimpleNamespace(devices=devices, shape=dict(zip(AXES, owners.shape, strict=True)))


@pytest.mark.parametrize(
    ("owners", "share"),
    [
        ([[0, 0, 1, 1, 2, 2, 3, 3]], (0, 4)),
        ([[1, 1, 0, 0]], (1, 2)),
        ([[0, 0, 2, 2, 3, 3, 1, 1, 1, 1, 3, 3, 2, 2, 0, 0]], (0, 4)),  # machines of 2 x 2 chips along a ring of 4 x 4
        ([[2, 3], [0, 1], [2, 3], [0, 1]], (2, 4)),  # every other of the batch
        ([[[0, 1], [0, 1]]], (0, 1)),  # both along `rows`: the same samples
        ([[[2, 3], [0, 1], [2, 3], [0, 1]]], (1, 2)),
    ],
)
def test_which_part_of_a_batch_a_process_works_on(owners, share):
    assert batch_share(_mesh_of_processes(owners)) == share


@pytest.mark.parametrize("owners", [[[[0, 0], [0, 1], [1, 1]]], [[0, 0, 0, 1]]])
def test_processes_that_would_share_a_few_samples_are_refused(owners):
    with pytest.raises(UserError, match="choose other mesh"):
        batch_share(_mesh_of_processes(owners))


@pytest.mark.parametrize(
    ("name", "shape", "spec"),
    [
        ("encoder.attn.q.kernel", (64, 32), P(("fsdp",), ("tensor",))),
        ("blocks.attn.qkv.kernel", (4, 64, 96), P(None, ("fsdp",), ("tensor",))),  # a stack of layers
        ("blocks.attn.proj.kernel", (4, 64, 64), P(None, ("tensor",), ("fsdp",))),
        ("blocks.mlp.fc1.kernel", (4, 64, 256), P(None, ("fsdp",), ("tensor",))),
        ("blocks.mlp.down.kernel", (4, 256, 64), P(None, ("tensor",), ("fsdp",))),
        ("encoder.conv1.kernel", (3, 3, 3, 8, 16), P(None, None, None, None, ("fsdp",))),
        ("encoder.conv_out.kernel", (3, 3, 8, 3), P(None, None, None, None)),  # 3 channels do not divide
        ("encoder.norm.scale", (64,), P(None)),
    ],
)
def test_the_first_rule_that_matches_places_a_parameter(name, shape, spec):
    tree = jax.ShapeDtypeStruct(shape, jnp.float32)
    for key in reversed(name.split(".")):
        tree = {key: tree}
    (sharding,) = jax.tree.leaves(param_shardings(tree, _mesh(data=1, fsdp=4, seq=1, tensor=2)))
    assert sharding.spec == spec


def test_an_activation_is_split_as_far_as_sizes_divide():
    mesh = _mesh(data=2, fsdp=2, seq=2)
    assert partition((8, 6, 5), ("batch", "frames", None), mesh) == P(("data", "fsdp"), ("rows",), None)
    assert partition((2, 5, 5), ("batch", "frames", None), mesh) == P(("data",), None, None)
    assert partition((8, 6, 6), ("batch", "frames", "rows"), mesh) == P(
        ("data", "fsdp"), ("rows",), None
    )  # rows are taken
    x = jnp.ones((8, 6, 5))
    with jax.set_mesh(mesh):
        assert jax.jit(lambda x: shard(2 * x, "batch", "frames"))(x).sharding.spec == P(("data", "fsdp"), "rows")
    assert shard(x, "batch", "frames") is x


MESHES = [
    {"data": 2, "fsdp": 2, "seq": 2},
    {"fsdp": 2, "seq": 2, "tensor": 2},
    pytest.param({"fsdp": 8}, marks=pytest.mark.slow),
    pytest.param({"data": 2, "fsdp": 4}, marks=pytest.mark.slow),
]


@functools.cache
def _two_steps(clips_per_device, **sizes):
    """State after two updates on 16 clips of 4 frames, and the metrics of the second."""
    mesh = _mesh(**sizes)
    options = read_options(LoopOptions, toy_config(train__batch_size=16, train__phases=((4, 5, clips_per_device),)))
    stage, (phase,) = ToyStage(), make_phases(options.train.phases)
    with jax.set_mesh(mesh):
        tx = make_optimizer(options.optim, phase.steps)
        abstract = abstract_state(stage, tx, mesh, with_ema=True)
        state = create_state(stage, tx, abstract, seed=0)
        frozen = jax.device_put(stage.load_frozen(), param_shardings(stage.load_frozen(), mesh))
        step = Step(stage, options.optim, phase, abstract, "float32", seed=0, mesh=mesh)
        micro_batches = count_micro_batches(16, clips_per_device, mesh)
        data = toy_loader(batch_size=16, num_frames=4, seed=0)
        for _ in range(2):
            state, metrics = step(state, frozen, place_batch(next(data), stage.entries, micro_batches, mesh))
    return state, metrics


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_step_on_any_mesh_equals_a_step_on_one_device(sizes):
    wanted_state, wanted_metrics = _two_steps(clips_per_device=16)
    state, metrics = _two_steps(clips_per_device=2, **sizes)
    # Measured: 1e-7 of loss and gradient norm, 2e-7 of the parameters (sums in another order).
    for name, value in wanted_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-6, err_msg=name)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state, wanted_state)


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_moments_and_average_are_split_like_their_parameters(sizes):
    state, _ = _two_steps(clips_per_device=2, **sizes)
    params, opt_state = module.flatten(state.params), module.flatten(state.opt_state)
    checked = 0
    for name, leaf in params.items():
        twins = [moment for path, moment in opt_state.items() if path.endswith(f"{name}")]
        assert len(twins) == 2, "Adam keeps two moments"
        twins.append(module.flatten(state.ema)[name])
        for twin in twins:
            assert twin.sharding.is_equivalent_to(leaf.sharding, leaf.ndim), name
        if leaf.size >= 512:
            assert not leaf.sharding.is_fully_replicated, name
            checked += 1
    assert checked == 2
    unplaced = [leaf for leaf in opt_state.values() if leaf.size >= 512 and leaf.sharding.is_fully_replicated]
    assert not unplaced


def test_a_batch_that_does_not_divide_names_the_nearest():
    with pytest.raises(UserError, match=r"not a multiple of 16 .*; nearest: 176, 192"):
        count_micro_batches(190, 2, _mesh(data=2, fsdp=4))
    with pytest.raises(UserError, match=r"nearest: 16$"):
        count_micro_batches(4, 2, _mesh(data=2, fsdp=4))
    assert count_micro_batches(192, 2, _mesh(data=2, fsdp=4)) == 12
