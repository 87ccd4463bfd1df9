"""Cameras of one's own videos, for ``gen3r prepare capture``: VGGT finds them in frames spread over each video."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conversion.pipeline_folder import find_weights
from gen3r_jax.data.clips import quantize, resize_crop, tell_fit
from gen3r_jax.data.images import encode_image, read_clip
from gen3r_jax.data.prepare.capture import FOUND_BY, TRANSFORMS
from gen3r_jax.export.folder import scene_folder
from gen3r_jax.generation import networks
from gen3r_jax.generation.settings import MOST_FRAMES, read_settings
from gen3r_jax.generation.vggt import load_vggt
from gen3r_jax.generation.windows import reconstruct_in_windows
from gen3r_jax.geometry.camera_files.transforms import write_transforms
from gen3r_jax.geometry.cameras import Cameras, Size, crop_intrinsics, invert_se3

LONGEST = 150
"""Frames that are taken of a video, spread evenly: all of them are in memory in the video's own size."""


def find_cameras(videos: Sequence[Path], source: Path, folder: Path, weights: Path) -> None:
    """Writes a capture for each video: ``images/`` in the video's own size, and ``transforms.json``.

    Captures that are there are kept.

    Args:
      source: a folder that holds the videos; a capture lies below `folder` as its video does below `source`.
      weights: as ``gen3r reconstruct`` takes them.

    Raises:
      UserError: a video cannot be read, there are no weights, or a place is taken.
    """
    weights = find_weights(weights)
    places = {video: folder / video.relative_to(source) for video in videos}
    todo = {video: place for video, place in places.items() if not (place / TRANSFORMS).exists()}
    if not todo:
        return
    size = read_settings(weights).size
    vggt = load_vggt(weights)
    for video, place in todo.items():
        print(f"{video}: finding its cameras", file=sys.stderr)
        place.parent.mkdir(parents=True, exist_ok=True)
        with scene_folder(place) as partial:
            _write_capture(video, vggt, size, partial)


def _write_capture(video: Path, vggt: networks.Network, size: Size, folder: Path) -> None:
    pictures = read_clip([video], at_most=LONGEST).frames
    tell_fit(pictures[0].shape[:2], size)
    frames = np.stack([quantize(resize_crop(picture, size)) for picture in pictures])
    window = min(MOST_FRAMES, len(frames))
    scene, _ = reconstruct_in_windows(frames, window, lambda some: networks.reconstruct(some, vggt))
    shown: Size = pictures[0].shape[:2]
    cropping = crop_intrinsics(np.eye(3), shown, size)
    intrinsics = np.linalg.inv(cropping) @ scene.intrinsics.astype(np.float64)
    names = [f"frame_{number:05d}.jpg" for number in range(len(pictures))]
    (folder / "images").mkdir()
    for name, picture in zip(names, pictures, strict=True):
        (folder / "images" / name).write_bytes(encode_image(picture))
    cameras = Cameras(invert_se3(scene.w2c.astype(np.float64)), intrinsics, np.tile(shown, (len(pictures), 1)))
    write_transforms(folder / TRANSFORMS, names, cameras, **{FOUND_BY: "gen3r"})
