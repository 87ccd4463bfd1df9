"""Gen3R's data sets on disk: scene folders, their cameras, and the list files that name them.

    ROOT/<set>/<scene>/images/*.png    frames
    ROOT/<set>/<scene>/transforms.json cameras of the frames, in order
    ROOT/<set>/<scene>/captions.txt    one caption a line
    ROOT[/<set>]/{train,test}_{videos_dirs,cameras_paths,captions_paths}.txt
                                       parallel lists: line i of each belongs to scene i

``transforms.json`` looks like nerfstudio's, but its ``transform_matrix`` is camera-to-world in OpenCV axes (x right,
y down, z forward).
"""

from dataclasses import dataclass
from pathlib import Path

from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import read_json_lines, read_lines

CATALOGUE = "scenes.jsonl"
"""Beside the lists of a prepared set: a line ``{"id", "split", "group", "frames"}`` for each scene."""


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
    return {scene for scene, frames in read_catalogue(catalogue).items() if frames < min_frames}


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
        folder.resolve().name if folder == root else folder.relative_to(root).as_posix(),
        folder / "images",
        cameras if cameras.is_file() else None,
        captions if captions.is_file() else None,
    )
