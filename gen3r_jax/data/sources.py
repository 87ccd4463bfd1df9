"""Where scenes come from: rendered on the spot, one video, a folder of images or videos, a data set root, shards.

Every source gives its scenes as :class:`Capture` values whose frames are read on demand. Sources hold names, not open
files, so that they can be sent to worker processes.
"""

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from jaxtyping import Float32

from gen3r_jax.data import shards
from gen3r_jax.data.captions import read_captions
from gen3r_jax.data.depth import read_depth
from gen3r_jax.data.format import NoScenes, SceneFiles, find_scenes, require_some_long
from gen3r_jax.data.images import IMAGE_SUFFIXES, Picture, is_image, list_images, read_image, read_posed_image
from gen3r_jax.data.procedural import KINDS, Difficulty, make_scene, require_choices
from gen3r_jax.data.video import VIDEO_SUFFIXES, Video, is_video, list_videos
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.transforms import read_transforms
from gen3r_jax.geometry.cameras import Cameras
from gen3r_jax.storage.files import real_path
from gen3r_jax.storage.remote import local_copy

log = logging.getLogger(__name__)

FIRST_TEST_SEED = 1 << 31
"""Procedural scenes for training have the seeds 0, 1, ...; those for tests begin here."""


@dataclass(frozen=True)
class Capture:
    """One scene as it was filmed.

    id: unique within its source. length: frames.
    read: frame numbers -> 8-bit RGB pictures (sizes may differ), None where one cannot be read.
    cameras: None where they are unknown. captions: none, one or several alternatives.
    encoded: frame number -> the frame's image file as it is, where the frames are image files.
    stream: of a video: frame numbers -> (number, picture) one by one in the order of time, without those that cannot be
      read. To `read` many frames in pieces would decode what lies before each piece again.
    depth: frame number -> distance along the optical axis, float32 of the picture's size in the unit of the cameras, 0
      where it is not known; None without depth. Raises UserError where it cannot be read.
    """

    id: str
    length: int
    read: Callable[[Sequence[int]], list[Picture | None]]
    cameras: Cameras | None = None
    captions: tuple[str, ...] = ()
    encoded: Callable[[int], bytes] | None = None
    stream: Callable[[Iterable[int]], Iterator[tuple[int, Picture]]] | None = None
    depth: Callable[[int], Float32[np.ndarray, "h w"]] | None = None


class Source(Protocol):
    """A numbered set of scenes. name: short, for sample names and messages."""

    @property
    def name(self) -> str: ...

    def __len__(self) -> int: ...

    def scene(self, index: int) -> Capture:
        """Opens a scene; UserError (or OSError) where it is damaged."""
        ...


@dataclass(frozen=True)
class Procedural:
    """Rendered scenes (see ``procedural/``): `frames` views along the way through each, of `size` (height, width).

    Raises UserError for a difficulty or kinds that do not exist.
    """

    scenes: int
    frames: int
    size: tuple[int, int]
    difficulty: Difficulty = "easy"
    first_seed: int = 0
    kinds: tuple[str, ...] = KINDS
    name: str = "procedural"

    def __post_init__(self):
        require_choices(self.difficulty, self.kinds)

    def __len__(self) -> int:
        return self.scenes

    def scene(self, index: int) -> Capture:
        scene = make_scene(self.first_seed + index, self.difficulty, self.kinds)
        c2w, intrinsics = scene.cameras(self.frames, self.size)
        cameras = Cameras(c2w, intrinsics, np.tile(self.size, (self.frames, 1)))

        @functools.cache
        def view(i: int) -> tuple[Picture, Float32[np.ndarray, "h w"]]:
            return scene.render(c2w[i], intrinsics[i], self.size)

        def read(indices: Sequence[int]) -> list[Picture | None]:
            return [view(int(i))[0] for i in indices]

        name = str(self.first_seed + index)
        return Capture(name, self.frames, read, cameras, scene.captions, depth=lambda i: view(int(i))[1])


@dataclass(frozen=True)
class Videos:
    """Video files, each a scene; no cameras."""

    paths: tuple[Path, ...]
    name: str

    def __len__(self) -> int:
        return len(self.paths)

    def scene(self, index: int) -> Capture:
        video = _video(self.paths[index])
        return Capture(video.path.name, len(video), video.read, stream=video.stream)


@dataclass(frozen=True)
class Folders:
    """Folders of images, each a scene, with or without cameras.

    With `use_cameras` the frames are those of ``transforms.json``, otherwise all images of the folder, in the order of
    their names.
    """

    scenes: tuple[SceneFiles, ...] = field(repr=False)
    name: str
    use_cameras: bool

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> Capture:
        files = self.scenes[index]
        captions = tuple(read_captions(files.captions)) if files.captions else ()
        cameras = None
        if self.use_cameras:
            if files.cameras is None:
                raise UserError(f"{files.images.parent} has no transforms.json; add it, or set data.cameras=False")
            names, cameras = read_transforms(files.cameras)
            paths = [files.images / name for name in names]
        else:
            paths = list_images(files.images)
            if not paths:
                raise UserError(f"{files.images} holds no images ({' '.join(IMAGE_SUFFIXES)})")
        read = functools.partial(_each_once, lambda i: _read_picture(paths[i], cameras, i))
        depths = [files.images.parent / "depth" / f"{path.stem}.png" for path in paths]
        depth = (lambda i: read_depth(depths[i])) if depths[0].is_file() else None
        return Capture(
            files.id, len(paths), read, cameras, captions, encoded=lambda i: paths[i].read_bytes(), depth=depth
        )


