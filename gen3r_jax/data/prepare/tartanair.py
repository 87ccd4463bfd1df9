"""TartanAir: a drone's flights through rendered places, the left camera.

    <place>/{Easy,Hard}/P000/{image_left/000000_left.png,depth_left/000000_left_depth.npy,pose_left.txt}       V1
    <place>/Data_{easy,hard}/P000/{image_lcam_front/000000_lcam_front.png,
                                   depth_lcam_front/000000_lcam_front_depth.png,pose_lcam_front.txt}           V2

at any depth, as the archives of V1 unpack to ``<place>/<place>/Easy``. Line i of the poses is frame i: camera to world
as tx ty tz qx qy qz qw in metres, where the axes of the camera and of the world are NED (x forward or north, y right or
east, z down). Depth is in metres, the sky very far away; V2 keeps the bytes of float32 as a picture's blue, green, red
and alpha. All frames of a version have one camera without distortion.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32
from PIL import Image

from gen3r_jax.data.prepare.readers import folders_with
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit, successive
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import quaternion_pose
from gen3r_jax.storage.files import read_table


@dataclass(frozen=True)
class Version:
    """camera: what its files are called after. depth: ending of the files of depth. size, focal, centre: of all its
    frames."""

    camera: str
    depth: str
    size: tuple[int, int]
    focal: tuple[float, float]
    centre: tuple[float, float]


VERSIONS = (
    Version("left", ".npy", (480, 640), (320.0, 320.0), (320.0, 240.0)),
    Version("lcam_front", ".png", (640, 640), (320.0, 320.0), (320.0, 320.0)),
)
SKY = 1000.0
"""Metres: what is farther is not a thing."""

OPENCV_FROM_NED = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], np.float64)


def find(raw: Path) -> list[Unit]:
    """One unit for each flight: its folder."""
    folders = [folder for version in VERSIONS for folder in folders_with(raw, f"pose_{version.camera}.txt", 5)]
    return [Unit("/".join(folder.absolute().parts[-3:]), (folder,)) for folder in sorted(set(folders))]


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    (folder,) = unit.paths
    version = next(version for version in VERSIONS if (folder / f"pose_{version.camera}.txt").exists())
    camera = version.camera
    images, maps = folder / f"image_{camera}", folder / f"depth_{camera}"
    poses = read_table(folder / f"pose_{camera}.txt", 7)
    pictures = {path.name for path in images.glob(f"*_{camera}.png")}
    depths = {path.name for path in maps.glob(f"*{version.depth}")} if options.depth else set()
    frames, names = [], set(pictures)
    for index, row in enumerate(poses):
        picture, depth = f"{index:06d}_{camera}.png", f"{index:06d}_{camera}_depth{version.depth}"
        names.add(picture)
        if picture not in pictures or (depths and depth not in depths):
            continue
        c2w = OPENCV_FROM_NED @ quaternion_pose(row[3:], row[:3]) @ OPENCV_FROM_NED.T
        read_depth = partial(_read_depth, maps / depth) if depths else None
        pinhole = (version.focal, version.centre, version.size)
        frames.append(RawFrame(picture, index, images / picture, c2w, *pinhole, depth=read_depth))
    missing = len(names) - len(frames)
    dropped = {"no picture, no pose or no depth": missing} if missing else {}
    flight = unit.key.replace("/", "_")
    yield Recording(flight, flight, frames, dropped=dropped, continues=successive)


def _read_depth(path: Path) -> Float32[np.ndarray, "h w"]:
    try:
        if path.suffix == ".npy":
            metres = np.load(path, allow_pickle=False).astype(np.float32)
        else:
            red, green, blue, alpha = np.moveaxis(np.asarray(Image.open(path)), -1, 0)
            metres = np.stack([blue, green, red, alpha], -1).view("<f4")[..., 0]
    except Exception as error:  # what a damaged header raises is nowhere listed
        raise UserError(f"cannot read {path}: {error}") from None
    return np.where(metres < SKY, metres, 0)


DATA_SET = DataSet(
    name="tartanair",
    title="TartanAir",
    site="https://theairlab.org/tartanair-dataset/",
    licence="see its site (believed CC BY 4.0)",
    scale="metric",
    layout="<place>/<Easy or Hard>/<flight>/pose_left.txt or pose_lcam_front.txt (V2), here or deeper",
    find=find,
    read=read,
    chunk_frames=300,
    evaluation_scenes=80,
)
