"""Whitened latents of an adapter: equal variances, and the same tokens behind them."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest

from gen3r_jax.models.causal_autoencoder import DiagonalGaussian
from gen3r_jax.models.geometry_adapter import GeometryAdapterConfig
from gen3r_jax.stages.adapter.whitening import Statistics, whiten

CHANNELS = 16
CONFIG = replace(
    GeometryAdapterConfig.tiny(),
    latent_mean=tuple(np.linspace(-1.0, 1.0, CHANNELS)),
    latent_std=tuple(np.linspace(0.5, 2.0, CHANNELS)),
)


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    spread = np.geomspace(2.0, 1e-3, CHANNELS)  # of the latents' directions
    kernel = np.concatenate([rng.normal(size=(2 * CHANNELS, CHANNELS)) * spread, rng.normal(size=(32, CHANNELS))], 1)
    numbers = {
        "to_moments": {"kernel": kernel / 4, "bias": rng.normal(size=2 * CHANNELS)},
        "from_latent": {"kernel": rng.normal(size=(CHANNELS, 8)), "bias": rng.normal(size=8)},
    }
    return {name: {key: jnp.asarray(x, jnp.float32) for key, x in layer.items()} for name, layer in numbers.items()}


def encoded(config, layers, features) -> DiagonalGaussian:
    moments = features @ layers["to_moments"]["kernel"] + layers["to_moments"]["bias"]
    posterior = DiagonalGaussian.from_moments(jnp.asarray(moments)[:, None, None, None])
    return replace(posterior, mean=(posterior.mean - np.array(config.latent_mean)) / np.array(config.latent_std))


def decoded(config, layers, latents):
    raw = latents * np.array(config.latent_std) + np.array(config.latent_mean)
    return raw @ layers["from_latent"]["kernel"] + layers["from_latent"]["bias"]


def test_latents_are_white_above_the_floor_and_decode_as_before(layers):
    features = np.random.default_rng(1).normal(size=(4000, 2 * CHANNELS)).astype(np.float32)
    before = encoded(CONFIG, layers, features)
    statistics = Statistics.of(before.mean, before.logvar)
    variances = np.linalg.eigvalsh(statistics.covariance)
    floor = float(np.median(variances))
    config, changed = whiten(CONFIG, layers, statistics, floor)
    after = encoded(config, changed, features)
    found = Statistics.of(after.mean, after.logvar)
    np.testing.assert_allclose(found.mean, 0, atol=1e-3)
    whitened = np.linalg.eigvalsh(found.covariance)
    np.testing.assert_allclose(whitened, np.minimum(variances / floor, 1), rtol=1e-2, atol=1e-4)
    np.testing.assert_allclose(
        decoded(config, changed, after.mean), decoded(CONFIG, layers, before.mean), atol=2e-3, rtol=1e-3
    )
    # Channels stay as near as possible to what they were: a symmetric matrix has no rotation.
    same = [np.corrcoef(after.mean[..., i].ravel(), before.mean[..., i].ravel())[0, 1] for i in range(CHANNELS)]
    assert min(same) > 0


def test_the_noise_of_the_posterior_is_enlarged_with_the_latents(layers):
    features = np.random.default_rng(2).normal(size=(200, 2 * CHANNELS)).astype(np.float32)
    before = encoded(CONFIG, layers, features)
    statistics = Statistics.of(before.mean, before.logvar)
    plain = replace(statistics, covariance=0.25 * np.eye(CHANNELS), mean=np.zeros(CHANNELS))
    after = encoded(*whiten(CONFIG, layers, plain, 0.1), features)
    np.testing.assert_allclose(after.mean, 2 * before.mean, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(after.std, 2 * before.std, rtol=1e-4)
