"""WildRGB-D: turns around objects, filmed with a phone that measures depth.

    <category>/scenes/<scene>/{rgb/00000.png,depth/00000.png,masks/00000.png,metadata,cam_poses.txt}

Lines of ``cam_poses.txt`` are a frame's number and its pose, camera to world in OpenCV axes and metres. The nine
numbers of K in ``metadata`` go down the columns; the set's own reader hands it to Open3D, whose pixels have their
centres at integers, so principal points are moved by half a pixel to count from the picture's corner. Depth is in
millimetres; 0 is unknown, and beyond 5 m the sensor guesses. The masks of the objects are not used.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from gen3r_jax.data.depth import read_depth_bits
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit, successive
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import intrinsics_fault
from gen3r_jax.storage.files import read_json, read_table

FARTHEST = 5000
"""Millimetres."""

BAD_SCENES = ("box/scene_257",)


def find(raw: Path) -> list[Unit]:
    """One unit for each scene: its folder."""
    folders = sorted(path for path in raw.glob("*/scenes/*") if path.is_dir())
    return [Unit(f"{folder.parts[-3]}/{folder.name}", (folder,)) for folder in folders]


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    (folder,) = unit.paths
    scene = unit.key.replace("/", "_")
    if unit.key in BAD_SCENES:
        yield Recording(scene, scene, (), unfit="known to be bad")
        return
    size, focal, (cx, cy) = _read_camera(folder / "metadata")
    centre = (cx + 0.5, cy + 0.5) if options.half_pixel else (cx, cy)
    frames, missing = [], 0
    for number, *c2w in read_table(folder / "cam_poses.txt", 17):
        name = f"{number:05.0f}.png"
        picture, depth = folder / "rgb" / name, folder / "depth" / name
        if not picture.exists():
            missing += 1
            continue
        read_depth = partial(_read_depth, depth) if options.depth and depth.exists() else None
        pose = np.reshape(c2w, (4, 4))
        frames.append(RawFrame(name, number, picture, pose, focal, centre, size, depth=read_depth))
    dropped = {"no picture": missing} if missing else {}
    yield Recording(scene, scene, frames, dropped=dropped, continues=successive)


def _read_camera(path: Path) -> tuple[tuple[float, float], tuple[float, float], tuple[float, float]]:
    """Size (height, width), focal lengths and principal point of a scene."""
    metadata = read_json(path, nan=True)
    try:
        intrinsics = np.array(metadata["K"], np.float64).reshape(3, 3).T
        size = (float(metadata["h"]), float(metadata["w"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} does not hold w, h and the nine numbers of K") from None
    if fault := intrinsics_fault(intrinsics, size):
        raise UserError(f"{path}: its camera {fault}")
    return size, (intrinsics[0, 0], intrinsics[1, 1]), (intrinsics[0, 2], intrinsics[1, 2])


def _read_depth(path: Path) -> Float32[np.ndarray, "h w"]:
    millimetres = read_depth_bits(path)
    return np.where(millimetres <= FARTHEST, millimetres, 0).astype(np.float32) / 1000


DATA_SET = DataSet(
    name="wildrgbd",
    title="WildRGB-D",
    site="https://github.com/wildrgbd/wildrgbd",
    licence="MIT (of its repository; no terms of the data themselves)",
    scale="metric",
    layout="<category>/scenes/<scene>/",
    find=find,
    read=read,
    evaluation_scenes=300,
)
