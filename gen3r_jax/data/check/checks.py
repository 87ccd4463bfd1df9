"""Everything that one scene folder tells about itself."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from gen3r_jax.data.captions import read_captions
from gen3r_jax.data.check.pictures import Preview, draw_preview
from gen3r_jax.data.check.reprojection import FITTING, READINGS, Verdict, forward_share, judge
from gen3r_jax.data.depth import read_depth
from gen3r_jax.data.images import is_image, list_images, read_posed_image
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.camera_files.transforms import picture_name, read_scene_transforms
from gen3r_jax.geometry.cameras import LARGEST_SIDE, Cameras, pose_fault
from gen3r_jax.storage.files import read_json

JUMP = 10
"""A step so many times the scene's median step is a jump."""

AHEAD = 0.9
"""What :func:`forward_share` must be for a car."""


@dataclass(frozen=True)
class Finding:
    """reason: the same words wherever it is found. where: the scene, or the list. detail: what is special here."""

    level: Literal["error", "warning"]
    reason: str
    where: str
    detail: str = ""


@dataclass(frozen=True)
class Job:
    """What is to be looked at. id: of the scene, within its set.

    sampled: decode all files and test the depth. drawn: make a preview.
    """

    id: str
    folder: Path
    sampled: bool = False
    drawn: bool = False


@dataclass
class SceneResult:
    """What was found. group, split: as scene.json has them. first_frame: hash of the file, empty if there is none."""

    id: str
    frames: int = 0
    captions: int = 0
    group: str = ""
    split: str = ""
    first_frame: str = ""
    depth: Verdict | None = None
    preview: Preview | None = None
    findings: list[Finding] = field(default_factory=list)

    def error(self, reason: str, detail: str = "") -> None:
        self.findings.append(Finding("error", reason, self.id, detail))

    def warn(self, reason: str, detail: str = "") -> None:
        self.findings.append(Finding("warning", reason, self.id, detail))


def check_scene(job: Job) -> SceneResult:
    """Never raises for what is wrong with a scene: that is a finding."""
    result = SceneResult(job.id)
    try:
        _check(job, result)
    except OSError as error:
        result.error("a file cannot be read", f"{error.filename}: {error.strerror}")
    return result


def _check(job: Job, result: SceneResult) -> None:
    try:
        stated = read_scene_transforms(job.folder / "transforms.json")
    except UserError as error:
        result.error("transforms.json cannot be used", str(error))
        return
    contents = stated.in_order()
    names, sound = [picture_name(name) for name in contents.names], _check_cameras(contents, result)
    if (sizes := contents.sizes) is None or not np.isfinite(contents.c2w).all():
        return
    if not (abs(sizes - LARGEST_SIDE / 2) < LARGEST_SIDE / 2).all():
        return  # nothing can be compared with them
    cameras = contents.cameras()
    description = _read_description(job.folder, result)
    result.frames = len(names)
    try:
        result.captions = len(read_captions(job.folder / "captions.txt"))
    except UserError as error:
        result.error("captions.txt cannot be read", str(error))
    result.group, result.split = str(description.get("group", "")), str(description.get("split", ""))
    _check_steps(cameras, result)
    _check_order(stated, contents, description, result)
    whole = _check_files(job.folder, names, cameras, description, result)
    if description.get("looks_ahead"):
        _check_direction(cameras, result)
    if whole and job.sampled and _check_pixels(job.folder, names, cameras, result):
        if sound and len(names) > 1 and (job.folder / "depth").is_dir():
            _check_depth(job.folder, names, cameras, result)
        if job.drawn:
            result.preview = draw_preview(job.folder, names, cameras.c2w, description.get("scale") == "metric")


def _read_description(folder: Path, result: SceneResult) -> dict:
    if not (folder / "scene.json").exists():
        return {}  # a root in Gen3R's layout that we did not prepare
    try:
        return read_json(folder / "scene.json")
    except UserError as error:
        result.error("scene.json cannot be read", str(error))
        return {}


def _check_cameras(contents: CameraFile, result: SceneResult) -> bool:
    """Whether there is a camera behind every frame's numbers."""
    frames = range(len(contents))
    faults = {
        "poses are no rotations with translations": [pose_fault(pose) for pose in contents.c2w],
        "a lens is distorted": [contents.lens_fault(i) for i in frames],
        "a focal length, a principal point or a size cannot be meant": [contents.intrinsics_fault(i) for i in frames],
    }
    for reason, found in faults.items():
        if any(found):
            result.error(reason, _some([f"frame {i} {fault}" for i, fault in enumerate(found) if fault]))
    return not any(itertools.chain(*faults.values()))


def _check_steps(cameras: Cameras, result: SceneResult) -> None:
    steps = np.linalg.norm(np.diff(cameras.c2w[:, :3, 3], axis=0), axis=-1)
    median = np.median(steps) if len(steps) else 0.0
    if median > 0 and (jumps := np.flatnonzero(steps > JUMP * median)).size:
        largest = f"the largest {steps.max() / median:.0f} times, after frame {steps.argmax()}"
        result.warn(f"the camera jumps (above {JUMP} times its median step)", f"at {jumps.size} frames; {largest}")


