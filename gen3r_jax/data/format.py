"""Gen3R's data sets on disk: scene folders, their cameras, and the list files that name them.

    ROOT/<set>/<scene>/images/*.png    frames
    ROOT/<set>/<scene>/transforms.json cameras of the frames, in order
    ROOT/<set>/<scene>/captions.txt    one caption a line
    ROOT[/<set>]/{train,test}_{videos_dirs,cameras_paths,captions_paths}.txt
                                       parallel lists: line i of each belongs to scene i

``transforms.json`` looks like nerfstudio's, but its ``transform_matrix`` is camera-to-world in OpenCV axes (x right,
y down, z forward).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gen3r_jax.errors import UserError, notice
from gen3r_jax.storage.files import read_json_lines, read_lines, real_path

CATALOGUE = "scenes.jsonl"
"""Beside the lists of a prepared set: a line ``{"id", "split", "group", "frames"}`` for each scene."""


class NoScenes(UserError):
    """There is nothing of the kind that was looked for; what there may be else was not looked at."""


@dataclass(frozen=True)
class SceneFiles:
    """Where the parts of one scene are. id: unique within its data set."""

    id: str
    images: Path
    cameras: Path | None = None
    captions: Path | None = None


def find_scenes(root: Path, split: str, *, cameras: bool, min_frames: int = 0) -> list[SceneFiles]:
    """The scenes of a data set root: from its list files, else from those of its sub-folders, else by looking.

    Args:
      split: "train" or "test", which list files are read. Scenes that are found by looking belong to both.
      cameras: whether the camera lists are wanted; without them scenes need no cameras.
      min_frames: listed scenes that the catalogue beside the lists says are shorter are left out.

    Returns:
      Scenes in the order of the lists; empty where nothing was found. Of several sets, one whose lists are damaged is
      left out with a notice.

    Raises:
      UserError: lists that cannot be read or are of unequal lengths, and no others.
      NoScenes: all scenes are too short.
    """
    sub_folders = sorted(path for path in root.iterdir() if path.is_dir())
    for folders in ([root], sub_folders):
        if listed := [folder for folder in folders if list(folder.glob("*_videos_dirs.txt"))]:
            return _scenes_of_lists(root, listed, split, cameras, min_frames)
    scenes = sorted(path.parent for pattern in ("images", "*/images", "*/*/images") for path in root.glob(pattern))
    return [_scene_files(scene, root) for scene in scenes]


def _scenes_of_lists(
    root: Path, folders: Sequence[Path], split: str, cameras: bool, min_frames: int
) -> list[SceneFiles]:
    """The scenes of all folders' lists, less those with too few frames."""
    scenes, too_short, faults = [], [], []
    for folder in folders:
        try:
            frames = _read_lengths(folder) if min_frames else {}
            for scene in _listed_scenes(folder, split, cameras):
                length = frames.get(scene.id.rpartition("/")[2])
                if length is not None and length < min_frames:
                    too_short.append(length)
                else:
                    scenes.append(scene)
        except UserError as error:
            faults.append((folder, error))
    if faults and len(faults) == len(folders):
        raise faults[0][1]
    for folder, error in faults:
        notice(f"{folder} is left out: {error}")
    if too_short and not scenes:
        require_some_long(root, too_short, min_frames)
    return scenes


def require_some_long(path: Path, lengths: Sequence[int], min_frames: int) -> None:
    """Raises NoScenes where no scene is long enough."""
    if not any(length >= min_frames for length in lengths):
        has = f"{len(lengths)} scenes, the longest of which has {max(lengths, default=0)} frames"
        raise NoScenes(f"{path} holds {has}; at least {min_frames or 1} are needed")


def _listed_scenes(folder: Path, split: str, cameras: bool) -> list[SceneFiles]:
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
    scenes = []
    for index, video in enumerate(videos):
        scene = video.parent if video.name == "images" else video
        scenes.append(
            SceneFiles(
                "/".join(scene.parts[-2:]),
                video,
                poses[index] if poses else None,
                captions[index] if captions else None,
            )
        )
    return scenes


def _read_lengths(folder: Path) -> dict[str, int]:
    catalogue = folder / CATALOGUE
    return read_catalogue(catalogue) if catalogue.is_file() else {}


def read_catalogue(path: Path) -> dict[str, int]:
    """Read how many frames each scene of a ``scenes.jsonl`` has. Raises UserError where the file is damaged."""
    frames = {}
    for number, scene in read_json_lines(path):
        if not isinstance(scene.get("id"), str) or not isinstance(scene.get("frames"), int):
            raise UserError(f'{path}, line {number} is not {{"id": "...", "frames": 49, ...}}')
        frames[scene["id"]] = scene["frames"]
    return frames


def read_list(path: Path) -> list[Path]:
    """Paths: absolute, or relative to the list's folder; if not there, to the working folder, as the official lists."""
    if not path.is_file():
        return []
    return [_locate(Path(line), path.parent) for line in read_lines(path)]


def _locate(path: Path, folder: Path) -> Path:
    beside = folder / path
    return beside if beside.exists() or not path.exists() else path


def _scene_files(folder: Path, root: Path) -> SceneFiles:
    cameras, captions = folder / "transforms.json", folder / "captions.txt"
    return SceneFiles(
        real_path(folder).name if folder == root else folder.relative_to(root).as_posix(),
        folder / "images",
        cameras if cameras.is_file() else None,
        captions if captions.is_file() else None,
    )
