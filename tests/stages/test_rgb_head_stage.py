"""The stage that trains a head for colours on VGGT's tokens."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen3r_jax import module
from gen3r_jax.data.procedural import render_clip
from gen3r_jax.errors import UserError
from gen3r_jax.evaluation import rows
from gen3r_jax.models.rgb_head import RGBHead, RGBHeadConfig
from gen3r_jax.models.vggt import VGGT, VGGTConfig
from gen3r_jax.stages.options import FolderOptions, FrozenNetworkOptions
from gen3r_jax.stages.random_weights import random_weights
from gen3r_jax.stages.rgb_head import RGBHeadStage, SampleOptions
from gen3r_jax.storage.checkpoint import load_network
from tests.helpers.toy_training import run_encoders

STAGE = RGBHeadStage(
    FrozenNetworkOptions("tiny", remat="none", frozen_dtype="float32"), FolderOptions(""), SampleOptions(frames=2)
)
KEYS = jax.random.split(jax.random.key(1), 1)


@pytest.fixture(scope="module")
def frozen():
    return jax.tree.map(jnp.asarray, STAGE.load_frozen())


@pytest.fixture(scope="module")
def trainable():
    """Drawn in NumPy: compiling the draws of `init` takes longer than a test may."""
    return jax.tree.map(jnp.asarray, random_weights(RGBHead, STAGE._config, seed=2))


@pytest.fixture(scope="module")
def batch():
    return {"frames": render_clip(3, 3, (56, 56)).frames[None]}


@pytest.mark.slow
def test_loss_falls_on_one_clip_and_is_the_error_of_the_frames_that_were_drawn(frozen, trainable, batch):
    entries = jax.jit(lambda batch: run_encoders(STAGE, frozen, batch, KEYS))(batch)
    tx = optax.adam(1e-2)

    @jax.jit
    def update(params, state):
        judge = jax.value_and_grad(lambda p: STAGE.loss(p, {}, entries, KEYS), has_aux=True)
        (loss, metrics), gradients = judge(params)
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss, metrics, gradients

    params, state, losses = trainable, tx.init(trainable), []
    for _ in range(20):
        params, state, loss, metrics, gradients = update(params, state)
        if not losses:
            norms = {name: float(jnp.linalg.norm(leaf)) for name, leaf in module.flatten(gradients).items()}
            assert all(norm > 0 for norm in norms.values()), norms
        np.testing.assert_allclose(metrics["psnr"], -10 * np.log10(loss), rtol=1e-5)
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0], losses

    read = STAGE._reconstruct(trainable, frozen, batch["frames"])
    errors = np.square(read[0] - batch["frames"][0] / 255).mean(axis=(1, 2, 3))
    pairs = [(errors[i] + errors[j]) / 2 for i, j in ((0, 1), (0, 2), (1, 2))]
    assert min(abs(losses[0] - pair) for pair in pairs) < 1e-4 * losses[0]


@pytest.mark.slow
def test_export_is_what_the_evaluation_reads(frozen, trainable, batch, tmp_path):
    STAGE.export(trainable, tmp_path)
    head, vggt = (load_network(tmp_path / name, kind) for name, kind in (("rgb_head", RGBHead), ("vggt", VGGT)))
    chex.assert_trees_all_equal((head[1], vggt[1]), (trainable, frozen["vggt"]))
    colours = rows._colours(vggt, head, batch["frames"] / np.float32(255))
    assert colours.shape == batch["frames"].shape
    np.testing.assert_allclose(colours, STAGE._reconstruct(trainable, frozen, batch["frames"]), atol=1e-5)
    metrics = STAGE.validate(trainable, frozen, batch, tmp_path, 0)
    assert (tmp_path / "colours.png").exists()
    error = np.square(np.asarray(colours) - batch["frames"] / 255).mean(axis=(0, 2, 3, 4))
    assert metrics["psnr"] == pytest.approx(np.mean(-10 * np.log10(error)), abs=1e-3)


def test_the_head_is_as_large_as_those_of_its_vggt():
    config = RGBHeadConfig.beside(VGGTConfig.nano(), "none")
    count = {}
    for name, network, path in (("own", VGGT, "point_head"), ("colours", RGBHead, "dpt")):
        settings = VGGTConfig.nano() if network is VGGT else config
        shapes = module.abstract(lambda rngs, n=network, c=settings: n(c, rngs=rngs))[1][path]
        count[name] = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count["own"] == count["colours"]
    assert RGBHeadConfig.beside(VGGTConfig.vggt_1b(), "none") == RGBHeadConfig()


def test_more_frames_than_a_clip_has(frozen, trainable, batch):
    entries = {"frames": batch["frames"], "packed": jnp.zeros((1, 3, 4, 4, 320))}
    stage = replace(STAGE, samples=SampleOptions(frames=4))
    with pytest.raises(UserError, match="more than the 3 of a clip"):
        jax.eval_shape(lambda p: stage.loss(p, {}, entries, KEYS), trainable)
