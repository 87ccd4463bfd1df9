"""Gen3R's data sets on disk: scene folders, their cameras, and the list files that name them.

    ROOT/<set>/<scene>/images/*.png    frames
    ROOT/<set>/<scene>/transforms.json cameras of the frames, in order
    ROOT/<set>/<scene>/captions.txt    one caption a line
    ROOT[/<set>]/{train,test}_{videos_dirs,cameras_paths,captions_paths}.txt
                                       parallel lists: line i of each belongs to scene i

``transforms.json`` looks like nerfstudio's, but its ``transform_matrix`` is camera-to-world in OpenCV axes (x right,
y down, z forward).
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gen3r_jax.errors import UserError

CATALOGUE = "scenes.jsonl"
"""Beside the lists of a prepared set: a line ``{"id", "split", "group", "frames"}`` for each scene."""

INTRINSIC_KEYS = ("w", "h", "fl_x", "fl_y", "cx", "cy")


@dataclass(frozen=True)
class Cameras:
    """The cameras of a scene, frame by frame.

    c2w: camera to world, OpenCV axes, in the data set's own unit of length.
    intrinsics: pinhole, in pixels from the corner of an image of ``sizes`` (height, width).
    """

    c2w: Float[np.ndarray, "t 4 4"]
    intrinsics: Float[np.ndarray, "t 3 3"]
    sizes: Int[np.ndarray, "t 2"]

    def __len__(self) -> int:
        return len(self.c2w)

    def take(self, indices: Sequence[int]) -> "Cameras":
        return Cameras(self.c2w[indices], self.intrinsics[indices], self.sizes[indices])


@dataclass(frozen=True)
class SceneFiles:
    """Where the parts of one scene are. id: unique within its data set."""

    id: str
    images: Path
    cameras: Path | None = None
    captions: Path | None = None


def read_transforms(path: Path) -> tuple[list[str], Cameras]:
    """Reads a ``transforms.json``: the frames' file names (without folders) and their cameras, in the file's order.

    Intrinsics stand in each frame or, for all frames, at the top. Raises UserError that names what is wrong.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is not a JSON file: {error}") from None
    frames = document.get("frames") if isinstance(document, dict) else None
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{path} lists no frames: it needs `frames`, a list that is not empty")
    shared = {key: document[key] for key in INTRINSIC_KEYS if key in document}
    names, poses, numbers = [], [], []
    for index, frame in enumerate(frames):
        frame = shared | frame if isinstance(frame, dict) else {}
        missing = [key for key in (*INTRINSIC_KEYS, "file_path", "transform_matrix") if key not in frame]
        if missing:
            raise UserError(f"{path}: frame {index} lacks {', '.join(missing)}")
        names.append(str(frame["file_path"]).replace("\\", "/").rsplit("/", 1)[-1])
        poses.append(_pose(frame["transform_matrix"], f"{path}: frame {index}"))
        try:
            numbers.append([float(frame[key]) for key in INTRINSIC_KEYS])
        except (TypeError, ValueError):
            raise UserError(f"{path}: frame {index} has intrinsics that are not numbers") from None
    w, h, fl_x, fl_y, cx, cy = np.array(numbers).T
    intrinsics = np.tile(np.eye(3), (len(names), 1, 1))
    intrinsics[:, 0, 0], intrinsics[:, 1, 1], intrinsics[:, 0, 2], intrinsics[:, 1, 2] = fl_x, fl_y, cx, cy
    return names, Cameras(np.stack(poses), intrinsics, np.stack([h, w], axis=-1).astype(int))


