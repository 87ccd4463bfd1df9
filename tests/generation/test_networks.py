"""How the networks fit together: tokens and geometry, scenes, and the trip through the adapter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen3r_jax import module
from gen3r_jax.generation import networks
from gen3r_jax.models.causal_autoencoder import DiagonalGaussian
from gen3r_jax.models.vggt import VGGT, VGGTConfig
from gen3r_jax.stages.random_weights import random_network


@pytest.fixture(scope="module")
def vggt():
    config = VGGTConfig.tiny()
    graphdef, _ = module.abstract(lambda rngs: VGGT(config, rngs=rngs))
    return graphdef, jax.tree.map(jnp.asarray, random_network(VGGT, config, seed=0))


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (5, 56, 56, 3), np.uint8)


@pytest.fixture(scope="module")
def scene(frames, vggt):
    return networks.reconstruct(frames, vggt, prompt="noise")


def test_tokens_hold_what_the_heads_need(frames, vggt):
    @jax.jit
    def both(vggt, frames):
        vggt, images = module.merge(*vggt), networks.to_unit_range(frames)
        return vggt(images), networks.decode_tokens(vggt, networks.encode_tokens(vggt, images), with_points=True)

    direct, packed = both(vggt, frames[None])
    pairs = {
        "pose": (packed.pose_encs[-1], direct.pose_enc),
        "depth": (packed.depth, direct.depth),
        "confidence": (packed.confidence, direct.depth_confidence),
        "points": (packed.points, direct.points),
    }
    for name, (got, expected) in pairs.items():
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4, err_msg=name)


def test_points_of_a_scene_lie_behind_their_pixels(scene, frames):
    assert scene.prompt == "noise"
    np.testing.assert_array_equal(scene.rgb, frames)
    camera = np.einsum("tij,thwj->thwi", scene.w2c[:, :3, :3], scene.points) + scene.w2c[:, None, None, :3, 3]
    np.testing.assert_allclose(camera[..., 2], scene.depth, rtol=1e-4)
    pixels = np.einsum("tij,thwj->thwi", scene.intrinsics, camera / camera[..., 2:])
    u, v = np.meshgrid(np.arange(56), np.arange(56))
    np.testing.assert_allclose(pixels[..., 0], np.broadcast_to(u + 0.5, (5, 56, 56)), atol=1e-2)
    np.testing.assert_allclose(pixels[..., 1], np.broadcast_to(v + 0.5, (5, 56, 56)), atol=1e-2)
    np.testing.assert_allclose(scene.w2c[:, :3, :3] @ scene.w2c[:, :3, :3].swapaxes(1, 2), [np.eye(3)] * 5, atol=1e-5)


class Mirror(nnx.Module):
    """An adapter whose latents are half the tokens, give or take a tenth."""

    def __init__(self):
        self.factor = nnx.Param(jnp.array(0.5))

    def encode(self, packed):
        return DiagonalGaussian(self.factor * packed, jnp.full(packed.shape, 2 * np.log(0.1)))

    def decode(self, z):
        return z / self.factor


def test_the_trip_through_the_adapter(scene, frames, vggt):
    mirror = module.split(Mirror())
    through = networks.reconstruct(frames, vggt, mirror)  # the mode: what goes in comes out
    np.testing.assert_allclose(through.depth, scene.depth, rtol=1e-5)
    np.testing.assert_allclose(through.points, scene.points, rtol=1e-4, atol=1e-4)
    samples = [networks.reconstruct(frames, vggt, mirror, key=jax.random.key(seed)).depth for seed in (0, 0, 1)]
    np.testing.assert_array_equal(samples[0], samples[1])
    for other in (scene.depth, samples[2]):
        assert np.abs(samples[0] - other).max() > 1e-2
