"""Measure how far the fused surface of rendered rooms is from the true one, beside the points that it is made of.

    python -m benchmarks.mesh                        # five rooms, nine frames of 112 pixels
    python -m benchmarks.mesh --frames 25 --side 224

Depth is exact, or wrong by a factor whose logarithm is drawn from a normal distribution: for each pixel by itself, or
for patches as wide as a tenth of the image, which is more like what networks do. Lengths are per cent of the rooms'
median depth.
"""

import argparse

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.procedural import make_scene
from gen3r_jax.data.procedural.raycast import World
from gen3r_jax.data.procedural.solids import Ball, Box
from gen3r_jax.errors import main_guard
from gen3r_jax.export.mesh import VOXEL
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.fusion import fuse_depth
from gen3r_jax.geometry.points import unproject_depth

ERRORS = {"exact": (0.0, 0.0), "2 % a pixel": (0.02, 0.0), "2 % a patch": (0.02, 0.1)}
"""Standard deviation of the logarithm, and the width of patches in widths of the image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rooms", type=int, default=5)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--side", type=int, default=112)
    arguments = parser.parse_args()
    print("| depth | points: mean | 95 % | surface: mean | 95 % |\n|---|---|---|---|---|", flush=True)
    for name, error in ERRORS.items():
        rows = [measure(seed, arguments.frames, arguments.side, *error) for seed in range(arguments.rooms)]
        print(f"| {name} | {' | '.join(f'{value:.2f}' for value in 100 * np.mean(rows, axis=0))} |", flush=True)


def measure(seed: int, frames: int, side: int, deviation: float, width: float) -> list[float]:
    """Mean and 95th percentile of the distance of points, then of the surface's vertices, in median depths."""
    from scipy.ndimage import gaussian_filter

    scene = make_scene(seed, "easy", ("rooms",))
    c2w, intrinsics = scene.cameras(frames, (side, side))
    views = [scene.render(pose, k, (side, side)) for pose, k in zip(c2w, intrinsics, strict=True)]
    rgb, depth = (np.stack(arrays) for arrays in zip(*views, strict=True))
    noise = np.random.default_rng(seed).normal(size=depth.shape)
    if width:
        noise = gaussian_filter(noise, (0, width * side, width * side))
        noise /= noise.std()
    depth, median = (depth * np.exp(deviation * noise)).astype(np.float32), float(np.median(depth))
    w2c = invert_se3(c2w.astype(np.float64))
    points = unproject_depth(depth, w2c, intrinsics, offset=0.5).reshape(-1, 3)
    mesh = fuse_depth(depth, rgb, depth > 0, w2c, intrinsics, VOXEL * median)
    found = [distance_to_surfaces(scene.world, x) / median for x in (points, mesh.vertices)]
    return [value for distances in found for value in (distances.mean(), np.percentile(distances, 95))]


def distance_to_surfaces(world: World, points: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n"]:
    """Distance of points, wherever they are, to the nearest surface of a world."""
    return np.min([_distance(solid, points) for solid in (world.backdrop, *world.solids)], axis=0)


def _distance(solid, points: np.ndarray) -> np.ndarray:
    if isinstance(solid, Box):  # a room, too
        beyond = np.abs((points - solid.center) @ solid.rotation) - solid.half
        return np.abs(np.linalg.norm(np.maximum(beyond, 0), axis=1) + np.minimum(beyond.max(axis=1), 0))
    if isinstance(solid, Ball):
        return np.abs(np.linalg.norm(points - solid.center, axis=1) - solid.radius)
    return np.abs(points[:, 1])  # the ground


if __name__ == "__main__":
    main_guard(main)
