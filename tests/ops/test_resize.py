import jax.numpy as jnp
import numpy as np
import pytest

from gen3r_jax.ops.resize import resize_align_corners, resize_bicubic


@pytest.mark.parametrize("size", [(5, 7), (9, 14), (3, 4), (1, 1), (2, 20)])
def test_align_corners_is_linear_between_the_outer_pixels(size):
    rows, columns = np.mgrid[0:1:5j, 0:1:7j]
    image = np.stack([rows, columns, 2 * rows - columns], -1)[None].astype(np.float32)
    out = resize_align_corners(jnp.asarray(image), size)
    y, x = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]), indexing="ij")
    if 1 in size:
        y, x = 0 * y, 0 * x  # a single pixel is the first
    np.testing.assert_allclose(out[0], np.stack([y, x, 2 * y - x], -1), atol=5e-7)  # measured 1e-7


def test_align_corners_from_one_pixel():
    np.testing.assert_array_equal(resize_align_corners(jnp.full((1, 1, 1, 2), 3.0), (4, 5)), np.full((1, 4, 5, 2), 3.0))


@pytest.mark.parametrize("size", [(3, 4), (12, 30)])
def test_antialiased_resizing_keeps_a_constant_and_the_mirror_image(size):
    np.testing.assert_allclose(resize_bicubic(jnp.full((6, 10, 1), 0.7), size), np.full((*size, 1), 0.7), atol=1e-6)
    image = jnp.asarray(np.random.default_rng(0).random((6, 10, 2)), jnp.float32)
    mirrored = resize_bicubic(image[:, ::-1], size)
    np.testing.assert_allclose(mirrored, resize_bicubic(image, size)[:, ::-1], atol=1e-6)
