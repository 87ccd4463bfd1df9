"""Procedural scenes: pixels, depth and cameras agree with each other."""

import re

import numpy as np
import pytest

from gen3r_jax.data.procedural import CLEARANCE, KINDS, VOCABULARY, make_scene, render_clip
from gen3r_jax.data.procedural.paint import PATTERNS, SHIFTED_PATTERNS
from gen3r_jax.data.procedural.solids import Ground
from gen3r_jax.data.sources import open_source
from gen3r_jax.errors import UserError

DIFFICULTIES = ("easy", "full", "shifted")


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
    known = clip.depth[i].reshape(-1) > 0
    inside = known & (camera[:, 2] > 0) & (x >= 0) & (x < w) & (y >= 0) & (y < h)
    assert inside.mean() > 0.1
    inside[inside] = clip.depth[j, y[inside], x[inside]] > 0
    x, y = x[inside], y[inside]
    ratio = camera[inside, 2] / clip.depth[j, y, x]
    colors = clip.frames[i].reshape(-1, 3)[inside].astype(float) - clip.frames[j, y, x]
    return np.abs(colors).mean(-1), ratio


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("size", "difficulty"), [((112, 112), "easy"), ((56, 98), "full"), ((90, 64), "shifted"), ((90, 64), "easy")]
)
def test_pixels_depth_and_cameras_agree(kind, size, difficulty):
    for seed in range(2):
        clip = render_clip(seed, 5, size, difficulty, (kind,))
        photometric, ratio = reproject(clip, 0, 1, clip.c2w)
        same = np.abs(ratio - 1) < 0.02
        assert same.mean() > 0.7  # the rest is hidden in one of the views
        # Measured at most 0.0102: half a pixel of rounding on ground that is seen at a low angle.
        assert np.median(np.abs(ratio - 1)) < 0.015
        # Measured at most 3.7 grey levels, from the same rounding on textured surfaces.
        assert np.median(photometric[same]) < 6
        _, wrong = reproject(clip, 0, 1, np.linalg.inv(clip.c2w))
        assert np.mean(np.abs(wrong - 1) < 0.02) < same.mean() - 0.08  # little where the camera hardly moves


@pytest.mark.parametrize("kind", KINDS)
def test_every_ray_ends_on_the_first_surface(kind):
    scene = make_scene(5, kinds=(kind,))
    c2w, intrinsics = scene.cameras(2, (40, 60))
    _, depth = scene.render(c2w[1], intrinsics[1], (40, 60))
    v, u = np.mgrid[:40, :60] + 0.5
    rays = np.stack([u, v, np.ones_like(u)], -1).reshape(-1, 3) @ np.linalg.inv(intrinsics[1]).T @ c2w[1][:3, :3].T
    sky, depth = depth.reshape(-1) == 0, depth.reshape(-1)

    def gaps(reach, rays):
        points = (c2w[1][:3, 3] + np.reshape(reach, (-1, 1)) * rays).astype(np.float32)
        return scene.world.backdrop.distance(points), np.min([s.distance(points) for s in scene.world.solids], axis=0)

    backdrop, solids = gaps(depth[~sky], rays[~sky])
    assert np.minimum(np.abs(backdrop), solids).max() < 1e-4  # measured 1.1e-5 m, 20 m away
    assert (solids < 1e-4).mean() > 0.02  # some solid is in view
    for part in (0.3, 0.6, 0.9, 0.998):
        backdrop, solids = gaps(part * depth[~sky], rays[~sky])
        assert backdrop.min() > 0 and solids.min() > 0
    for reach in np.geomspace(0.5, 60, 12) if sky.any() else ():  # of the sky's pixels, nothing is known
        assert gaps(reach, rays[sky])[1].min() > 0
    assert sky.any() == isinstance(scene.world.backdrop, Ground)


