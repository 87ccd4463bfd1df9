"""The objective of the diffusion transformer. Agreement with the official one is in ``test_verify.py``."""

import jax.numpy as jnp
import numpy as np
import pytest

from gen3r_jax.stages.dit import flow_matching


def test_table_goes_from_noise_to_almost_clean():
    timesteps, sigmas = flow_matching.training_table(1000, shift=2.0)
    assert timesteps[0] == 1000 and sigmas[0] == 1
    np.testing.assert_allclose(sigmas[-1], 2 * 0.001 / 1.001, rtol=1e-6)
    np.testing.assert_allclose(sigmas[500], 2 / 3, rtol=1e-6)  # half way; without shift this would be 0.5
    assert (np.diff(sigmas) < 0).all()


def test_velocity_leads_from_any_point_to_both_ends():
    rng = np.random.default_rng(0)
    latents, noise = rng.standard_normal((2, 3, 5, 2))
    sigmas = np.array([0.1, 0.5, 1.0])
    point = flow_matching.add_noise(latents, noise, sigmas)
    velocity = flow_matching.velocity(latents, noise)
    scale = sigmas[:, None, None]
    np.testing.assert_allclose(point - scale * velocity, latents, atol=1e-5)  # measured 2e-7
    np.testing.assert_allclose(point + (1 - scale) * velocity, noise, atol=1e-5)


def test_broken_entries_add_nothing_but_count():
    target = jnp.zeros((2, 4)).at[0, 0].set(52.0).at[1, 1].set(51.0)  # off by 51 and by 50
    loss = flow_matching.velocity_loss(jnp.ones((2, 4)), target, jnp.array([1.0, 2.0]))
    np.testing.assert_allclose(loss, [3 / 4 * 1.0, 2 * (3 + 50**2) / 4])


@pytest.mark.parametrize("scheme", ["none", "logit_normal", "mode"])
def test_densities_stay_in_the_table(scheme):
    draws = np.linspace(-4, 4, 101) if scheme == "logit_normal" else np.linspace(0, 1, 101)
    u = np.asarray(flow_matching.density(scheme, draws))
    assert u.min() >= -1e-6 and u.max() <= 1 + 1e-6
    middle = np.mean((u > 0.25) & (u < 0.75))
    assert middle < 0.51 if scheme == "none" else middle != pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("function", [flow_matching.density, flow_matching.loss_weight])
def test_unknown_schemes_are_refused(function):
    with pytest.raises(ValueError, match="'other' is none of none, "):
        function("other", jnp.ones(2))
