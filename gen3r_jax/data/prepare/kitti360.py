"""KITTI-360: long drives through the suburbs of Karlsruhe, the two cameras that look ahead.

    calibration/{perspective.txt,calib_cam_to_pose.txt}
    data_2d_raw/2013_05_28_drive_0000_sync/image_00/data_rect/0000000005.png
    data_poses/2013_05_28_drive_0000_sync/{cam0_to_world.txt,poses.txt}

Poses are camera to world in OpenCV axes and metres. ``cam0_to_world.txt`` has those of the rectified camera 00, which
took the pictures. Camera 01 (and 00, without that file) goes by ``poses.txt``, the poses of the car, and by where the
cameras are in it before their pictures are rectified: the rotation that rectifies has to be undone on the way.
Pictures without a pose are those where the car stood or crept. Principal points are used as given: the site does not
say what they count from.
"""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.prepare.readers import folders_with
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import pose
from gen3r_jax.storage.files import read_lines, read_table

LONGEST_STEP = 3.0
"""Times the drive's median step: a scene ends where two frames are farther apart."""

LONGEST_PAUSE = 50
"""Frames: a scene ends where the car stood so long, as the traffic has changed."""


def find(raw: Path) -> list[Unit]:
    """One unit for each drive: its folders with pictures and poses, and that with the calibration."""
    units = []
    for root in folders_with(raw, "data_2d_raw", 2):
        for drive in sorted(root.glob("data_2d_raw/*_drive_*_sync")):
            number = drive.name.split("_drive_")[1].removesuffix("_sync")
            units.append(Unit(number, (drive, root / "data_poses" / drive.name, root / "calibration")))
    return units


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    drive, poses, calibration = unit.paths
    for camera in options.cameras:
        recording_id = f"{unit.key}_cam{int(camera)}"
        folder = drive / f"image_{camera}" / "data_rect"
        pictures = {path.name for path in folder.glob("*.png")}
        unfit = "" if pictures else f"no pictures in image_{camera}/data_rect"
        frames, with_pose = [], set()
        if camera == "00" and (poses / "cam0_to_world.txt").exists():
            rows = _read_poses(poses / "cam0_to_world.txt")
        elif (poses / "poses.txt").exists():
            to_car = _read_camera_to_car(calibration, camera)
            rows = [(number, car @ to_car) for number, car in _read_poses(poses / "poses.txt")]
        else:
            rows, unfit = [], f"no poses in data_poses/{drive.name}"
        focal, centre, size = _read_lens(calibration, camera)
        for number, c2w in rows:
            name = f"{number:010.0f}.png"
            with_pose.add(name)
            if name in pictures:
                frames.append(RawFrame(name, number, folder / name, c2w, focal, centre, size))
        counts = {"no pose": len(pictures - with_pose), "no picture": len(with_pose - pictures)}
        dropped = {} if unfit else {reason: count for reason, count in counts.items() if count}
        continues = _continues_in(frames)
        yield Recording(
            recording_id, unit.key, frames, dropped=dropped, continues=continues, unfit=unfit, looks_ahead=True
        )


def _continues_in(frames: list[RawFrame]) -> Callable[[RawFrame, RawFrame], bool]:
    positions = [frame.c2w[:3, 3] for frame in sorted(frames, key=lambda frame: frame.order)]
    steps = [_distance(a, b) for a, b in itertools.pairwise(positions)]
    longest = LONGEST_STEP * np.median([step for step in steps if np.isfinite(step)] or [0.0])

    def continues(before: RawFrame, after: RawFrame) -> bool:
        step = _distance(before.c2w[:3, 3], after.c2w[:3, 3])
        return step < longest and after.order - before.order < LONGEST_PAUSE

    return continues


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(b - a))


def _read_poses(path: Path) -> list[tuple[float, Float[np.ndarray, "4 4"]]]:
    """Frame numbers and poses: lines of 1 + 12 or (with the row 0 0 0 1) 1 + 16 numbers."""
    lines = read_lines(path)
    columns = len(lines[0].split()) if lines else 0
    if columns not in (13, 17):
        raise UserError(f"{path}: the first line has {columns} columns instead of 13 or 17")
    last = [[0.0, 0.0, 0.0, 1.0]] if columns == 13 else np.zeros((0, 4))
    return [(row[0], np.concatenate([row[1:].reshape(-1, 4), last])) for row in read_table(path, columns)]


def _read_camera_to_car(calibration: Path, camera: str) -> Float[np.ndarray, "4 4"]:
    unrectified = _numbers(calibration / "calib_cam_to_pose.txt", f"image_{camera}", 12).reshape(3, 4)
    rectify = _numbers(calibration / "perspective.txt", f"R_rect_{camera}", 9).reshape(3, 3)
    return pose(unrectified[:, :3] @ rectify.T, unrectified[:, 3])


def _read_lens(calibration: Path, camera: str) -> tuple[tuple[float, float], ...]:
    """Focal lengths, principal point and size (height, width) of the rectified pictures."""
    fx, _, cx, _, _, fy, cy, *_ = _numbers(calibration / "perspective.txt", f"P_rect_{camera}", 12).tolist()
    width, height = _numbers(calibration / "perspective.txt", f"S_rect_{camera}", 2).tolist()
    return (fx, fy), (cx, cy), (height, width)


def _numbers(path: Path, name: str, count: int) -> Float[np.ndarray, "count"]:
    """The numbers of the line ``name: ...``."""
    for line in read_lines(path):
        key, _, values = line.partition(":")
        if key.strip() == name:
            try:
                return np.array(values.split(), np.float64).reshape(count)
            except ValueError:
                raise UserError(f"{path}: {name} is not {count} numbers") from None
    raise UserError(f"{path} has no line {name}")


DATA_SET = DataSet(
    name="kitti360",
    title="KITTI-360",
    site="https://www.cvlibs.net/datasets/kitti-360/",
    licence="CC BY-NC-SA 3.0",
    scale="metric",
    layout="data_2d_raw/*_drive_*_sync/, here or deeper, beside data_poses/ and calibration/",
    find=find,
    read=read,
    cameras=("00", "01"),
    chunk_frames=250,
    split_by_chunk=True,
)
