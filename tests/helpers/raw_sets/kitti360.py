"""KITTI-360 as its archives unpack: ten or more pictures of a drive, poses for three or more of them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.helpers.raw_sets import shared

DRIVE = "2013_05_28_drive_0000_sync"
BASELINE = 0.6
"""Metres from camera 00 to camera 01, to the right."""

# Camera 00, its pictures already rectified, to the car, whose axes are forward, right and down.
RECTIFIED_TO_CAR = np.array([[0, 0, 1, 1.5], [1, 0, 0, -0.3], [0, 1, 0, -1.0], [0, 0, 0, 1]])


def write(
    raw: Path,
    *,
    frames: int = shared.FRAMES,
    drive: str = DRIVE,
    cam0_to_world: bool = True,
    columns: int = 17,
    rectify_degrees: tuple[float, float] = (0.0, 2.0),
) -> Path:
    """frames: with a pose; the first are 5, 6 and 9. columns: of ``cam0_to_world.txt``, which may be left out.
    rectify_degrees: by how much rectifying turns the pictures of either camera; it does not change the poses."""
    numbers = [5, 6, *range(9, 7 + frames)][:frames]
    poses = raw / "data_poses" / drive
    poses.mkdir(parents=True, exist_ok=True)
    cars, cameras = [], []
    for i, number in enumerate(numbers):
        car = (1, 0, 0, -0.5 + 0.5 * i, 0, 0, 1, 3, 0, -1, 0, 2.7)
        cars.append(f"{number} {_line(car)}")
        cameras.append(f"{number} {_line(shared.c2w(i).ravel()[: columns - 1])}")
    (poses / "poses.txt").write_text("\n".join(cars) + "\n")
    if cam0_to_world:
        (poses / "cam0_to_world.txt").write_text("\n".join(cameras) + " \n")
    _write_calibration(raw / "calibration", rectify_degrees)
    for number in range(max(10, numbers[-1] + 1)):
        index = numbers.index(number) if number in numbers else 0
        for camera in ("image_00", "image_01"):
            shared.write_picture(raw / "data_2d_raw" / drive / camera / "data_rect" / f"{number:010d}.png", index)
    return raw


def _write_calibration(folder: Path, rectify_degrees: tuple[float, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    perspective, to_car = ["calib_time: 28-May-2013 00:00:00", "corner_dist: 0.06"], []
    for camera, degrees in enumerate(rectify_degrees):
        rectify = _turn(degrees)
        shift = np.eye(4)
        shift[0, 3] = BASELINE * camera
        unrectified = RECTIFIED_TO_CAR @ shift @ rectify
        to_car.append(f"image_0{camera}: {_line(unrectified[:3].ravel())}")
        perspective += [
            f"S_0{camera}: 70 52",
            f"K_0{camera}: 60 0 30 0 60 20 0 0 1",
            f"S_rect_0{camera}: 64 48",
            f"R_rect_0{camera}: {_line(rectify[:3, :3].ravel())}",
            f"P_rect_0{camera}: 50 0 33 {-50 * BASELINE * camera} 0 50 23.5 0 0 0 1 0",
        ]
    (folder / "perspective.txt").write_text("\n".join(perspective) + "\n")
    (folder / "calib_cam_to_pose.txt").write_text("\n".join(to_car) + "\n")


def _turn(degrees: float) -> np.ndarray:
    sine, cosine = np.sin(np.radians(degrees)), np.cos(np.radians(degrees))
    return np.array([[cosine, 0, sine, 0], [0, 1, 0, 0], [-sine, 0, cosine, 0], [0, 0, 0, 1]])


def _line(numbers: Iterable[float]) -> str:
    return " ".join(repr(float(number)) for number in numbers)
