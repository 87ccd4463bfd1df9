"""Windows of a clip whose geometry is known, as a network would see them: each in its own world and unit of length."""

import numpy as np
import pytest

from gen3r_jax.evaluation.depth import depth_errors
from gen3r_jax.generation.windows import default_window, reconstruct_in_windows
from gen3r_jax.geometry.alignment import umeyama
from gen3r_jax.geometry.cameras import invert_se3, rays, rebase_to_first
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.scene import Scene

SIDE, RADIUS, WINDOW = 32, 3.0, 9
INTRINSICS = np.array([[30.0, 0, SIDE / 2], [0, 30.0, SIDE / 2], [0, 0, 1]])


class Walk:
    """A camera on a circle within a ball, looking outwards; what it sees is exact but for what a test adds.

    turns: how often it goes around.
    """

    def __init__(self, count: int, turns: float, drift: float = 0.0, outliers: float = 0.0):
        angle = 2 * np.pi * turns * np.arange(count) / count
        self.c2w = np.tile(np.eye(4), (count, 1, 1))
        self.c2w[:, 0, 0] = self.c2w[:, 2, 2] = np.cos(angle)
        self.c2w[:, 0, 2] = self.c2w[:, 2, 3] = np.sin(angle)
        self.c2w[:, 2, 0] = -np.sin(angle)
        self.c2w[:, 0, 3], self.c2w[:, 2, 3] = np.sin(angle), np.cos(angle)
        origin, direction = rays(np.repeat(INTRINSICS[None], count, axis=0), self.c2w, (SIDE, SIDE))
        along = np.sum(origin * direction, axis=-1)
        distance = -along + np.sqrt(along**2 + RADIUS**2 - np.sum(origin**2, axis=-1))
        points = origin + distance[..., None] * direction
        self.depth = distance * np.sum(direction * self.c2w[:, None, None, :3, 2], axis=-1)
        self.frames = np.round(127 + 120 * np.sin(2 * points + [0, 1, 2])).astype(np.uint8)
        self.number = {frame.tobytes(): index for index, frame in enumerate(self.frames)}
        assert len(self.number) == count
        self.drift, self.outliers, self.rng, self.calls = drift, outliers, np.random.default_rng(0), []

    def reconstruct(self, frames) -> Scene:
        """What a network gives; with `drift` every frame of a window is that much larger than the one before."""
        self.calls.append([self.number[frame.tobytes()] for frame in frames])
        c2w, depth = rebase_to_first(self.c2w[self.calls[-1]]), self.depth[self.calls[-1]].copy()
        growth = self.rng.uniform(0.5, 2) * (1 + self.drift) ** np.arange(len(frames))
        c2w[1:, :3, 3] = np.cumsum(growth[1:, None] * np.diff(c2w[:, :3, 3], axis=0), axis=0)
        depth *= growth[:, None, None]
        wrong = self.rng.uniform(size=depth.shape) < self.outliers
        depth[wrong] *= self.rng.uniform(1.2, 3, wrong.sum())
        confidence = np.where(wrong, 2.0, 3.0).astype(np.float32)
        w2c, depth = invert_se3(c2w).astype(np.float32), depth.astype(np.float32)
        intrinsics = np.repeat(INTRINSICS[None].astype(np.float32), len(frames), axis=0)
        return Scene(frames, depth, confidence, w2c, intrinsics, unproject_depth(depth, w2c, intrinsics, 0.5))

    def trajectory_error(self, scene: Scene) -> float:
        places, truth = invert_se3(scene.w2c)[:, :3, 3], self.c2w[:, :3, 3]
        return float(np.sqrt(np.mean(np.sum((umeyama(places, truth, "least_squares").apply(places) - truth) ** 2, 1))))


def test_a_clip_that_fits_is_reconstructed_at_once():
    walk = Walk(9, 0.2)
    scene, report = reconstruct_in_windows(walk.frames, WINDOW, walk.reconstruct)
    assert walk.calls == [list(range(9))] and report == {}
    np.testing.assert_array_equal(scene.w2c[0], np.eye(4))


@pytest.mark.parametrize(
    ("count", "side", "window"),
    [(49, 560, 49), (50, 560, 49), (300, 112, 49), (50, 784, 25), (13, 1120, 9), (9, 5600, 5)],
)
def test_windows_that_nobody_chose_keep_memory_bounded(count, side, window, capsys):
    assert default_window(count, (side, side)) == window
    assert (f"{count} frames are reconstructed {window} at a time" in capsys.readouterr().err) == (window < count)


@pytest.mark.parametrize("outliers", [0.0, 0.15])
def test_windows_of_one_shape_are_joined_exactly(outliers):
    walk = Walk(31, 0.5, outliers=outliers)
    scene, report = reconstruct_in_windows(walk.frames, WINDOW, walk.reconstruct)
    assert {len(call) for call in walk.calls} == {WINDOW}
    assert [call[0] for call in walk.calls[:-1]] == [0, 5, 10, 15, 20, 22]  # the last is shifted back
    assert walk.trajectory_error(scene) < 1e-5
    assert [join["frames"] for join in report["joins"]][-1] == [22, 30]
    assert all(join["error"] < 1e-5 for join in report["joins"])
    assert not report["loop"]["closed"] and report["loop"]["seen"] < 0.05  # it has gone half around
    np.testing.assert_array_equal(scene.rgb, walk.frames)
    np.testing.assert_allclose(scene.points, unproject_depth(scene.depth, scene.w2c, scene.intrinsics, 0.5), atol=1e-6)
    errors = depth_errors(scene.depth, walk.depth, scene.confidence == 3)
    assert errors.abs_rel < 1e-5


def test_a_loop_is_closed_where_the_last_frames_see_the_first():
    walk = Walk(60, 1.0, drift=0.003)
    scene, report = reconstruct_in_windows(walk.frames, WINDOW, walk.reconstruct)
    assert walk.calls[-1] == [0, 1, 2, 3, 55, 56, 57, 58, 59]
    assert report["loop"]["closed"] and report["loop"]["seen"] > 0.5 and report["loop"]["alike"] > 0.9
    closed = walk.trajectory_error(scene)
    walk = Walk(59, 59 / 65, drift=0.003)  # as far, but not around
    scene, report = reconstruct_in_windows(walk.frames, WINDOW, walk.reconstruct)
    assert not report["loop"]["closed"]
    assert closed < 0.004 and walk.trajectory_error(scene) > 0.03  # measured: 0.0027 and 0.039


def test_a_join_that_does_not_fit_is_told(capsys):
    walk = Walk(12, 0.2)
    calls = iter([walk.reconstruct, Walk(12, 0.2, outliers=0.9).reconstruct])
    _, report = reconstruct_in_windows(walk.frames, WINDOW, lambda frames: next(calls)(frames))
    assert report["joins"][0]["error"] > 0.1
    assert "frames 3 to 11 hardly join those before" in capsys.readouterr().err
