"""VGGT. Agreement with the official implementation is in ``test_verify.py``; these are the network's own laws."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from conversion.recording import Recording
from conversion.tables.vggt import TABLE
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.models.vggt import SPECIAL_TOKENS, VGGT, VGGTConfig
from gen3r_jax.ops.groups import chunks
from gen3r_jax.ops.rope import rotation_2d
from gen3r_jax.sharding import MeshOptions, make_mesh

TINY = VGGTConfig.tiny()
SIZE = (42, 56)


@pytest.fixture(scope="module")
def network(recorded):
    """Recorded tiny weights, in which every parameter matters (no branch scale or bias is near zero)."""
    return Recording(recorded / "vggt_full.safetensors").network(VGGT, TINY, TABLE)


@pytest.fixture(scope="module")
def images():
    return jnp.asarray(np.random.default_rng(1).random((2, 3, *SIZE, 3)), jnp.float32)


@pytest.fixture(scope="module")
def tokens(network, images):
    return jax.jit(VGGT.aggregate)(network, images)


def _with_config(network, **changes):
    """The same weights in a network of another config (which must not change any parameter)."""
    config = dataclasses.replace(network.config, **changes)
    return module.merge(module.abstract(lambda rngs: VGGT(config, rngs=rngs))[0], module.split(network)[1])


def test_kept_layers_are_those_of_a_walk_over_all(network, images, tokens):
    @jax.jit
    def walk(aggregator, images):
        x, kept = aggregator.embed(images), []
        b, t, n, c = x.shape
        rotation = rotation_2d(aggregator.positions(SIZE), c // TINY.num_heads)
        rotation_of_clip = jax.tree.map(lambda table: jnp.concatenate([table] * t), rotation)
        for i in range(TINY.depth):
            frame_block, global_block = (
                jax.tree.map(lambda p, i=i: p[i], blocks)
                for blocks in (aggregator.frame_blocks, aggregator.global_blocks)
            )
            within = jnp.stack([frame_block(x[:, f], rotation) for f in range(t)], 1)
            x = global_block(within.reshape(b, t * n, c), rotation_of_clip).reshape(b, t, n, c)
            kept.append(jnp.concatenate([within, x], -1))
        return jnp.stack(kept)

    every = walk(network.aggregator, images)
    np.testing.assert_allclose(tokens, every, atol=1e-5)  # measured 2e-6 of values up to 6
    two = jax.jit(VGGT.aggregate)(_with_config(network, layers=(0, 2)), images)
    np.testing.assert_allclose(two, every[jnp.array([0, 2])], atol=1e-5)


def test_first_frame_is_marked_and_the_others_are_alike(network, images):
    swapped = images[:, jnp.array([0, 2, 1])]
    a, b = (jax.jit(VGGT.aggregate)(network, x) for x in (images, swapped))
    np.testing.assert_allclose(a[:, :, [0, 2, 1]], b, atol=1e-5)  # measured 2e-6
    c = jax.jit(VGGT.aggregate)(network, images[:, jnp.array([1, 0, 2])])
    assert np.abs(a[:, :, [1, 0, 2]] - c).max() > 0.1


@pytest.mark.slow
def test_rematerialisation_does_not_change_gradients(network):
    images = jnp.asarray(np.random.default_rng(2).random((1, 2, 28, 28, 3)), jnp.float32)

    def gradients(network):
        run = jax.jit(jax.grad(lambda aggregator: (aggregator(images) ** 2).mean()))
        return jax.tree.leaves(run(network.aggregator))

    plain, again = gradients(network), gradients(_with_config(network, remat="full"))
    largest = max(np.abs(leaf).max() for leaf in plain)
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5 * largest)  # measured 2e-7


@pytest.mark.slow
def test_dense_heads_in_chunks_equal_the_whole(network, tokens):
    patch_tokens = tokens[..., SPECIAL_TOKENS:, :]

    def run(network, frames_per_chunk):
        def loss(patch_tokens):
            depth, confidence = network.depth(patch_tokens, SIZE, frames_per_chunk)
            return (depth * confidence).sum(), (depth, confidence)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(patch_tokens)

    whole, chunked = run(network, 3), run(_with_config(network, remat="full"), 2)  # 3 frames: 2 and 1
    for a, b in zip(*map(jax.tree.leaves, (whole, chunked)), strict=True):
        np.testing.assert_allclose(a, b, atol=5e-6 * np.abs(a).max())  # measured 4e-7 of the largest


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [
        (49, 8, (7, 7)),
        (25, 8, (5, 5)),
        (8, 8, (1, 8)),
        (3, 8, (1, 3)),
        (13, 8, (2, 7)),
        (5, 1, (5, 1)),
        (17, 8, (3, 6)),
    ],
)
def test_chunks_waste_little(count, limit, expected):
    assert chunks(count, limit) == expected


def test_gradients_of_heads_with_respect_to_tokens(network, tokens):
    def loss(tokens):
        patch_tokens = tokens[..., SPECIAL_TOKENS:, :]
        dense = network.depth(patch_tokens, SIZE, 2)
        return sum(x.mean() for x in jax.tree.leaves((dense, network.camera(tokens[-1, :, :, 0]))))

    gradient = jax.jit(jax.grad(loss))(tokens)
    assert np.isfinite(gradient).all()
    read = np.abs(gradient).max(axis=(1, 2, 4)) > 0  # [4 n]
    assert read[:, SPECIAL_TOKENS:].all()  # every patch of every layer
    np.testing.assert_array_equal(
        read[:, :SPECIAL_TOKENS], [[layer == 3 and i == 0 for i in range(5)] for layer in range(4)]
    )


def _drift(a, b):
    """Relative, root mean square."""
    a, b = (np.asarray(x, np.float32) for x in (a, b))
    return np.sqrt(((a - b) ** 2).mean() / (b**2).mean())


def test_drift_of_the_aggregator_in_bfloat16(network, images, tokens):
    half = jax.jit(VGGT.aggregate)(module.cast(network, jnp.bfloat16), images)
    assert half.dtype == jnp.bfloat16
    assert _drift(half, tokens) < 0.02  # measured 0.009


@pytest.mark.parametrize("head", ["camera", "depth"])
def test_heads_compute_in_float32_with_bfloat16_weights(network, tokens, head):
    @jax.jit
    def run(network, tokens):
        if head == "camera":
            return network.camera(tokens[-1, :, :, 0])
        return jnp.stack(network.depth(tokens[..., SPECIAL_TOKENS:, :], SIZE))

    half = module.cast(network, jnp.bfloat16)
    out = run(half, tokens)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, run(module.cast(half, jnp.float32), tokens), rtol=1e-6, atol=1e-6)  # measured 0
    assert _drift(out, run(network, tokens)) < 0.006  # by rounding the weights alone; measured 0.0025, 0.001


def test_without_a_point_head(images):
    config = dataclasses.replace(TINY, point_head=False)
    network = nnx.eval_shape(lambda: VGGT(config, rngs=nnx.Rngs(0)))
    assert not [path for path in module.flatten(module.split(network)[1]) if "point" in path]
    out = jax.eval_shape(VGGT.__call__, network, images)
    assert out.points is None
    assert out.points_confidence is None
    assert out.depth.shape == out.depth_confidence.shape == (2, 3, *SIZE)
    assert out.pose_enc.shape == (2, 3, 9)


def test_image_size_is_checked(network):
    with pytest.raises(UserError, match="images of 42 x 57 pixels: both sides must be multiples of 14"):
        network.aggregate(jnp.zeros((1, 1, 42, 57, 3)))


def test_sharded_equals_unsharded(network):
    images = jnp.asarray(np.random.default_rng(2).random((2, 4, *SIZE, 3)), jnp.float32)

    def run(network, images):
        tokens = network.aggregate(images)
        return tokens, network.depth(tokens[..., SPECIAL_TOKENS:, :], SIZE, 4)

    plain = jax.jit(run)(network, images)
    with jax.set_mesh(make_mesh(MeshOptions(data=2, fsdp=1, seq=2, tensor=2))):
        sharded = jax.jit(run)(network, images)
    assert len(sharded[0].sharding.device_set) == 8
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), plain, sharded)  # measured 4e-6
