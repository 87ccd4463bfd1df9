"""What methods that understand nothing reach on a set: the numbers that trained networks have to beat.

    python -m benchmarks.baselines --train SHARDS --test SHARDS

Repeating the first frame; a linear code (PCA) with as many numbers as the video VAE has, 16 for each 8 x 8 pixels of
the first frame and for each 8 x 8 pixels of four later ones; the mean depth map of the training clips, and one depth
everywhere, both scaled to each clip; cameras that stand still.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from gen3r_jax.data.clip_maker import ClipMaker
from gen3r_jax.data.sources import open_source
from gen3r_jax.errors import main_guard
from gen3r_jax.evaluation.depth import depth_errors
from gen3r_jax.geometry.poses import pose_errors
from gen3r_jax.ops.psnr import psnr

CELL, GROUP, CHANNELS = 8, 4, 16
"""The video VAE's cell in pixels and frames, and its numbers for each."""


class LinearCode(NamedTuple):
    """The `CHANNELS` directions in which blocks vary most, around their mean."""

    mean: Float[np.ndarray, "d"]
    directions: Float[np.ndarray, "d c"]

    @classmethod
    def fit(cls, blocks: Float[np.ndarray, "n d"]) -> "LinearCode":
        mean = blocks.mean(axis=0)
        _, vectors = np.linalg.eigh(np.cov(blocks - mean, rowvar=False))
        return cls(mean, vectors[:, -CHANNELS:])

    def __call__(self, blocks: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
        return (blocks - self.mean) @ self.directions @ self.directions.T + self.mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="shards with depth: the linear code, the depth map")
    parser.add_argument("--test", type=Path, required=True, help="shards with depth (their test split)")
    parser.add_argument("--fit_clips", type=int, default=200, help="training clips that are read (default: 200)")
    parser.add_argument("--clips", type=int, default=64, help="test clips (default: 64)")
    parser.add_argument("--frames", type=int, default=9)
    parser.add_argument("--side", type=int, default=112)
    arguments = parser.parse_args()
    shape = arguments.frames, arguments.side
    train = list(read_clips(arguments.train, "train", arguments.fit_clips, *shape))
    first = LinearCode.fit(np.concatenate([to_blocks(clip["frames"][:1]) for clip in train]))
    later = LinearCode.fit(np.concatenate([to_blocks(clip["frames"][1:]) for clip in train]))
    mean_depth = mean_known(np.stack([clip["depth"] for clip in train]).astype(np.float32))
    rows: dict[str, list[float]] = {}
    for clip in read_clips(arguments.test, "test", arguments.clips, *shape):
        for name, value in judge(clip, first, later, mean_depth).items():
            rows.setdefault(name, []).append(value)
    print(
        f"{len(next(iter(rows.values())))} clips of {arguments.test}, {len(train)} of {arguments.train} to learn from"
    )
    for name, values in rows.items():
        print(f"{name:45} {np.mean(values):8.3f}")


def mean_known(depths: Float[np.ndarray, "n t h w"]) -> Float[np.ndarray, "t h w"]:
    """The mean of each pixel over the clips that know its depth, each in units of its median; 1 where none does."""
    known = depths > 0
    total = sum(depth / np.median(depth[depth > 0]) for depth in depths if (depth > 0).any())
    return np.where(known.any(axis=0), total / np.maximum(known.sum(axis=0), 1), 1.0)


def read_clips(folder: Path, split: str, at_most: int, frames: int, side: int) -> Iterator[dict[str, np.ndarray]]:
    """The middle parts of scenes with their cameras and depth."""
    source = open_source(str(folder), split=split, cameras=True)
    maker = ClipMaker((source,), (1,), frames, (side, side), training=False, depth=True)
    for number in tqdm(range(min(at_most, len(source))), desc=split, unit="clip", leave=False, disable=None):
        yield maker.clip(source, source.scene(number), 1)


def judge(
    clip: dict[str, np.ndarray], first: LinearCode, later: LinearCode, mean_depth: Float[np.ndarray, "t h w"]
) -> dict[str, float]:
    frames = clip["frames"].astype(np.float32) / 255
    coded = np.concatenate([from_blocks(code(to_blocks(part)), part.shape) for code, part in (
        (first, clip["frames"][:1]), (later, clip["frames"][1:])
    )])  # fmt: skip
    depth, known = clip["depth"].astype(np.float32), clip["depth"] > 0
    standing = pose_errors(np.tile(np.eye(4), (len(frames), 1, 1)), clip["c2w"].astype(np.float64))
    return {
        "PSNR of later frames, first repeated (dB)": psnr(np.repeat(frames[:1], len(frames) - 1, axis=0), frames[1:]),
        "PSNR, linear code (dB)": psnr(np.clip(coded, 0, 1), frames),
        "depth AbsRel, mean depth map": depth_errors(mean_depth, depth, known).abs_rel,
        "depth AbsRel, one depth": depth_errors(np.ones_like(depth), depth, known).abs_rel,
        "AUC@30, cameras that stand still": standing.auc(30),
        "rotation error, cameras that stand still (°)": float(np.mean(standing.rotation)),
    }


def to_blocks(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "n d"]:
    """A row for each cell of 8 x 8 pixels of each frame (t = 1) or of each four (t = 4k); colours in [0, 1]."""
    t, h, w, c = frames.shape
    time = min(t, GROUP)
    cells = (frames.astype(np.float32) / 255).reshape(t // time, time, h // CELL, CELL, w // CELL, CELL, c)
    return cells.transpose(0, 2, 4, 1, 3, 5, 6).reshape(-1, time * CELL * CELL * c)


def from_blocks(blocks: Float[np.ndarray, "n d"], shape: tuple[int, int, int, int]) -> Float[np.ndarray, "t h w 3"]:
    t, h, w, c = shape
    time = min(t, GROUP)
    cells = blocks.reshape(t // time, h // CELL, w // CELL, time, CELL, CELL, c)
    return cells.transpose(0, 3, 1, 4, 2, 5, 6).reshape(shape)


if __name__ == "__main__":
    main_guard(main)
