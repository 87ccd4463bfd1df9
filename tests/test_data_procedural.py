"""Procedural scenes: pixels, depth and cameras agree with each other."""

import numpy as np
import pytest

from gen3r_jax.data.procedural import CLEARANCE, make_scene, render_clip


def reproject(clip, i, j, c2w):
    """Where frame i's pixels land in frame j: photometric error, depth ratio, over pixels that stay in the image."""
    h, w = clip.depth.shape[1:]
    v, u = np.mgrid[:h, :w] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ np.linalg.inv(clip.intrinsics[i]).T
    world = (rays * clip.depth[i].reshape(-1, 1)) @ c2w[i][:3, :3].T + c2w[i][:3, 3]
    camera = (world - c2w[j][:3, 3]) @ c2w[j][:3, :3]
    pixel = camera @ clip.intrinsics[j].T
    pixel = pixel[:, :2] / np.maximum(pixel[:, 2:], 1e-6)
    x, y = np.floor(pixel).astype(int).T
    inside = (camera[:, 2] > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    assert inside.mean() > 0.1
    x, y = x[inside], y[inside]
    ratio = camera[inside, 2] / clip.depth[j, y, x]
    colors = clip.frames[i].reshape(-1, 3)[inside].astype(float) - clip.frames[j, y, x]
    return np.abs(colors).mean(-1), ratio


@pytest.mark.parametrize("size", [(112, 112), (56, 98), (90, 64)])
@pytest.mark.parametrize("difficulty", ["easy", "full"])
def test_pixels_depth_and_cameras_agree(size, difficulty):
    for seed in range(3):
        clip = render_clip(seed, 4, size, difficulty)
        photometric, ratio = reproject(clip, 0, 1, clip.c2w)
        same = np.abs(ratio - 1) < 0.02
        assert same.mean() > 0.75  # the rest is hidden in one of the views
        # Measured at most 0.0040: half a pixel of rounding on slanted surfaces.
        assert np.median(np.abs(ratio - 1)) < 0.006
        # Measured at most 9.3 grey levels, from the same rounding on textured surfaces.
        assert np.median(photometric[same]) < 12
        _, wrong = reproject(clip, 0, 1, np.linalg.inv(clip.c2w))
        assert np.mean(np.abs(wrong - 1) < 0.02) < 0.5


def test_every_point_lies_on_a_surface():
    scene = make_scene(5)
    c2w, intrinsics = scene.cameras(2, (40, 60))
    _, depth = scene.render(c2w[1], intrinsics[1], (40, 60))
    v, u = np.mgrid[:40, :60] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1) @ np.linalg.inv(intrinsics[1]).T
    points = ((rays * depth[..., None]) @ c2w[1][:3, :3].T + c2w[1][:3, 3]).reshape(-1, 3)
    shell = scene.room.shell
    to_shell = np.abs(shell.half - np.abs(points - shell.center)).min(-1)
    to_solids = np.min([solid.distance(points) for solid in scene.room.solids], axis=0)
    assert np.minimum(to_shell, to_solids).max() < 1e-4  # measured 3e-6 m
    assert (to_solids < 1e-4).mean() > 0.02  # some solid is in view


def test_a_pixel_sees_what_its_parts_see():
    """Antialiasing: an image is near the average of one four times as fine."""
    fine, coarse = render_clip(1, 1, (224, 224), "full").frames[0], render_clip(1, 1, (56, 56), "full").frames[0]
    average = fine.reshape(56, 4, 56, 4, 3).mean((1, 3))
    aliased = fine[2::4, 2::4].astype(float)
    assert np.abs(coarse - average).mean() < 0.6 * np.abs(aliased - average).mean()


def test_the_camera_keeps_its_distance():
    for seed in range(60):
        scene = make_scene(seed, "full")
        positions = scene.cameras(97, (8, 8))[0][:, :3, 3]
        assert (scene.room.shell.half - np.abs(positions - scene.room.shell.center)).min() > CLEARANCE
        assert all(solid.distance(positions).min() > CLEARANCE for solid in scene.room.solids)


def test_the_seed_decides_everything():
    a, b, other = render_clip(3, 3, (32, 48)), render_clip(3, 3, (32, 48)), render_clip(4, 3, (32, 48))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(a.frames, other.frames)
    assert a.frames.dtype == np.uint8 and a.depth.dtype == np.float32
    # The same walk, sampled more finely: first, middle and last views are the same.
    np.testing.assert_array_equal(render_clip(3, 5, (32, 48)).frames[::2], a.frames)


def test_cameras_are_rigid_and_upright():
    c2w, intrinsics = make_scene(7).cameras(5, (60, 100))
    rotation = c2w[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    np.testing.assert_allclose(rotation[:, 1, 0], 0, atol=1e-12)  # the image's rows are level
    assert (rotation[:, 1, 1] > 0.5).all()
    np.testing.assert_array_equal(intrinsics[0, :2, 2], [50, 30])


def test_texture_can_be_matched():
    """Nearly every 8 x 8 patch has contrast."""
    for seed in range(4):
        grey = render_clip(seed, 1, (112, 112)).frames[0].mean(-1)
        patches = grey.reshape(14, 8, 14, 8).swapaxes(1, 2).reshape(-1, 64)
        assert np.mean(patches.std(-1) > 1.5) > 0.95


def test_captions_name_what_is_there():
    captions = make_scene(3).captions
    assert len(captions) == 2
    assert all(caption.endswith(".") and "floor" in caption for caption in captions)
    assert all(" a o" not in caption and " a e" not in caption for caption in captions)
