"""Cameras of one's own videos, for ``gen3r prepare capture``: VGGT finds them in frames spread over each video."""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gen3r_jax.data.images import encode_image, read_clip
from gen3r_jax.data.prepare.capture import FOUND_BY, TRANSFORMS
from gen3r_jax.export.folder import scene_folder
from gen3r_jax.generation.vggt import VGGT
from gen3r_jax.geometry.camera_files.transforms import write_transforms
from gen3r_jax.geometry.cameras import Cameras, Size, invert_se3, uncrop_intrinsics

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
    places = {video: folder / video.relative_to(source) for video in videos}
    todo = {video: place for video, place in places.items() if not (place / TRANSFORMS).exists()}
    if not todo:
        return
    vggt = VGGT.from_pretrained(weights)
    for video, place in todo.items():
        print(f"{video}: finding its cameras", file=sys.stderr)
        place.parent.mkdir(parents=True, exist_ok=True)
        with scene_folder(place) as partial:
            _write_capture(video, vggt, partial)


def _write_capture(video: Path, vggt: VGGT, folder: Path) -> None:
    found = vggt.reconstruct(read_clip([video], at_most=LONGEST), progress=False)
    pictures, scene = found.pictures, found.scene
    shown: Size = pictures[0].shape[:2]
    intrinsics = uncrop_intrinsics(scene.intrinsics, shown, scene.rgb.shape[1:3])
    names = [f"frame_{number:05d}.jpg" for number in range(len(pictures))]
    (folder / "images").mkdir()
    for name, picture in zip(names, pictures, strict=True):
        (folder / "images" / name).write_bytes(encode_image(picture))
    cameras = Cameras(invert_se3(scene.w2c.astype(np.float64)), intrinsics, np.tile(shown, (len(pictures), 1)))
    write_transforms(folder / TRANSFORMS, names, cameras, **{FOUND_BY: "gen3r"})