def _check_order(stated: CameraFile, contents: CameraFile, description: dict, result: SceneResult) -> None:
    names = contents.names
    if later := [name for name, sorted_name in zip(stated.names, names, strict=True) if name != sorted_name]:
        result.error("frames are not in the order of their names", _some(later))
    if gaps := contents.gaps():
        result.warn("frames are missing between others, by their names", _some(gaps))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        result.error("a frame is listed twice", _some(twice))
    made = description.get("source_frames")
    if isinstance(made, list) and len(made) != len(names):
        result.error(
            "scene.json has another number of frames than transforms.json", f"{len(made)} instead of {len(names)}"
        )
    try:
        order = np.array(description.get("order", []), np.float64)
    except (TypeError, ValueError):
        result.error("scene.json cannot be read", "order is no list of numbers")
        return
    if (np.diff(order) <= 0).any():
        result.error("frames are not in the order of time", "scene.json: order")


def _check_files(folder: Path, names: list[str], cameras: Cameras, description: dict, result: SceneResult) -> bool:
    """Whether every picture, and every depth where there is depth, is a file."""
    images = folder / "images"
    if missing := [name for name in names if not is_image(images / name)]:
        result.error("pictures are missing", _some(missing))
        return False
    if unlisted := sorted({path.name for path in list_images(images)} - set(names)):
        result.warn("pictures that transforms.json does not list", _some(unlisted))
    files = [images / name for name in names]
    result.first_frame = hashlib.sha1(files[0].read_bytes()).hexdigest()
    _check_repetition(files, cameras, result)
    if description.get("depth") or (folder / "depth").is_dir():
        depths = {path.stem for path in (folder / "depth").glob("*.png")}
        if missing := [name for name in names if Path(name).stem not in depths]:
            result.error("depth is missing", _some(missing))
            return False
    return True


def _check_repetition(files: list[Path], cameras: Cameras, result: SceneResult) -> None:
    sizes = [file.stat().st_size for file in files]
    repeated = [
        i for i in range(1, len(files))
        if sizes[i] == sizes[i - 1] and files[i].read_bytes() == files[i - 1].read_bytes()
    ]  # fmt: skip
    moved = [i for i in repeated if not np.allclose(cameras.c2w[i], cameras.c2w[i - 1], rtol=0, atol=1e-6)]
    if 2 * len(moved) >= len(files):
        result.error("most pictures are the one before again while the camera moves", _frames(repeated))
    elif repeated:
        result.warn("a picture is the one before again", _frames(repeated))


def _check_direction(cameras: Cameras, result: SceneResult) -> None:
    share = forward_share(cameras.c2w)
    if share is None or share > AHEAD:
        return
    detail = f"median z / |d| is {share:.2f}, not above {AHEAD}"
    for reading in READINGS[1:]:
        if not reading.swapped and (forward_share(reading.poses(cameras.c2w)) or 0) > AHEAD:
            detail += f"; it is {reading.words}: {reading.mistake}"
            break
    result.warn("the camera does not look where the car drives: poses inverted, or other axes?", detail)


def _check_pixels(folder: Path, names: list[str], cameras: Cameras, result: SceneResult) -> bool:
    """Whether all pictures and depths can be decoded and have their size."""
    sound = True
    for name, size in zip(names, cameras.sizes.tolist(), strict=True):
        parts: dict[str, tuple[Path, Callable[[Path], np.ndarray]]]
        parts = {"picture": (folder / "images" / name, partial(read_posed_image, camera_size=size))}
        if (folder / "depth").is_dir():
            parts["depth"] = (folder / "depth" / f"{Path(name).stem}.png", read_depth)
        for part, (file, read) in parts.items():
            try:
                found = read(file).shape[:2]
            except UserError as error:
                result.error(f"a {part} cannot be decoded", str(error))
                return False
            if sound and found != tuple(size):
                result.error(
                    f"a {part} has another size than its camera",
                    f"{name}: {found[1]} x {found[0]}, not {size[1]} x {size[0]}",
                )
                sound = False
    return sound


def _check_depth(folder: Path, names: list[str], cameras: Cameras, result: SceneResult) -> None:
    files = [(folder / "depth" / f"{Path(name).stem}.png", folder / "images" / name) for name in names]
    sizes = cameras.sizes.tolist()
    verdict = judge(cameras, lambda i: (read_depth(files[i][0]), read_posed_image(files[i][1], sizes[i])))
    result.depth = verdict
    best = READINGS[verdict.best]
    if verdict.state == "wrong":
        detail = f"{verdict.times:.0f} times better; as they are, depth differs by {verdict.depth[0]:.1%}"
        result.error(f"{verdict.by} agree better {best.words}: {best.mistake}", detail)
    elif verdict.misfit:
        result.warn(
            f"depth of neighbouring frames does not agree (above {FITTING:.0%}): another unit than the poses'?",
            f"it differs by {verdict.depth[0]:.0%}",
        )


def _frames(numbers: list[int]) -> str:
    return _some([f"frame {number}" for number in numbers])


def _some(items: list[str]) -> str:
    return items[0] + (f" and {len(items) - 1} more" if len(items) > 1 else "")
