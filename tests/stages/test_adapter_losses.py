"""The terms of the adapter's loss: values by hand, edge cases, and gradients that stay finite."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen3r_jax.models.causal_autoencoder import DiagonalGaussian
from gen3r_jax.stages.adapter import losses as adapter_losses
from gen3r_jax.stages.vggt import losses as vggt_losses


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_smooth_l1_is_quadratic_inside_beta_and_linear_outside():
    error = adapter_losses.smooth_l1(jnp.array([0.05, -0.15, 1.0]), jnp.zeros(3), beta=0.15)
    np.testing.assert_allclose(error, [0.05**2 / 0.3, 0.075, 1.0 - 0.075], rtol=1e-6)


def test_cosine_distance():
    x = jnp.array([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0], [0.0, 0.0]])
    y = jnp.array([[3.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(adapter_losses.cosine_distance(x, y), [0, 1 - np.sqrt(0.5), 2, 1], atol=1e-6)
    gradient = jax.grad(lambda x: adapter_losses.cosine_distance(x, y).sum())(x)
    assert np.isfinite(gradient).all()


def test_nonfinite_entries_become_zeros_and_large_ones_are_clipped():
    bad = jnp.array([1.0, jnp.nan, jnp.inf, -jnp.inf, 150.0, -150.0])
    np.testing.assert_array_equal(adapter_losses.replace_nonfinite(bad), [1, 0, 0, 0, 100, -100])
    np.testing.assert_array_equal(adapter_losses.replace_nonfinite(bad, None), [1, 0, 0, 0, 150, -150])


def test_distance_loss_counts_broken_pixels_as_zeros_and_keeps_gradients_finite():
    target = jnp.array([[0.0, 0.0], [3.0, 4.0], [np.nan, 0.0], [1e30, 0.0], [500.0, 0.0]])
    prediction = jnp.zeros((5, 2))
    loss, gradient = jax.value_and_grad(adapter_losses.distance_loss)(prediction, target)
    assert loss == (0 + 5 + 0 + 0 + 100) / 5
    np.testing.assert_allclose(gradient, np.array([[0, 0], [-0.6, -0.8], [0, 0], [0, 0], [0, 0]]) / 5, atol=1e-7)


def test_camera_loss_weighs_the_last_iteration_most():
    prediction, target = normal(4, 2, 3, 9), normal(4, 2, 3, 9, seed=1)
    prediction[0, 0, 0, 0] = 250.0  # beyond the limit of 100
    error = np.minimum(np.abs(prediction - target), 100)
    parts = [error[..., part].mean((1, 2, 3)) for part in (slice(0, 3), slice(3, 7), slice(7, 9))]
    expected = np.mean([0.6**3, 0.6**2, 0.6, 1.0] * (parts[0] + parts[1] + 0.5 * parts[2]))
    np.testing.assert_allclose(adapter_losses.camera_loss(prediction, target), expected, rtol=1e-6)


@pytest.mark.parametrize("penalty", ["l1", "l2", "smooth_l1", "huber"])
def test_camera_penalties(penalty):
    delta = np.concatenate([np.full(3, 2.0), np.full(4, 0.1), np.full(2, 0.0)])
    errors = adapter_losses.camera_errors(jnp.asarray(delta), jnp.zeros(9), penalty, beta=0.5)
    expected = {
        "l1": [2, 0.1, 0],
        "l2": [np.sqrt(12), 0.2, 0],
        "smooth_l1": [1.75, 0.01, 0],
        "huber": [0.875, 0.005, 0],
    }
    np.testing.assert_allclose(errors, expected[penalty], rtol=1e-6)
    with pytest.raises(ValueError, match="none of"):
        adapter_losses.camera_errors(delta, delta, "l3")


def test_kl_divergence_keeps_width_and_agrees_with_an_expectation():
    q = DiagonalGaussian(jnp.asarray(normal(2, 3, 4, 5, 6)), jnp.asarray(0.3 * normal(2, 3, 4, 5, 6, seed=1)))
    p = DiagonalGaussian(jnp.asarray(normal(2, 3, 4, 5, 6, seed=2)), jnp.asarray(0.3 * normal(2, 3, 4, 5, 6, seed=3)))
    assert adapter_losses.kl_divergence(q, p).shape == (2, 5)
    np.testing.assert_allclose(adapter_losses.kl_divergence(q, q), np.zeros((2, 5)), atol=1e-4)
    standard = DiagonalGaussian(jnp.zeros_like(q.mean), jnp.zeros_like(q.mean))
    np.testing.assert_allclose(
        adapter_losses.kl_divergence(q), adapter_losses.kl_divergence(q, standard), rtol=1e-5, atol=1e-4
    )

    def log_density(g, z):
        return -0.5 * ((z - g.mean) ** 2 / jnp.exp(g.logvar) + g.logvar).sum((1, 2, 4))

    # Two opposite points one standard deviation away have the mean and the variance of q: exact for a quadratic.
    points = [q.mean + sign * jnp.exp(0.5 * q.logvar) for sign in (-1, 1)]
    expected = sum(log_density(q, z) - log_density(p, z) for z in points) / 2
    np.testing.assert_allclose(adapter_losses.kl_divergence(q, p), expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("target", "current", "weight"),
    [(1, 0.5, 1), (1, 1, 1), (1, 5, 0.1), (1, 10, 0.1), (1, 10.0001, 0.01), (0.3, 1234, 1e-4), (7e-4, 812, 1e-7)],
)
def test_adaptive_weight_is_a_power_of_ten(target, current, weight):
    np.testing.assert_allclose(adapter_losses.adaptive_weight(jnp.float32(target), jnp.float32(current)), weight)


def test_no_gradient_passes_the_adaptive_weight():
    gradient = jax.grad(lambda x: adapter_losses.adaptive_weight(x[0], x[1]))(jnp.array([1.0, 5.0]))
    np.testing.assert_array_equal(gradient, [0, 0])


def test_trimmed_mean_drops_the_largest_errors():
    errors = np.random.default_rng(0).permutation(2000).astype(np.float32) / 100
    assert vggt_losses.nearest_quantile(errors, 0.37) == np.float32(round(0.37 * 1999) / 100)
    np.testing.assert_allclose(vggt_losses.trimmed_mean(errors, 0.9), np.arange(1799).mean() / 100, rtol=1e-6)
    mask = errors >= 5
    np.testing.assert_allclose(
        vggt_losses.trimmed_mean(errors, None, mask), np.arange(500, 2000).mean() / 100, rtol=1e-6
    )
    np.testing.assert_allclose(
        vggt_losses.trimmed_mean(errors, 0.8, mask), np.arange(500, 500 + round(0.8 * 1499)).mean() / 100, rtol=1e-6
    )
    # Too few would remain: all count.
    np.testing.assert_allclose(vggt_losses.trimmed_mean(errors, 0.3), errors.mean(), rtol=1e-6)


def test_confidence_loss_is_lowest_where_confidence_is_alpha_over_error():
    prediction, target = jnp.zeros((2, 3)), jnp.array([[3.0, 4.0, 0.0], [0.0, 0.0, 2.0]])
    best = 0.2 / jnp.array([5.0, 2.0])
    gradient = jax.grad(lambda c: vggt_losses.confidence_loss(prediction, target, c))(best)
    np.testing.assert_allclose(gradient, [0, 0], atol=1e-6)
    assert vggt_losses.regression_loss(prediction, target) == 3.5
    assert vggt_losses.regression_loss(prediction, target, jnp.array([True, False]), squared=True) == 25
