"""Captures of one's own: pictures of still places, with cameras that some tool found.

    <capture>/{images/,sparse/0/}               a COLMAP project; the model may lie in any place that COLMAP uses
    <capture>/{images/,transforms.json}         a nerfstudio folder, or a scene that gen3r generate or reconstruct wrote
    <capture>.mp4                               a video, after `gen3r prepare capture` has found its cameras

at most three folders deep. What lies in a folder called ``test`` is for tests, all else for training. Pictures of one
sub-folder are a recording of their own, in the order of their names; a scene ends where the camera jumps.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from gen3r_jax.data.images import is_image
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Split, Unit, steady
from gen3r_jax.data.video import list_videos
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.colmap import find_model, read_colmap
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.camera_files.transforms import picture_name, read_folder_transforms
from gen3r_jax.storage.files import inside, read_json, real_path

DEPTH = 3
TRANSFORMS = "transforms.json"
FOUND_BY = "cameras_found_by"
"""The key of a transforms.json that says which reconstruction its cameras are of."""


def find(raw: Path) -> list[Unit]:
    """One unit for each capture: its folder."""
    folders = [path for path in _captures(raw, DEPTH) if path.is_dir()]
    return [Unit("/".join(folder.relative_to(raw).parts) or real_path(folder).name, (folder,)) for folder in folders]


def find_videos(raw: Path) -> list[Path]:
    """The videos beside captures, whose cameras nobody has found yet."""
    return [path for path in _captures(raw, DEPTH) if not path.is_dir()]


def _captures(folder: Path, depth: int) -> Iterator[Path]:
    if (folder / TRANSFORMS).exists() or find_model(folder):
        yield folder
    else:
        yield from list_videos(folder)
        for inner in sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")):
            yield from _captures(inner, depth - 1) if depth else ()


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    (folder,) = unit.paths
    if (transforms := folder / TRANSFORMS).exists():
        contents, found_by = read_folder_transforms(transforms).in_order(), _found_by(folder)
    else:
        contents, found_by = read_colmap(folder).in_order(), "COLMAP"
    if contents.intrinsics is None or contents.sizes is None:
        raise UserError(f"{contents.path} lacks intrinsics or the pictures' size")
    groups: dict[str, list[RawFrame]] = defaultdict(list)
    missing: dict[str, int] = defaultdict(int)
    for index, name in enumerate(contents.names):
        part = "_".join(Path(picture_name(name)).parent.parts)
        if picture := _picture(folder, name):
            groups[part].append(_frame(contents, index, picture, order=len(groups[part])))
        else:
            missing[part] += 1
    split: Split = "test" if "test" in unit.key.split("/")[:-1] else "train"
    for part in groups.keys() | missing.keys():
        frames = groups[part]
        scene = "_".join(filter(None, (*unit.key.split("/"), part)))
        dropped = {"no picture": missing[part]} if missing[part] else {}
        yield Recording(scene, unit.key, frames, split, dropped, steady(frames), found_by=found_by)


def _found_by(folder: Path) -> str:
    """What found the cameras of a folder with a transforms.json; empty where nothing tells."""
    ours = "gen3r" if (folder / "run.json").exists() else ""
    return str(read_json(folder / TRANSFORMS, nan=True).get(FOUND_BY, ours))


def _picture(folder: Path, name: str) -> Path | None:
    """The file of a picture: where its name leads from the capture's folder, or from its ``images``."""
    places = (inside(base, name) for base in (folder, folder / "images"))
    return next((place for place in places if is_image(place)), None)


def _frame(contents: CameraFile, index: int, picture: Path, order: int) -> RawFrame:
    assert contents.intrinsics is not None and contents.sizes is not None
    (fx, _, cx), (_, fy, cy), _ = contents.intrinsics[index].tolist()
    height, width = contents.sizes[index].tolist()
    where, lens = contents.c2w[index], contents.lens(index)
    return RawFrame(contents.names[index], order, picture, where, (fx, fy), (cx, cy), (height, width), lens)


DATA_SET = DataSet(
    name="capture",
    title="captures of one's own",
    site="",
    licence="the owner's",
    scale="sfm",
    layout="<capture>/transforms.json, COLMAP projects or videos, at most three folders deep",
    find=find,
    read=read,
)
