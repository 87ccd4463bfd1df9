"""Measure how well long clips and given cameras come out on procedural scenes, whose truth is exact.

    python -m benchmarks.reconstruction windows --weights pretrained/nano --window 9 --frames 300 --scenes 8
    python -m benchmarks.reconstruction scale --weights pretrained/nano --frames 9 --scenes 64

windows: root mean square error of the cameras' places, after one similarity, of whole clips in windows and of the same
paths thinned to one window; their ratio, and peak memory for growing clips. scale: relative error of depth in the unit
of given cameras, and after its median was scaled to the true one; their ratio.
"""

import argparse
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from gen3r_jax.data.procedural import Clip, render_clip
from gen3r_jax.errors import main_guard
from gen3r_jax.evaluation.depth import depth_errors
from gen3r_jax.generation import networks
from gen3r_jax.generation.known import KnownGeometry, with_known
from gen3r_jax.generation.windows import reconstruct_in_windows
from gen3r_jax.geometry.alignment import umeyama
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.models.registry import EXACT
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.scene import Scene
from gen3r_jax.storage.checkpoint import load_network

FIRST_SEED = 90_000
"""Number of the first scene; nothing was trained on those from here on."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=("windows", "scale"))
    parser.add_argument("--weights", type=Path, default=Path("pretrained/nano"))
    parser.add_argument("--window", type=int, default=9)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--difficulty", default="full")
    options = parser.parse_args()
    vggt = load_network(options.weights / "vggt", VGGT, exact=EXACT["vggt"])

    def reconstruct(frames: UInt8[np.ndarray, "t h w 3"]) -> Scene:
        return networks.reconstruct(frames, vggt)

    rows = []
    for seed in range(FIRST_SEED, FIRST_SEED + options.scenes):
        clip = render_clip(seed, options.frames, (options.side, options.side), options.difficulty)
        rows.append(_errors_of_scale(clip, reconstruct(clip.frames)) if options.measure == "scale" else
                    _errors_of_windows(clip, options.window, reconstruct))  # fmt: skip
        print(f"{seed}: " + "  ".join(f"{number:.4f}" for number in rows[-1]), flush=True)
    ours, other = np.mean(rows, axis=0)
    names = ("in windows", "in one") if options.measure == "windows" else ("in the cameras' unit", "by the median")
    print(f"mean error {names[0]} {ours:.4f}, {names[1]} {other:.4f}: ratio {ours / other:.3f}")


def _errors_of_windows(clip: Clip, size: int, reconstruct) -> tuple[float, float]:
    whole, _ = reconstruct_in_windows(clip.frames, size, reconstruct)
    thinned = np.linspace(0, len(clip.frames) - 1, size).round().astype(int)
    one = reconstruct(clip.frames[thinned])
    return _trajectory_error(whole, clip.c2w), _trajectory_error(one, clip.c2w[thinned])


def _trajectory_error(scene: Scene, c2w: Float[np.ndarray, "t 4 4"]) -> float:
    places, truth = invert_se3(scene.w2c)[:, :3, 3], c2w[:, :3, 3]
    moved = umeyama(places, truth, "least_squares").apply(places)
    return float(np.sqrt(np.mean(np.sum((moved - truth) ** 2, axis=1))))


def _errors_of_scale(clip: Clip, scene: Scene) -> tuple[float, float]:
    found, _ = with_known(scene, KnownGeometry(clip.c2w, clip.intrinsics))
    valid = clip.depth > 0
    error = float(np.mean(np.abs(found.depth[valid] - clip.depth[valid]) / clip.depth[valid]))
    return error, depth_errors(found.depth, clip.depth).abs_rel


if __name__ == "__main__":
    main_guard(main)