@dataclass(frozen=True)
class Shards:
    """Packed scenes (see ``shards.py``)."""

    scenes: tuple[shards.ShardScene, ...] = field(repr=False)
    name: str

    def __len__(self) -> int:
        return len(self.scenes)

    def scene(self, index: int) -> Capture:
        place = self.scenes[index]
        captions, cameras, has_depth = shards.read_description(place)
        depth = (lambda i: read_depth(shards.read_depth_file(place, i))) if has_depth else None
        encoded = functools.partial(shards.read_frame, place)
        read = functools.partial(_each_once, lambda i: _read_picture(encoded(i), cameras, i))
        return Capture(place.id, place.length, read, cameras, captions, encoded, depth=depth)


def open_source(
    source: str | Path,
    *,
    split: str = "train",
    cameras: bool = False,
    num_scenes: int = 1,
    num_frames: int = 1,
    size: tuple[int, int] = (112, 112),
    difficulty: Difficulty = "easy",
    kinds: tuple[str, ...] = KINDS,
    first_scene: int = 0,
    min_frames: int = 0,
    exact: bool = False,
) -> Source:
    """Opens what is found at `source`.

    Args:
      source: "procedural"; a video file; or a folder of shards, of images, of videos, or a data set in Gen3R's layout.
        What lies in a bucket (``gs://``) is copied to this machine first.
      split: "train" or "test": which seeds, list files or shards. Where a source has no test scenes, the training
        scenes are taken, with a notice.
      cameras: whether ``transforms.json`` is read; scenes without it then count as damaged.
      num_scenes, num_frames, size, difficulty, kinds, first_scene: of procedural scenes; the last is the number of the
        first one within the split.
      min_frames: shorter scenes of shards and of prepared folders are left out.
      exact: no other scenes are taken for test scenes.

    Raises NoScenes, a UserError, when there is nothing of the kind, and UserError when something is wrong with it.
    """
    if str(source) == "procedural":
        first = 0 if split == "train" else FIRST_TEST_SEED
        return Procedural(num_scenes, num_frames, size, difficulty, first + first_scene, kinds)
    path = local_copy(str(source))
    if not path.exists():
        raise UserError(f"{path} does not exist; data.source is `procedural`, a video, or a folder")
    if path.is_file():
        if not is_video(path):
            hint = "; for images give their folder" if is_image(path) else ""
            raise UserError(f"{path} is not a video ({' '.join(VIDEO_SUFFIXES)}){hint}")
        return Videos((path,), real_path(path).parent.name)
    try:
        found = _open_folder(path, split, cameras, min_frames)
    except NoScenes:
        if split != "test" or exact:
            raise
        found = None
    if found is None and split == "test" and not exact:
        found = _open_folder(path, "train", cameras, min_frames)
        log.warning("%s has no test scenes: its training scenes are used", path)
    if found is None:
        raise NoScenes(
            f"{path} holds no scenes; looked for {split}-*.array_record, {split}_videos_dirs.txt, images, videos, "
            "and folders with images/ inside"
        )
    return found


def _open_folder(path: Path, split: str, cameras: bool, min_frames: int) -> Source | None:
    name = real_path(path).name
    if files := shards.list_shards(path, split):
        scenes = [scene for file in files for scene in shards.read_index(file)]
        return Shards(_long_enough(path, scenes, min_frames), name)
    if scenes := find_scenes(path, split, cameras=cameras, min_frames=min_frames):
        return Folders(tuple(scenes), name, cameras)
    packed = [  # of several sets, a folder each
        replace(scene, id=f"{folder.name}/{scene.id}")
        for folder in sorted(path.iterdir())
        for file in shards.list_shards(folder, split)
        for scene in shards.read_index(file)
    ]
    if packed:
        return Shards(_long_enough(path, packed, min_frames), name)
    if list_images(path):
        return Folders((SceneFiles(name, path),), real_path(path).parent.name, use_cameras=False)
    if videos := list_videos(path):
        return Videos(tuple(videos), name)
    return None


def _long_enough(path: Path, scenes: Sequence[shards.ShardScene], min_frames: int) -> tuple[shards.ShardScene, ...]:
    require_some_long(path, [scene.length for scene in scenes], min_frames)
    return tuple(scene for scene in scenes if scene.length >= min_frames)


@functools.lru_cache(maxsize=1024)
def _video(path: Path) -> Video:
    return Video(path)


def _read_picture(source: Path | bytes, cameras: Cameras | None, index: int) -> Picture:
    return read_posed_image(source, cameras.sizes[index].tolist()) if cameras else read_image(source)


def _each_once(read: Callable[[int], Picture], indices: Sequence[int]) -> list[Picture | None]:
    """Reads each frame once however often it is asked for; an unreadable one is None."""
    pictures: dict[int, Picture | None] = {}
    for index in dict.fromkeys(int(index) for index in indices):
        try:
            pictures[index] = read(index)
        except (UserError, OSError):
            pictures[index] = None
    return [pictures[int(index)] for index in indices]
