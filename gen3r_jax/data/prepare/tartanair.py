"""TartanAir (V1): a drone's flights through rendered places, the left camera.

    <place>/{Easy,Hard}/P000/{image_left/000000_left.png,depth_left/000000_left_depth.npy,pose_left.txt}

at any depth, as the archives unpack to ``<place>/<place>/Easy``. Line i of the poses is frame i: camera to world as
tx ty tz qx qy qz qw in metres, where the axes of the camera and of the world are NED (x forward or north, y right or
east, z down). Depth is in metres, the sky very far away. All frames have one camera without distortion.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from gen3r_jax.data.prepare.readers import folders_with
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit, successive
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import quaternion_pose
from gen3r_jax.storage.files import read_table

SIZE = (480, 640)
FOCAL = (320.0, 320.0)
CENTRE = (320.0, 240.0)
SKY = 1000.0
"""Metres: what is farther is not a thing."""

OPENCV_FROM_NED = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.float64)


def find(raw: Path) -> list[Unit]:
    """One unit for each flight: its folder."""
    folders = folders_with(raw, "pose_left.txt", 5)
    return [Unit("/".join(folder.absolute().parts[-3:]), (folder,)) for folder in folders]


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    (folder,) = unit.paths
    poses = read_table(folder / "pose_left.txt", 7)
    pictures = {path.name for path in (folder / "image_left").glob("*_left.png")}
    depths = {path.name for path in (folder / "depth_left").glob("*.npy")} if options.depth else set()
    frames, names = [], set(pictures)
    for index, row in enumerate(poses):
        picture, depth = f"{index:06d}_left.png", f"{index:06d}_left_depth.npy"
        names.add(picture)
        if picture not in pictures or (depths and depth not in depths):
            continue
        c2w = OPENCV_FROM_NED @ quaternion_pose(row[3:], row[:3]) @ OPENCV_FROM_NED.T
        read_depth = partial(_read_depth, folder / "depth_left" / depth) if depths else None
        frames.append(
            RawFrame(picture, index, folder / "image_left" / picture, c2w, FOCAL, CENTRE, SIZE, depth=read_depth)
        )
    missing = len(names) - len(frames)
    dropped = {"no picture, no pose or no depth": missing} if missing else {}
    flight = unit.key.replace("/", "_")
    yield Recording(flight, flight, frames, dropped=dropped, continues=successive)


def _read_depth(path: Path) -> Float32[np.ndarray, "h w"]:
    try:
        metres = np.load(path, allow_pickle=False).astype(np.float32)
    except Exception as error:  # what a damaged header raises is nowhere listed
        raise UserError(f"cannot read {path}: {error}") from None
    return np.where(metres < SKY, metres, 0)


DATA_SET = DataSet(
    name="tartanair",
    title="TartanAir",
    site="https://theairlab.org/tartanair-dataset/",
    licence="see its site (believed CC BY 4.0)",
    scale="metric",
    layout="<place>/<Easy or Hard>/<flight>/pose_left.txt, here or deeper",
    find=find,
    read=read,
    chunk_frames=300,
    evaluation_scenes=80,
)
