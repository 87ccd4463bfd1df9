"""From a place in the sources to a clip: frames with their cameras, captions and depth, damage replaced."""

import re
from dataclasses import dataclass
from typing import Any, NamedTuple

import grain
import numpy as np
from jaxtyping import Float

from gen3r_jax.data.captions import clean_caption
from gen3r_jax.data.clips import crop_depth, default_intrinsics, quantize, repair_indices, resize_crop, sample_indices
from gen3r_jax.data.sources import Capture, Source
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import crop_intrinsics, invert_se3, rebase_to_first
from gen3r_jax.geometry.points import unproject_depth

MAX_DAMAGED = 100
"""A run stops when so many scenes in a row cannot be read."""


class Place(NamedTuple):
    source: int
    scene: int


@dataclass(frozen=True)
class ClipMaker(grain.transforms.RandomMap):
    """Turns a place (source, scene) and a random generator into a sample; its entries are those of a batch, see
    :func:`gen3r_jax.data.loader.make_loader`.

    Without `training` nothing is drawn: clips begin at the first frame with the largest stride. Scenes that are to be
    skipped (as :func:`scene_of` names them) are replaced by the next ones, as damaged ones are.
    """

    sources: tuple[Source, ...]
    max_strides: tuple[int, ...]
    num_frames: int
    size: tuple[int, int]
    training: bool
    official_crop: bool = False
    depth: bool = False
    normalize: bool = False
    skip: frozenset[str] = frozenset()

    def random_map(self, place: Place, rng: np.random.Generator) -> dict[str, Any]:
        source, scene = self.sources[place.source], place.scene
        draw = rng if self.training else None
        longest = self.max_strides[place.source]
        stride = int(rng.integers(1, longest + 1)) if self.training else longest
        attempts = min(len(source), MAX_DAMAGED)
        problems: list[Exception] = []
        while len(problems) < attempts:
            try:
                capture = source.scene(scene)
                if f"{source.name}/{capture.id}" in self.skip:
                    raise UserError(f"scene {capture.id} is left out by data.skip")
                sample = self.clip(source, capture, stride, draw)
            except (UserError, OSError) as error:
                problems.append(error)
                scene = (scene + 1) % len(source)
            else:
                sample["num_replaced"] = np.int32(sample["num_replaced"] + len(problems))
                return sample
        raise UserError(f"no scene of {source.name} can be read ({attempts} tried); the first: {problems[0]}")

    def clip(
        self, source: Source, capture: Capture, stride: int, rng: np.random.Generator | None = None
    ) -> dict[str, Any]:
        """A sample of one capture; UserError where it cannot be made. Without `rng` nothing is drawn."""
        indices = sample_indices(capture.length, self.num_frames, stride, rng)
        step = max(1, int(np.diff(indices, append=indices[-1]).max()))  # the stride, if the scene is long enough for it
        pictures = capture.read(indices.tolist())
        readable = np.array([picture is not None for picture in pictures])
        if not readable.any():
            raise UserError(f"{source.name}: scene {capture.id} has no readable frame")
        repaired = repair_indices(readable, rng)
        frames = indices[repaired]  # a short clip is filled up with its last frame, which is worked on once
        places = dict(zip(frames, repaired, strict=True))
        crops = {frame: quantize(resize_crop(pictures[i], self.size)) for frame, i in places.items()}
        c2w = np.tile(np.eye(4), (self.num_frames, 1, 1))
        intrinsics = np.tile(default_intrinsics(self.size), (self.num_frames, 1, 1))
        if capture.cameras:
            cameras = capture.cameras.take(frames)
            c2w = rebase_to_first(cameras.c2w)
            intrinsics = np.stack(
                [
                    crop_intrinsics(
                        _scale(camera, size, pictures[i].shape[:2]),
                        pictures[i].shape[:2],
                        self.size,
                        truncate=self.official_crop,
                    )
                    for i, camera, size in zip(repaired, cameras.intrinsics, cameras.sizes, strict=True)
                ]
            )
        depth = None
        if self.depth or self.normalize:
            if capture.depth is None:
                wish = "data.depth" if self.depth else "data.normalize"
                raise UserError(f"{source.name}: scene {capture.id} has no depth, which {wish} asks for")
            depths = {frame: crop_depth(capture.depth(frame), self.size) for frame in places}
            depth = np.stack([depths[frame] for frame in frames])
        if self.normalize and depth is not None:
            unit = _mean_distance(depth, c2w, intrinsics)
            depth = depth / unit
            c2w[:, :3, 3] /= unit
        return ({"depth": depth.astype(np.float16)} if self.depth and depth is not None else {}) | {
            "frames": np.stack([crops[frame] for frame in frames]),
            "intrinsics": intrinsics.astype(np.float32),
            "c2w": c2w.astype(np.float32),
            "has_cameras": np.bool_(capture.cameras is not None),
            "caption": _caption(capture.captions, rng),
            "sample_id": f"{source.name}/{capture.id}[{indices[0]}:{indices[-1] + 1}:{step}]",
            "num_replaced": int(np.sum(~readable)),
        }


def scene_of(sample_id: str) -> str:
    """``source/scene`` of a sample, whose name has the frames behind it."""
    return re.sub(r"\[\d+:\d+:\d+\]$", "", sample_id)


def _scale(intrinsics: np.ndarray, size: np.ndarray, actual: tuple[int, int]) -> np.ndarray:
    """Intrinsics given for an image of `size`, for the file's `actual` size (height, width)."""
    return intrinsics * np.array([[actual[1] / size[1]], [actual[0] / size[0]], [1]])


def _mean_distance(
    depth: Float[np.ndarray, "t h w"], c2w: Float[np.ndarray, "t 4 4"], intrinsics: Float[np.ndarray, "t 3 3"]
) -> float:
    """Of the known points from the first camera, where `c2w` begins at the identity; 1 where nothing is known."""
    known = depth > 0
    centred = intrinsics - 0.5 * np.array([[0, 0, 1], [0, 0, 1], [0, 0, 0]])  # rays pass through pixel centres
    points = unproject_depth(depth.astype(np.float64), invert_se3(c2w), centred)
    return float(np.linalg.norm(points[known], axis=-1).mean()) if known.any() else 1.0


def _caption(captions: tuple[str, ...], rng: np.random.Generator | None) -> str:
    if not captions:
        return ""
    return clean_caption(captions[rng.integers(len(captions))], rng) if rng else captions[0]
