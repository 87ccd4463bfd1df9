"""DL3DV-10K: walks through places of all kinds, about 300 frames of a video each, in nerfstudio's format.

    <batch>/<hash>/{transforms.json,images_4/frame_00001.png}       as the site's script unpacks it (1K to 11K)
    <hash>/nerfstudio/{transforms.json,images_4/frame_00001.png}    the benchmark

``transforms.json`` names pictures ``images/...`` and gives intrinsics of the video, whatever size was downloaded, and
poses with OpenGL axes in a unit of the scene's own. The lens is distorted. Not all pictures have a pose.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from gen3r_jax.data.images import list_images
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.transforms import read_capture

PICTURES = ("images_4", "images_2", "images", "images_8")
"""Folders with pictures, the best first. 960 x 540 is what a clip of 560 pixels needs; more takes longer to read and
gives the same, 480 x 270 is little."""

LONGEST_STEP = 2
"""Frames numbered farther apart have a gap between them."""


def find(raw: Path) -> list[Unit]:
    """One unit for each scene, in whatever batch: its folder."""
    return [Unit(folder.name, (folder,)) for folder in _scenes(raw, 2)]


def _scenes(folder: Path, depth: int) -> Iterator[Path]:
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if re.fullmatch("[0-9a-f]{64}", inner.name):
            yield inner
        elif depth:
            yield from _scenes(inner, depth - 1)


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    (folder,) = unit.paths
    batch = folder.absolute().parent.name
    scene = f"{batch}_{folder.name}" if re.fullmatch(r"\d+K", batch) else folder.name
    content = folder / "nerfstudio" if (folder / "nerfstudio").is_dir() else folder
    pictures = next((path for name in PICTURES if (path := content / name).is_dir()), None)
    unfit = {
        "of the batch of problems": batch == "problem",
        "no transforms.json": not (content / "transforms.json").exists(),
        f"no pictures ({', '.join(PICTURES)})": pictures is None,
    }
    reason = next((reason for reason, holds in unfit.items() if holds), "")
    if reason or pictures is None:
        yield Recording(scene, folder.name, (), unfit=reason)
        return
    frames, dropped = _read_frames(content / "transforms.json", pictures)
    yield Recording(scene, folder.name, frames, dropped=dropped, continues=_continues)


def _read_frames(transforms: Path, pictures: Path) -> tuple[list[RawFrame], Counter[str]]:
    """The frames with a picture and a pose, and how many lack one of them."""
    contents = read_capture(transforms, opengl=True)
    if contents.intrinsics is None or contents.sizes is None:
        raise UserError(f"{transforms} is not that of a DL3DV scene: it lacks intrinsics or sizes")
    without_pose, without_picture, frames = {image.name: image for image in list_images(pictures)}, 0, []
    for index, name in enumerate(contents.names):
        image = without_pose.pop(Path(name).name, None)
        if image is None:
            without_picture += 1
            continue
        if (number := re.search(r"\d+", image.stem)) is None:
            raise UserError(f"{transforms} is not that of a DL3DV scene: {image.name} has no number")
        (fx, _, cx), (_, fy, cy), _ = contents.intrinsics[index].tolist()
        (height, width), lens = contents.sizes[index].tolist(), contents.lens(index)
        c2w = contents.c2w[index]
        frames.append(RawFrame(image.name, int(number[0]), image, c2w, (fx, fy), (cx, cy), (height, width), lens))
    dropped = Counter({"no picture": without_picture, "no pose": len(without_pose)})
    return frames, +dropped


def _continues(before: RawFrame, after: RawFrame) -> bool:
    return after.order - before.order <= LONGEST_STEP


DATA_SET = DataSet(
    name="dl3dv",
    title="DL3DV-10K",
    site="https://github.com/DL3DV-10K/Dataset",
    licence="DL3DV Terms of Use, CC BY-NC 4.0",
    scale="sfm",
    layout="<batch>/<hash of 64 digits>/ or <hash>/nerfstudio/, at most three folders deep",
    find=find,
    read=read,
    min_frames=25,
    evaluation_scenes=200,
)
