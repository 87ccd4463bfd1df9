"""Measure how well long clips and given cameras come out on procedural scenes, whose truth is exact.

    python -m benchmarks.reconstruction windows --window 9 --frames 300 --scenes 16
    python -m benchmarks.reconstruction scale --frames 9 --scenes 64
    python -m benchmarks.reconstruction memory --window 9 --frames 240

windows: root mean square error of the cameras' places, after one similarity, of whole clips in windows and of the same
paths thinned to one window; their ratio. scale: relative error of depth in the unit of given cameras, and after its
median was scaled to the true one; their ratio. memory: peak of the process once a clip is reconstructed, and once it
is written in all default formats.
"""

import argparse
import resource
import sys
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax import VGGT, Cameras, Scene
from gen3r_jax.data.procedural import Clip, render_clip
from gen3r_jax.errors import main_guard
from gen3r_jax.evaluation.depth import depth_errors
from gen3r_jax.geometry.alignment import umeyama
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.storage.files import write_json

FIRST_SEED = 90_000
"""Number of the first scene; nothing was trained on those from here on."""
NAMES = {"windows": ("in windows", "in one"), "scale": ("in the cameras' unit", "by the median")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=(*NAMES, "memory"))
    parser.add_argument("--weights", type=Path, default=Path("pretrained/nano"))
    parser.add_argument("--window", type=int, default=9)
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--side", type=int, default=112)
    parser.add_argument("--difficulty", default="full")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="record the errors of every scene")
    options = parser.parse_args()
    vggt = VGGT.from_pretrained(options.weights)
    if options.measure == "memory":
        _tell_memory(vggt, options)
        return
    judge, rows = {"windows": _errors_of_windows, "scale": _errors_of_scale}[options.measure], {}
    for seed in range(FIRST_SEED, FIRST_SEED + options.scenes):
        clip = render_clip(seed, options.frames, (options.side, options.side), options.difficulty)
        rows[seed] = judge(vggt, clip, options)
        print(f"{seed}: " + "  ".join(f"{number:.4f}" for number in rows[seed]), flush=True)
    (ours, other), (name, of_other) = np.mean([*rows.values()], axis=0), NAMES[options.measure]
    median = np.median([one / two for one, two in rows.values()])
    print(f"mean error {name} {ours:.4f}, {of_other} {other:.4f}: ratio {ours / other:.3f}; median ratio {median:.3f}")
    if options.output:
        told = {"ratio_of_means": ours / other, "median_ratio": median, "errors": NAMES[options.measure]}
        how = {name: str(value) for name, value in vars(options).items() if name != "output"}
        write_json(options.output, {**how, **told, "scenes": rows})


def _errors_of_windows(vggt: VGGT, clip: Clip, options: argparse.Namespace) -> tuple[float, float]:
    thinned = np.linspace(0, len(clip.frames) - 1, options.window).round().astype(int)
    how = {"size": options.side, "window": options.window, "progress": False}
    whole, one = (vggt.reconstruct(frames, **how).scene for frames in (clip.frames, clip.frames[thinned]))
    return _trajectory_error(whole, clip.c2w), _trajectory_error(one, clip.c2w[thinned])


def _trajectory_error(scene: Scene, c2w: Float[np.ndarray, "t 4 4"]) -> float:
    places, truth = invert_se3(scene.w2c)[:, :3, 3], c2w[:, :3, 3]
    moved = umeyama(places, truth, "least_squares").apply(places)
    return float(np.sqrt(np.mean(np.sum((moved - truth) ** 2, axis=1))))


def _errors_of_scale(vggt: VGGT, clip: Clip, options: argparse.Namespace) -> tuple[float, float]:
    cameras = Cameras(clip.c2w, clip.intrinsics, np.full((len(clip.c2w), 2), options.side))
    found = vggt.reconstruct(clip.frames, cameras=cameras, size=options.side, progress=False).scene
    valid = clip.depth > 0
    error = float(np.mean(np.abs(found.depth[valid] - clip.depth[valid]) / clip.depth[valid]))
    return error, depth_errors(found.depth, clip.depth).abs_rel


def _tell_memory(vggt: VGGT, options: argparse.Namespace) -> None:
    frames = render_clip(FIRST_SEED, options.frames, (options.side, options.side), options.difficulty).frames
    found = vggt.reconstruct(frames, size=options.side, window=options.window, progress=False)
    reconstructed = _peak_megabytes()
    with tempfile.TemporaryDirectory() as folder:
        found.save(f"{folder}/scene")
    print(f"{options.frames} frames: {reconstructed:.0f} MB, {_peak_megabytes():.0f} MB once written")


def _peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


if __name__ == "__main__":
    main_guard(main)