def write_transforms(path: Path, names: Sequence[str], cameras: Cameras) -> None:
    """Writes a ``transforms.json`` that :func:`read_transforms` and Gen3R's own loader read back exactly."""
    frames = []
    for name, c2w, matrix, (height, width) in zip(names, cameras.c2w, cameras.intrinsics, cameras.sizes, strict=True):
        numbers = (width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
        intrinsics = dict(zip(INTRINSIC_KEYS, (number.item() for number in numbers), strict=True))
        frames.append({"file_path": f"images/{name}", **intrinsics, "transform_matrix": c2w.tolist()})
    path.write_text(json.dumps({"camera_convention": "opencv_c2w", "frames": frames}), encoding="utf-8")


def find_scenes(root: Path, split: str, *, cameras: bool, min_frames: int = 0) -> list[SceneFiles]:
    """The scenes of a data set root: from its list files, else from those of its sub-folders, else by looking.

    Args:
      split: "train" or "test", which list files are read. Scenes that are found by looking belong to both.
      cameras: whether the camera lists are wanted; without them scenes need no cameras.
      min_frames: listed scenes that the catalogue beside the lists says are shorter are left out.

    Returns:
      Scenes in the order of the lists; empty where nothing was found. Raises UserError on lists of unequal lengths.
    """
    sub_folders = sorted(path for path in root.iterdir() if path.is_dir())
    for folders in ([root], sub_folders):
        if any(list(folder.glob("*_videos_dirs.txt")) for folder in folders):
            return [scene for folder in folders for scene in _listed_scenes(folder, split, cameras, min_frames)]
    scenes = sorted(path.parent for pattern in ("images", "*/images", "*/*/images") for path in root.glob(pattern))
    return [_scene_files(scene, root) for scene in scenes]


def _listed_scenes(folder: Path, split: str, cameras: bool, min_frames: int) -> list[SceneFiles]:
    videos, poses, captions = (
        read_list(folder / f"{split}_{kind}.txt") for kind in ("videos_dirs", "cameras_paths", "captions_paths")
    )
    poses = poses if cameras else []
    if cameras and videos and not poses:
        raise UserError(f"{folder} has no {split}_cameras_paths.txt; add it, or set data.cameras=False")
    lengths = {"videos_dirs": len(videos), "cameras_paths": len(poses), "captions_paths": len(captions)}
    if any(0 < length != len(videos) for length in lengths.values()):
        counts = ", ".join(f"{length} in {split}_{kind}.txt" for kind, length in lengths.items() if length)
        raise UserError(f"the lists of {folder} are not parallel: {counts}; line i of each must be scene i")
    scenes, too_short = [], _shorter_scenes(folder, min_frames)
    for index, video in enumerate(videos):
        scene = video.parent if video.name == "images" else video
        if scene.name in too_short:
            continue
        scenes.append(
            SceneFiles(
                "/".join(scene.parts[-2:]),
                video,
                poses[index] if poses else None,
                captions[index] if captions else None,
            )
        )
    return scenes


def _shorter_scenes(folder: Path, min_frames: int) -> set[str]:
    catalogue = folder / CATALOGUE
    if not min_frames or not catalogue.is_file():
        return set()
    scenes = map(json.loads, catalogue.read_text(encoding="utf-8").splitlines())
    return {scene["id"] for scene in scenes if scene["frames"] < min_frames}


def read_list(path: Path) -> list[Path]:
    """Paths: absolute, or relative to the list's folder; if not there, to the working folder, as the official lists."""
    if not path.is_file():
        return []
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [_locate(Path(line), path.parent) for line in lines if line]


def _locate(path: Path, folder: Path) -> Path:
    beside = folder / path
    return beside if beside.exists() or not path.exists() else path


def _scene_files(folder: Path, root: Path) -> SceneFiles:
    cameras, captions = folder / "transforms.json", folder / "captions.txt"
    return SceneFiles(
        folder.resolve().name if folder == root else folder.relative_to(root).as_posix(),
        folder / "images",
        cameras if cameras.is_file() else None,
        captions if captions.is_file() else None,
    )


def _pose(matrix: Any, where: str) -> Float[np.ndarray, "4 4"]:
    try:
        pose = np.array(matrix, np.float64)
    except (TypeError, ValueError):
        pose = np.empty(0)
    if pose.shape not in ((4, 4), (3, 4)) or not np.isfinite(pose).all():
        raise UserError(f"{where} has a transform_matrix that is not 4 x 4 finite numbers")
    return np.vstack([pose[:3], [0, 0, 0, 1]])