def test_a_shadow_falls_where_the_lamp_is_hidden():
    """Dark pixels are those whose way to the lamp is blocked: the culling of shadows loses none."""
    world = make_scene(8, kinds=("rooms",)).world
    rng = np.random.default_rng(0)
    points = (rng.uniform(-0.9, 0.9, (150, 3)) * [1, 0, 1] + [0, 0.98, 0]) * world.backdrop.half + world.backdrop.center
    to_lamp = (world.light.place - points).astype(np.float32)
    points, away = points.astype(np.float32).T, np.linalg.norm(to_lamp, axis=-1)
    found = world._shadowed(points, to_lamp.T, away, np.zeros(150, int))
    steps = points.T[:, None] + np.linspace(0.001, 1, 400)[:, None] * to_lamp[:, None]
    blocked = np.any(
        [solid.distance(steps.reshape(-1, 3)).reshape(150, -1).min(1) == 0 for solid in world.solids], axis=0
    )
    assert 0.05 < blocked.mean() < 0.95
    assert (found == blocked).mean() > 0.97  # steps of a centimetre miss what the ray grazes


@pytest.mark.parametrize("difficulty", ["full", "shifted"])
def test_a_pixel_sees_what_its_parts_see(difficulty):
    """Antialiasing: an image is nearer to the average of one four times as fine than to every fourth of its pixels."""
    errors = []
    for seed in range(6):
        fine, coarse = (render_clip(seed, 1, (side, side), difficulty, ("rooms",)).frames[0] for side in (224, 56))
        average = fine.reshape(56, 4, 56, 4, 3).mean((1, 3))
        errors.append([np.abs(picture - average).mean() for picture in (coarse, fine[2::4, 2::4].astype(float))])
    ours, aliased = np.mean(errors, axis=0)
    assert ours < 0.7 * aliased  # measured 0.52; the rest is the edges of things


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_the_camera_keeps_its_distance_and_sees_something(difficulty):
    for seed in range(12):
        for kind in KINDS:
            scene = make_scene(seed, difficulty, (kind,))
            c2w, intrinsics = scene.cameras(97, (14, 14))
            positions = c2w[:, :3, 3]
            assert scene.world.backdrop.distance(positions).min() > CLEARANCE
            assert min(solid.distance(positions).min() for solid in scene.world.solids) > CLEARANCE
            for pose in c2w[[0, -1]]:
                assert (scene.render(pose, intrinsics[0], (14, 14))[1] > 0).mean() > 0.4


def test_the_seed_decides_everything():
    a, b, other = render_clip(3, 3, (32, 48)), render_clip(3, 3, (32, 48)), render_clip(4, 3, (32, 48))
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
    assert not np.array_equal(a.frames, other.frames)
    assert a.frames.dtype == np.uint8 and a.depth.dtype == np.float32
    # The same walk, sampled more finely: first, middle and last views are the same.
    np.testing.assert_array_equal(render_clip(3, 5, (32, 48)).frames[::2], a.frames)


@pytest.mark.parametrize("kind", KINDS)
def test_cameras_are_rigid_and_upright(kind):
    c2w, intrinsics = make_scene(7, kinds=(kind,)).cameras(5, (60, 100))
    rotation = c2w[:, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.transpose(0, 2, 1), np.tile(np.eye(3), (5, 1, 1)), atol=1e-12)
    np.testing.assert_allclose(np.linalg.det(rotation), 1)
    np.testing.assert_allclose(rotation[:, 1, 0], 0, atol=1e-12)  # the image's rows are level
    assert (rotation[:, 1, 1] > 0.5).all()
    np.testing.assert_array_equal(intrinsics[0, :2, 2], [50, 30])


@pytest.mark.parametrize("kind", KINDS)
def test_texture_can_be_matched(kind):
    """Nearly every 8 x 8 patch of known depth has contrast."""
    for seed in range(4):
        clip = render_clip(seed, 1, (112, 112), kinds=(kind,))
        patches, depth = (
            x.reshape(14, 8, 14, 8).swapaxes(1, 2).reshape(-1, 64) for x in (clip.frames[0].mean(-1), clip.depth[0])
        )
        assert np.mean(patches[(depth > 0).all(-1)].std(-1) > 1.5) > 0.95


