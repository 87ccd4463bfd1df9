"""Files of cameras."""

import json
import re
import struct
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from gen3r_jax.geometry.camera_files import colmap, official, read, transforms, tum
from gen3r_jax.geometry.cameras import Cameras, invert_se3
from tests.faults.doors.door import C2W, FRAMES, INTRINSICS, NAMES, SIZE, Door


def _cameras() -> Cameras:
    return Cameras(C2W, INTRINSICS, np.tile(SIZE, (FRAMES, 1)))


def _read_cameras(name: str, camera_format: str | None = None) -> Callable[[Path], Any]:
    def read_file(folder: Path) -> Any:
        c2w, intrinsics = read.read_camera_file(folder / name, FRAMES, SIZE, camera_format)
        return {**_path(c2w), "intrinsics": intrinsics}

    return read_file


def _path(c2w: np.ndarray) -> dict[str, np.ndarray]:
    """What is the same however many cameras there are: where others are asked for, only the ends of the path are."""
    return {"first": c2w[0], "last": c2w[-1]} | ({"c2w": c2w} if len(c2w) == FRAMES else {})


def _official_truth(folder: Path) -> Any:
    document = json.loads((folder / "cameras.json").read_text("utf-8-sig"))
    return _path(np.linalg.inv(_rows(np.array(document["extrinsics"], float))))


def _rows(poses: np.ndarray) -> np.ndarray:
    """3 x 4 matrices with the row 0 0 0 1."""
    last = np.tile([[[0.0, 0, 0, 1]]], (len(poses), 1, 1))
    return poses if poses.shape[1] == 4 else np.concatenate([poses, last], 1)


def _natural(name: str) -> list:
    """Whole names, folder by folder, with numbers as numbers."""
    parts = name.replace("\\", "/").removeprefix("./").split("/")
    return [[(0, int(x), "") if x.isdigit() else (1, 0, x) for x in re.split(r"(\d+)", part) if x] for part in parts]


def _transforms_truth(opengl: bool) -> Callable[[Path], Any]:
    def truth(folder: Path) -> Any:
        document = json.loads((folder / "transforms.json").read_text("utf-8-sig"))
        frames = sorted(document["frames"], key=lambda frame: _natural(str(frame["file_path"])))
        poses = np.stack([_rows(np.array(frame["transform_matrix"], float)[None])[0] for frame in frames])
        return _path(poses @ np.diag([1.0, -1, -1, 1]) if opengl else poses)

    return truth


def _tum_truth(folder: Path) -> Any:
    rows = [line.split() for line in (folder / "path.tum").read_text("utf-8-sig").splitlines()]
    numbers = np.array([row for row in rows if row and not row[0].startswith("#")], float)
    numbers = numbers[np.argsort(numbers[:, 0], kind="stable")]
    return _path(_poses(Rotation.from_quat(numbers[:, 4:]).as_matrix(), numbers[:, 1:4]))


def _poses(rotations: np.ndarray, translations: np.ndarray) -> np.ndarray:
    return _rows(np.concatenate([rotations, translations[..., None]], -1))


def _colmap_truth(folder: Path) -> Any:
    lines = (folder / "images.txt").read_text("utf-8-sig").replace("\r", "").split("\n")
    lines = [line for line in lines if not line.startswith("#")]
    while lines and not lines[0].strip():
        del lines[0]
    images = [line.split(maxsplit=9) for line in lines[::2] if line.strip()]
    images.sort(key=lambda words: _natural(words[9]))
    numbers = np.array([words[1:8] for words in images], float)
    w2c = _poses(Rotation.from_quat(numbers[:, [1, 2, 3, 0]]).as_matrix(), numbers[:, 4:])
    return _path(np.linalg.inv(w2c))


def _write_colmap(folder: Path) -> None:
    colmap.write_colmap_cameras(folder, NAMES, invert_se3(C2W), INTRINSICS, SIZE)


def _write_binary_colmap(folder: Path) -> None:
    """The same as COLMAP itself writes it."""
    cameras, images = [struct.pack("<Q", FRAMES)], [struct.pack("<Q", FRAMES)]
    for number, (name, w2c) in enumerate(zip(NAMES, invert_se3(C2W), strict=True), 1):
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        cameras.append(struct.pack("<iiQQ4d", number, 1, SIZE[1], SIZE[0], 100, 90, 56, 55))
        images.append(struct.pack("<i4d3di", number, w, x, y, z, *w2c[:3, 3], number) + name.encode() + b"\0")
        images.append(struct.pack("<Q", 0))
    (folder / "cameras.bin").write_bytes(b"".join(cameras))
    (folder / "images.bin").write_bytes(b"".join(images))


def _training_transforms(folder: Path) -> Any:
    names, cameras = transforms.read_transforms(folder / "transforms.json")
    return {"names": names, **asdict(cameras)}


CAMERAS = {
    "cameras.json": Door(
        lambda folder: official.write_cameras(folder / "cameras.json", invert_se3(C2W), INTRINSICS, SIZE),
        _read_cameras("cameras.json"),
        truth=_official_truth,
        share=4,
    ),
    "nerfstudio": Door(
        lambda folder: transforms.write_transforms(folder / "transforms.json", NAMES, _cameras(), transforms.OPENGL),
        _read_cameras("transforms.json"),
        truth=_transforms_truth(True),
        share=4,
    ),
    "opencv-transforms": Door(
        lambda folder: transforms.write_transforms(folder / "transforms.json", NAMES, _cameras()),
        _read_cameras("transforms.json"),
        truth=_transforms_truth(False),
    ),
    "transforms.json of training": Door(
        lambda folder: transforms.write_transforms(folder / "transforms.json", NAMES, _cameras()),
        _training_transforms,
        truth=_transforms_truth(False),
        share=4,
    ),
    "colmap text": Door(_write_colmap, _read_cameras("."), truth=_colmap_truth, share=4),
    "colmap binary": Door(_write_binary_colmap, _read_cameras("."), share=3),
    "tum": Door(
        lambda folder: tum.write_tum(folder / "path.tum", np.arange(FRAMES) / 10, C2W),
        _read_cameras("path.tum", "tum"),
        truth=_tum_truth,
        share=4,
    ),
}
