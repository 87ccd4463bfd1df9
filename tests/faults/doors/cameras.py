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

from gen3r_jax.geometry.camera_files import (
    camera_path,
    colmap,
    kitti,
    official,
    read,
    realestate10k,
    transforms,
    tum,
)
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


def _binary_colmap_truth(folder: Path) -> Any:
    content = (folder / "images.bin").read_bytes()
    (count,), place, found = struct.unpack_from("<Q", content), 8, []
    for _ in range(count):
        _, w, x, y, z, *translation, _ = struct.unpack_from("<i4d3di", content, place)
        end = content.index(b"\0", place + 64)
        (points,) = struct.unpack_from("<Q", content, end + 1)
        found.append((_natural(content[place + 64 : end].decode(errors="replace")), [x, y, z, w], translation))
        place = end + 9 + 24 * points
    _, quaternions, translations = zip(*sorted(found, key=lambda image: image[0]), strict=True)
    return _path(np.linalg.inv(_poses(Rotation.from_quat(quaternions).as_matrix(), np.array(translations))))


def _numbers(folder: Path, name: str, header: int = 0) -> np.ndarray:
    lines = (folder / name).read_text("utf-8-sig").splitlines()
    return np.array([line.split() for line in lines if line.strip() and not line.startswith("#")][header:], float)


def _kitti_truth(folder: Path) -> Any:
    return _path(_rows(_numbers(folder, "poses.txt").reshape(-1, 3, 4)))


def _realestate10k_truth(folder: Path) -> Any:
    table = _numbers(folder, "abc.txt", header=1)
    table = table[np.argsort(table[:, 0], kind="stable")]
    return _path(np.linalg.inv(_rows(table[:, 7:].reshape(-1, 3, 4))))


def _write_realestate10k(folder: Path) -> None:
    pinholes = np.tile([1.0, 1.6, 0.5, 0.5], (FRAMES, 1))
    rows = realestate10k.Rows(1e6 + np.arange(FRAMES) * 33333, pinholes, C2W)
    realestate10k.write_realestate10k(folder / "abc.txt", "https://www.youtube.com/watch?v=abc", rows)


def _camera_path_truth(folder: Path) -> Any:
    document = json.loads((folder / "camera_path.json").read_text("utf-8-sig"))
    poses = np.array([frame["camera_to_world"] for frame in document["camera_path"]], float).reshape(-1, 4, 4)
    return _path(poses @ np.diag([1.0, -1, -1, 1]))


def _matrices_truth(folder: Path) -> Any:
    rows = _numbers(folder, "poses.txt")
    return _path(_rows(rows.reshape(-1, 4 if [0, 0, 0, 1] in rows.tolist() else 3, 4)))


def _arrays_truth(name: str, key: str) -> Callable[[Path], Any]:
    """Of an array that maps world to camera."""

    def truth(folder: Path) -> Any:
        content = np.load(folder / name)
        poses = np.array(content if isinstance(content, np.ndarray) else content[key], float)
        poses = _rows(poses.reshape(-1, *poses.shape[-2:]))
        rotations = poses[:, :3, :3].swapaxes(1, 2)  # their inverses, also where they are rounded
        return _path(_poses(rotations, -(rotations @ poses[:, :3, 3:])[..., 0]))

    return truth


def _write_archive(name: str, **arrays: Any) -> Callable[[Path], None]:
    return lambda folder: np.savez(folder / name, **arrays)


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
    "colmap binary": Door(_write_binary_colmap, _read_cameras("."), truth=_binary_colmap_truth, share=3),
    "tum": Door(
        lambda folder: tum.write_tum(folder / "path.tum", np.arange(FRAMES) / 10, C2W),
        _read_cameras("path.tum", "tum"),
        truth=_tum_truth,
        share=4,
    ),
    "kitti rows": Door(
        lambda folder: kitti.write_kitti(folder / "poses.txt", C2W), _read_cameras("poses.txt"), truth=_kitti_truth
    ),
    "realestate10k text": Door(_write_realestate10k, _read_cameras("abc.txt"), truth=_realestate10k_truth, share=3),
    "camera-path": Door(
        lambda folder: camera_path.write_camera_path(folder / "camera_path.json", _cameras(), 8),
        _read_cameras("camera_path.json"),
        truth=_camera_path_truth,
        share=3,
    ),
    "matrices of text": Door(
        lambda folder: np.savetxt(folder / "poses.txt", C2W.reshape(-1, 4), fmt="%.17g"),
        _read_cameras("poses.txt", "c2w"),
        truth=_matrices_truth,
    ),
    "matrices of NumPy": Door(
        lambda folder: np.save(folder / "poses.npy", invert_se3(C2W)),
        _read_cameras("poses.npy", "w2c"),
        truth=_arrays_truth("poses.npy", ""),
    ),
    "npz of VGGT": Door(
        _write_archive(
            "vggt.npz",
            extrinsic=invert_se3(C2W)[None, :, :3].astype(np.float32),
            intrinsic=INTRINSICS[None].astype(np.float32),
            depth=np.ones((1, FRAMES, *SIZE, 1), np.float16),
        ),
        _read_cameras("vggt.npz"),
        truth=_arrays_truth("vggt.npz", "extrinsic"),
        share=3,
    ),
    "npz of Depth Anything": Door(
        _write_archive(
            "da3.npz",
            extrinsics=invert_se3(C2W)[:, :3],
            intrinsics=INTRINSICS,
            conf=np.ones((FRAMES, *SIZE), np.float16),
        ),
        _read_cameras("da3.npz"),
        truth=_arrays_truth("da3.npz", "extrinsics"),
    ),
}