def test_shifted_scenes_have_other_looks_and_cameras():
    def surfaces(difficulty):
        worlds = [make_scene(seed, difficulty).world for seed in range(12)]
        return [face for world in worlds for solid in (world.backdrop, *world.solids) for face in solid.surfaces]

    patterns = {difficulty: {face.pattern for face in surfaces(difficulty)} for difficulty in DIFFICULTIES}
    assert patterns["easy"] == patterns["full"] == set(PATTERNS)
    assert patterns["shifted"] == set(SHIFTED_PATTERNS)
    shades = {
        d: {tuple(face.colors[0].round(4)) for face in surfaces(d) if face.pattern == "plain"} for d in DIFFICULTIES
    }
    assert shades["easy"] & shades["full"] and not shades["easy"] & shades["shifted"]
    lean = {d: np.abs(make_scene(3, d).cameras(3, (8, 8))[0][:, 1, 0]).max() for d in DIFFICULTIES}
    assert lean["easy"] < 1e-12 and lean["shifted"] > 0.01


def test_kinds():
    kinds = [make_scene(seed).kind for seed in range(40)]
    assert set(kinds) == set(KINDS)
    assert {make_scene(seed, kinds=("drives", "rooms")).kind for seed in range(8)} == {"drives", "rooms"}
    for kinds, given in ((("rooms", "caves"), "rooms caves"), ((), "none"), ("rooms", "rooms")):
        with pytest.raises(
            UserError, match=f"kinds of procedural scenes: {given}; they are some of rooms outdoors obj"
        ):
            open_source("procedural", kinds=kinds)
    with pytest.raises(UserError, match="difficulty of procedural scenes: hard; it is one of easy full shifted"):
        open_source("procedural", difficulty="hard")
    opened = open_source("procedural", num_scenes=3, kinds=("objects",)).scene(2)
    assert opened.captions == make_scene(2, kinds=("objects",)).captions


def test_captions_tell_what_is_there():
    assert list(VOCABULARY) == sorted(set(VOCABULARY))
    used = set()
    for seed in range(60):
        scene = make_scene(seed, DIFFICULTIES[seed % 3], (KINDS[seed % 4],))
        assert len(scene.captions) == 2
        assert any(word in scene.captions[0] for word in ("room", "field", "street"))
        for caption in scene.captions:
            assert caption.endswith(".") and not re.search(r"\ba [aeiou]", caption)
            assert len(re.findall(r"\w+|[^\w\s]", caption)) <= 63  # what the smallest text encoder reads
            used |= set(re.findall(r"[a-z]+", caption.lower()))
            assert re.fullmatch(r"[A-Za-z ,.]+", caption)
    assert used <= set(VOCABULARY)
    assert len(used) > 0.8 * len(VOCABULARY)


def test_captions_tell_how_the_camera_moves():
    for seed in range(12):
        for kind, verb in zip(KINDS, ("moves", "moves", "orbits", "drives"), strict=True):
            scene = make_scene(seed, kinds=(kind,))
            c2w = scene.cameras(2, (8, 8))[0]
            x, _, z = c2w[0, :3, :3].T @ (c2w[1, :3, 3] - c2w[0, :3, 3])
            spoken = re.search(rf"The camera {verb} ([a-z ]+)\.", scene.captions[0]).group(1)
            if "forward" in spoken:
                assert z > abs(x)
            elif kind == "objects" or "to the" in spoken.partition(" and ")[0]:
                assert ("to the right" in spoken) == (x > 0)
            elif "backward" in spoken:
                assert -z > abs(x)
            ahead = c2w[0, :3, :3].T @ c2w[1, :3, 2]
            assert "turns left" not in spoken or ahead[0] < -0.1
            assert "turns right" not in spoken or ahead[0] > 0.1


def test_things_stand_on_something():
    """Nothing floats: every solid of a room reaches down to another one, or to the floor or a wall."""
    for seed in range(4):
        world = make_scene(seed, kinds=("rooms",)).world
        for solid in world.solids:
            corners = solid.corners()
            # A little larger, it touches another one, the floor or a wall.
            points = solid.center + 1.1 * (corners - solid.center)
            grid = np.concatenate([points, (points[:, None] + points[None]).reshape(-1, 3) / 2, corners])
            touches = min(other.distance(grid).min() for other in world.solids if other is not solid)
            assert touches < 0.05 or world.backdrop.distance(grid).min() < 0.05
