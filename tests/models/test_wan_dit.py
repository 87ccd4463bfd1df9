"""The diffusion transformer. Agreement with the official one is in ``test_verify.py``; these are its own laws."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from conversion.commands import convert_checkpoint
from conversion.recording import Recording
from conversion.rules import convert, manifest
from conversion.tables.wan_dit import TABLE
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.models.camera_adapter import CameraAdapter
from gen3r_jax.models.wan_dit import WanDiT, WanDiTConfig, timestep_embedding
from gen3r_jax.sharding import AXES, MeshOptions, make_mesh, param_shardings
from gen3r_jax.stages.random_weights import random_weights
from gen3r_jax.storage import checkpoint

TINY = WanDiTConfig.tiny()


@pytest.fixture(scope="module")
def network(recorded):
    """Recorded tiny weights, in which every parameter matters (nothing is zero)."""
    return Recording(recorded / "dit.safetensors").network(WanDiT, TINY, TABLE)


def make_inputs(config: WanDiTConfig, batch: int = 1, grid: tuple[int, int, int] = (2, 4, 8)) -> dict[str, jax.Array]:
    """Arguments of :func:`run` for latents of (frames, height, width)."""
    rng = np.random.default_rng(3)
    shapes = {
        "latents": (*grid, config.out_channels),
        "condition": (*grid, config.in_channels - config.out_channels),
        "text": (config.text_len, config.text_dim),
        "image": config.image_dim and (7, config.image_dim),
        "cameras": config.camera_channels and (grid[0], 8 * grid[1], 8 * grid[2], config.camera_channels),
    }
    inputs = {
        name: jnp.asarray(rng.standard_normal((batch, *shape)), jnp.float32) for name, shape in shapes.items() if shape
    }
    return inputs | {"timesteps": jnp.linspace(900.0, 100.0, batch)}


@jax.jit
def run(network, latents, condition, timesteps, text, image=None, cameras=None):
    context = network.encode_context(text, image)
    cameras = None if cameras is None else network.encode_cameras(cameras)
    return network(latents, condition, timesteps, context, cameras)


def random_network(**changes) -> WanDiT:
    config = dataclasses.replace(TINY, **changes)
    graphdef, _ = module.abstract(lambda rngs: WanDiT(config, rngs=rngs))
    return module.merge(graphdef, jax.tree.map(jnp.asarray, random_weights(WanDiT, config, seed=0)))


def test_what_is_encoded_once_is_that_of_every_layer(network):
    inputs = make_inputs(TINY)
    text, image = network.text_mlp(inputs["text"]), network.image_embed(inputs["image"])
    context = network.encode_context(inputs["text"], inputs["image"])
    for i in range(TINY.depth):
        block = jax.tree.map(lambda leaf, i=i: leaf[i], network.blocks)
        layer = jax.tree.map(lambda leaf, i=i: leaf[i], context)
        keys, values = block.image_attn(image)
        np.testing.assert_allclose(layer.image_keys, keys, atol=1e-6)  # measured 2.4e-7
        np.testing.assert_allclose(layer.image_values, values, atol=1e-6)
        keys, values = block.text_attn(text)
        np.testing.assert_allclose(layer.text_keys, keys, atol=1e-6)
        np.testing.assert_allclose(layer.text_values, values, atol=1e-6)
        assert keys.shape == (1, TINY.text_len, TINY.num_heads, TINY.dim // TINY.num_heads)


@pytest.mark.parametrize("shared_halves", [True, False])
def test_halves_are_alike_where_they_share_positions(shared_halves):
    """Without a camera adapter, which sees the seam, exchanging the halves exchanges those of the velocity."""
    network = random_network(camera_channels=None, shared_halves=shared_halves)
    inputs = make_inputs(network.config)
    exchanged = inputs | {name: jnp.roll(inputs[name], 4, axis=3) for name in ("latents", "condition")}
    error = np.abs(jnp.roll(run(network, **inputs), 4, axis=3) - run(network, **exchanged)).max()
    assert error < 1e-5 if shared_halves else error > 0.1  # measured 1.4e-6 and 0.4


def test_camera_adapter_sees_across_the_seam():
    adapter = CameraAdapter(2, 8, rngs=nnx.Rngs(0))
    half = jnp.asarray(np.random.default_rng(0).standard_normal((1, 1, 32, 96, 2)), jnp.float32)
    left, right = np.split(adapter(jnp.concatenate([half, half], axis=3)), 2, axis=3)
    np.testing.assert_allclose(left[..., 2:4, :], right[..., 2:4, :], atol=1e-6)  # two convolutions reach two tokens
    differing = np.abs(left - right).max(axis=(0, 1, 2, 4)) > 1e-3
    assert differing.tolist() == [True, True, False, False, True, True]


def test_unknown_cameras_still_count(network):
    inputs = make_inputs(TINY)
    encoded = network.encode_cameras(jnp.zeros_like(inputs["cameras"]))
    assert encoded.shape == (1, 2, 2, 4, TINY.dim)
    assert np.abs(encoded).max() > 0.1


def test_drift_in_bfloat16(network):
    inputs = make_inputs(TINY, batch=2)
    whole, half = run(network, **inputs), run(module.cast(network, jnp.bfloat16), **inputs)
    assert half.dtype == jnp.float32
    drift = np.sqrt(((half - whole) ** 2).mean() / (whole**2).mean())
    assert drift < 0.01  # measured 0.0053


@pytest.mark.slow
def test_rematerialisation_does_not_change_gradients(network):
    inputs = make_inputs(TINY)

    def gradients(remat):
        config = dataclasses.replace(TINY, remat=remat)
        graphdef, _ = module.abstract(lambda rngs: WanDiT(config, rngs=rngs))
        other = module.merge(graphdef, module.split(network)[1])
        return jax.tree.leaves(jax.jit(jax.grad(lambda network: (run(network, **inputs) ** 2).mean()))(other))

    plain, again = gradients("none"), gradients("full")
    largest = max(np.abs(leaf).max() for leaf in plain)
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * largest)  # measured 8e-8
        assert np.abs(a).max() > 0  # everything is trained


@pytest.mark.parametrize("mesh", [MeshOptions(fsdp=2, seq=2, tensor=2), MeshOptions(fsdp=1, seq=4, tensor=2)])
def test_sharded_equals_unsharded(mesh):
    """Also where the devices that share a sample do not divide its 18 tokens."""
    network = random_network(dim=64, num_heads=4)
    inputs = make_inputs(network.config, batch=2, grid=(1, 6, 12))
    plain = run(network, **inputs)
    with jax.set_mesh(make_mesh(mesh)):
        sharded = jax.jit(run.__wrapped__)(network, **inputs)
    assert len(sharded.sharding.device_set) == 8
    np.testing.assert_allclose(plain, sharded, atol=1e-5)  # measured 2e-6 of values up to 7


def test_every_large_parameter_is_split_at_full_size():
    _, shapes = module.abstract(lambda rngs: WanDiT(WanDiTConfig.fun_1_3b(), rngs=rngs))
    shardings = module.flatten(param_shardings(shapes, make_mesh(MeshOptions(data=1, fsdp=4, seq=1, tensor=2))))
    for name, leaf in module.flatten(shapes).items():
        if leaf.size > 2_000_000:
            expected = {"fsdp", "tensor"} if "attn" in name or "mlp" in name else {"fsdp"}
            assert {axis for axis in AXES if axis in str(shardings[name].spec)} == expected, name


def test_text_to_video_has_no_image_branch():
    network = random_network(image_dim=None, camera_channels=None, shared_halves=False)
    assert not [path for path in module.flatten(module.split(network)[1]) if "image" in path or "camera" in path]
    inputs = make_inputs(network.config, grid=(1, 4, 6))
    assert run(network, **inputs).shape == (1, 1, 4, 6, 16)


def test_a_new_network_predicts_nothing():
    network = jax.jit(lambda: WanDiT(TINY, rngs=nnx.Rngs(0)))()
    assert not run(network, **make_inputs(TINY)).any()
    np.testing.assert_allclose(np.std(network.blocks.modulation), TINY.dim**-0.5, rtol=0.2)
    np.testing.assert_allclose(np.std(network.text_mlp.up.kernel), 0.02, rtol=0.2)
    bound = (6 / (TINY.dim + TINY.mlp_dim)) ** 0.5
    np.testing.assert_allclose(np.abs(network.blocks.mlp.up.kernel).max(), bound, rtol=0.01)


def test_embedding_of_timesteps_is_exact_in_float32():
    timesteps = np.random.default_rng(0).uniform(0, 1000, 500).astype(np.float32)
    angles = timesteps[:, None].astype(np.float64) * 10_000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(
        jax.jit(timestep_embedding, static_argnums=1)(timesteps, 256), expected, atol=1e-6
    )  # measured 4e-7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": (1, 5, 24)}, "5 rows of text features: pad with zeros to 12"),
        ({"image": None}, "image features are needed"),
        ({"cameras": None}, "encoded cameras are needed; for unknown cameras encode zeros"),
        ({"latents": (1, 2, 4, 6, 16), "condition": (1, 2, 4, 6, 20), "cameras": (1, 2, 32, 48, 24)}, "multiple of 4"),
        ({"latents": (1, 2, 5, 8, 16), "condition": (1, 2, 5, 8, 20)}, "5 x 8 .*: both must be multiples of 2"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(change, message):
    network = nnx.eval_shape(lambda: WanDiT(TINY, rngs=nnx.Rngs(0)))
    given = make_inputs(TINY) | {name: shape and jnp.zeros(shape) for name, shape in change.items()}
    with pytest.raises(UserError, match=message):
        jax.eval_shape(lambda network: run.__wrapped__(network, **given), network)


# ---------------------------------------------------------------------------------------------------------------------
# Conversion of other forms; the round trip is in test_rules.py


def test_upstream_transformer_gets_mask_channels(tmp_path):
    """It computes what it did before, whatever the mask says, and the report tells of the change."""
    upstream = dataclasses.replace(TINY, in_channels=32)
    rng = np.random.default_rng(0)
    tensors = {
        name: rng.standard_normal(entry.shape).astype(np.float32) * 0.1
        for name, entry in manifest(TABLE, upstream).items()
    }
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(TABLE.write_config(upstream)))
    report = convert_checkpoint("wan_dit", tmp_path, tmp_path / "weights")
    assert "patch_embedding.weight has 32 input channels: 4 for the mask were added, with zero weights" in report
    graphdef, params = checkpoint.load_network(tmp_path / "weights", WanDiT)
    grown = module.merge(graphdef, params)
    assert grown.config == TINY

    before = module.merge(
        module.abstract(lambda rngs: WanDiT(upstream, rngs=rngs))[0], convert(tensors, TABLE, upstream)
    )
    inputs = make_inputs(TINY)
    expected = run(before, **{**inputs, "condition": inputs["condition"][..., :16]})
    np.testing.assert_allclose(run(grown, **inputs), expected, atol=1e-6)  # measured 0
    assert np.abs(expected).max() > 0.1


@pytest.mark.parametrize(("field", "value"), [("qk_norm", False), ("patch_size", [1, 4, 4]), ("add_ref_conv", True)])
def test_other_members_of_the_family_are_refused(field, value):
    with pytest.raises(UserError, match=f"config.json says {field} = "):
        TABLE.read_config({field: value})
