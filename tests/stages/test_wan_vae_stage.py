"""The stage that trains a small video VAE from nothing."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.generation import networks
from gen3r_jax.models.registry import PRESETS
from gen3r_jax.models.wan_vae import WanVAE, WanVAEConfig
from gen3r_jax.stages import wan_vae
from gen3r_jax.stages.options import NetworkOptions
from gen3r_jax.stages.random_weights import random_weights
from gen3r_jax.stages.wan_vae import (
    CropOptions,
    LossOptions,
    StatisticsOptions,
    WanVAEStage,
    WeightsOptions,
    crop,
)
from gen3r_jax.storage.checkpoint import load_network

STAGE = WanVAEStage(
    NetworkOptions("nano", remat="none"),
    WeightsOptions(wan_vae=""),
    CropOptions(side=16, per_clip=2),
    LossOptions(square=1.0, absolute=0.1, gradient=0.2, kl=1e-4),
    StatisticsOptions(clips=3),
)
KEYS = jax.random.split(jax.random.key(1), 2)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(PRESETS["nano"], "wan_vae", replace(WanVAEConfig.nano(), width=4))


@pytest.fixture(scope="module")
def trainable():
    """Drawn in NumPy: compiling the draws of `init` takes longer than a test may."""
    config = replace(WanVAEConfig.nano(), width=4)
    return jax.tree.map(jnp.asarray, random_weights(WanVAE, config, seed=2))


@pytest.fixture(scope="module")
def batch():
    """Two clips of five smooth frames that change."""
    noise = np.random.default_rng(0).uniform(0, 255, (2, 3, 4, 5, 3))
    return {"frames": np.asarray(jax.image.resize(noise, (2, 5, 24, 32, 3), "linear")).astype(np.uint8)}


@pytest.mark.slow
def test_loss_is_the_weighted_sum_of_its_parts_and_falls(trainable, batch):
    tx = optax.adam(3e-3)

    @jax.jit
    def update(params, state):
        (loss, metrics), gradients = jax.value_and_grad(lambda p: STAGE.loss(p, {}, batch, KEYS), has_aux=True)(params)
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss, metrics, gradients

    params, state, losses = trainable, tx.init(trainable), []
    for _ in range(30):
        params, state, loss, metrics, gradients = update(params, state)
        if not losses:
            parts = [metrics[name] for name in ("square", "absolute", "gradient", "kl")]
            np.testing.assert_allclose(loss, np.dot(parts, [1, 0.1, 0.2, 1e-4]), rtol=1e-5)
            norms = {name: float(jnp.linalg.norm(leaf)) for name, leaf in module.flatten(gradients).items()}
            assert all(norm > 0 for norm in norms.values()), norms
        losses.append(float(loss))
    assert losses[-1] < 0.6 * losses[0], losses


def test_export_normalises_the_latents(trainable, batch, tmp_path):
    stage = replace(STAGE)  # has seen nothing yet
    frames = np.concatenate([batch["frames"], batch["frames"][:, ::-1] // 2])
    stage.prepare({"frames": frames[:2]})
    stage.prepare({"frames": frames[2:]})  # the first clip of four is forgotten
    stage.export(trainable, tmp_path)
    graph, params = load_network(tmp_path / "wan_vae", WanVAE)
    chex.assert_trees_all_equal(params, trainable)

    def code(params):
        for graphdef in (graph, stage._graph):
            network = module.merge(graphdef, params)
            latents = networks.encode_video(network, networks.to_unit_range(jnp.asarray(frames[1:]))).mode()
            yield latents, network.decode(latents)

    (latents, video), (raw, expected) = jax.jit(lambda params: list(code(params)))(params)
    np.testing.assert_allclose(latents.mean((0, 1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(latents.std((0, 1, 2, 3)), 1, atol=1e-4)
    assert np.abs(raw.std((0, 1, 2, 3)) - 1).min() > 1e-3
    np.testing.assert_allclose(video, expected, atol=1e-4)  # the decoder undoes it

    again = replace(stage, weights=WeightsOptions(str(tmp_path / "wan_vae")))
    chex.assert_trees_all_equal(again.load_trainable(), trainable)
    assert again._config == stage._config  # training goes on with raw latents


def test_crops_stay_in_the_frame():
    rows, columns = np.meshgrid(np.arange(24), np.arange(32), indexing="ij")
    clip = np.stack([rows, columns, np.full_like(rows, 7)], axis=-1).astype(np.uint8)
    clips = np.stack([[clip] * 5, [clip + np.uint8([0, 0, 1])] * 5])
    crops = np.asarray(crop(clips, 16, jax.random.split(jax.random.key(0), (2, 200))))
    assert crops.shape == (400, 5, 16, 16, 3)
    np.testing.assert_array_equal(crops[:, 0, 0, 0, 2], np.repeat([7, 8], 200))  # each clip has its own
    corners = crops[:, 0, 0, 0, :2].astype(int)
    expected = corners[:, None, None, None] + np.stack([rows, columns], axis=-1)[:16, :16]
    np.testing.assert_array_equal(crops[..., :2], np.broadcast_to(expected, crops[..., :2].shape))
    assert corners.min(0).tolist() == [0, 0] and corners.max(0).tolist() == [8, 16]  # up to the edges
    np.testing.assert_array_equal(crop(clips, 0, jax.random.split(jax.random.key(0), (2, 1))), clips)


@pytest.mark.parametrize(("side", "per_clip", "message"), [(20, 1, "nearest: 16, 24"), (-8, 1, "8"), (0, 2, "side 0")])
def test_crops_that_do_not_fit(side, per_clip, message):
    with pytest.raises(UserError, match=message):
        CropOptions(side, per_clip)


def test_crop_larger_than_the_frame(trainable, batch):
    stage = replace(STAGE, crops=CropOptions(side=32))
    with pytest.raises(UserError, match=r"crops\.side 32 is larger than frames of 24 x 32"):
        jax.eval_shape(lambda p: stage.loss(p, {}, batch, KEYS), trainable)


def test_untrained_posterior_is_narrow():
    params = jax.eval_shape(STAGE.init, jax.random.key(0))
    assert params["to_moments"]["bias"].shape == (32,)
    bias = jax.jit(lambda key: STAGE.init(key)["to_moments"]["bias"])(jax.random.key(0))
    assert bias[16:].tolist() == [wan_vae.FIRST_LOGVAR] * 16 and jnp.abs(bias[:16]).max() < 1


def test_validation_knows_the_still_picture(trainable, batch, tmp_path):
    metrics = STAGE.validate(trainable, {}, batch, tmp_path, 0)
    assert (tmp_path / "reconstruction.png").exists()
    frames = batch["frames"].astype(float)
    errors = np.square(frames - frames[:, :1]).mean((1, 2, 3, 4)) / 255**2
    np.testing.assert_allclose(metrics["psnr_of_first_frame"], np.mean(-10 * np.log10(errors)), rtol=1e-5)
    assert 3 < metrics["psnr"] < metrics["psnr_of_first_frame"]  # nothing was learned
