"""Similarities against the motions that the points were made with."""

import numpy as np
import pytest

from gen3r_jax.geometry.alignment import umeyama


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def rotation(rng) -> np.ndarray:
    q, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    return q * np.linalg.det(q)


@pytest.mark.parametrize("scale", ["variance", "least_squares"])
def test_umeyama_recovers_a_similarity(rng, scale):
    source, turn, shift = rng.standard_normal((50, 3)), rotation(rng), rng.standard_normal(3)
    fit = umeyama(source, 2.5 * source @ turn.T + shift, scale)
    assert fit.scale == pytest.approx(2.5)
    np.testing.assert_allclose(fit.rotation, turn, atol=1e-12)
    np.testing.assert_allclose(fit.translation, shift, atol=1e-12)


def test_umeyama_scales_on_noisy_points(rng):
    source = rng.standard_normal((200, 3))
    target = 2 * source + 0.5 * rng.standard_normal((200, 3))

    def residual(scale):
        return np.mean((umeyama(source, target, scale).apply(source) - target) ** 2)

    assert residual("least_squares") < residual("variance") < residual("none")
    assert umeyama(source, target, "variance").scale == pytest.approx(
        np.sqrt(target.var(0).sum() / source.var(0).sum())
    )
    assert umeyama(source, target, "none").scale == 1.0
    with pytest.raises(ValueError, match="classic"):
        umeyama(source, target, "classic")


def test_umeyama_never_mirrors(rng):
    source = rng.standard_normal((50, 3))
    fit = umeyama(source, source * [1, 1, -1])
    assert np.linalg.det(fit.rotation) == pytest.approx(1.0)


def test_umeyama_of_two_points_is_the_identity(rng):
    points = rng.standard_normal((2, 3))
    np.testing.assert_array_equal(umeyama(points, points + 1).apply(points), points)
