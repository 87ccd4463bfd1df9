"""Co3Dv2: turns around objects, with COLMAP's cameras and depth.

    <category>/{frame_annotations.jgz,sequence_annotations.jgz,set_lists/set_lists_<subset>.json}
    <category>/<sequence>/{images/*.jpg,depths/*.png,depth_masks/*.png}

Annotations are gzipped JSON; their paths start at the category. Viewpoints are PyTorch3D's: world to camera for row
vectors, in axes x left, y up, z forward, with a scale of each sequence's own. Frames that the challenge keeps secret
are black, but have annotations like all others.
"""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32

from gen3r_jax.data.depth import read_depth
from gen3r_jax.data.images import read_image
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit, successive
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import invert_se3, pose
from gen3r_jax.storage.files import inside, read_json

LEAST_QUALITY = 0.5
JUMP = 10
"""A step so many times the median is one that COLMAP got wrong."""

CHUNK = 1 << 16

LARGEST_ANNOTATION = 1 << 20
"""Characters; a frame's has about two thousand."""

MOST_UNPACKED, LEAST_BOUND = 100, 1 << 24
"""Annotations unpack to so many times the size of their file at most, or to so many characters; a tenfold is usual."""

_SEPARATORS = re.compile(r"[, \t\r\n]*")


class _Frame(NamedTuple):
    """What is kept of a frame's annotation: a category has more than a hundred thousand of them.

    number: in the order of time; file names count differently. image, depth, mask: paths that start at the category.
    camera: its pose, focal length and principal point; None where COLMAP found none.
    """

    number: int
    image: str
    size: tuple[int, int]
    camera: tuple[Float[np.ndarray, "4 4"], tuple[float, float], tuple[float, float]] | None
    depth: str | None
    mask: str | None
    depth_scale: float


def find(raw: Path) -> list[Unit]:
    """One unit for each category, whose annotations are one file: its folder."""
    return [Unit(file.parent.name, (file.parent,)) for file in sorted(raw.glob("*/frame_annotations.jgz"))]


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    (category,) = unit.paths
    sequences: dict[str, list[_Frame]] = {}
    try:
        quality = {
            sequence["sequence_name"]: sequence.get("viewpoint_quality_score") or 0.0
            for sequence in _annotations(category / "sequence_annotations.jgz")
        }
        for annotation in _annotations(category / "frame_annotations.jgz"):
            frames = sequences.setdefault(annotation["sequence_name"], [])
            if quality.get(annotation["sequence_name"], 0.0) > LEAST_QUALITY:
                frames.append(_parse(annotation))
        secret = _secret_frames(category)
    except UserError:
        raise
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"annotations of {category} are not those of Co3Dv2: {error!r}") from None
    for name in sorted(sequences):
        scene, frames = f"{unit.key}_{name}", sorted(sequences.pop(name), key=lambda frame: frame.number)
        if not frames:
            yield Recording(scene, scene, (), unfit=f"its viewpoint quality score is not above {LEAST_QUALITY}")
        elif _jumps(frames):
            yield Recording(scene, scene, (), unfit=f"its camera jumps by more than {JUMP} times its median step")
        else:
            try:
                yield _recording(scene, frames, category.parent, secret.get(name, set()), options)
            except UserError as error:
                yield Recording(scene, scene, (), damaged=str(error))


def _recording(
    scene: str, annotated: Sequence[_Frame], root: Path, secret: set[int], options: ReadOptions
) -> Recording:
    frames, dropped = [], Counter()
    for frame in annotated:
        image = inside(root, frame.image)
        if frame.camera is None:
            dropped["no camera"] += 1
        elif frame.number in secret:
            dropped["kept secret for the challenge"] += 1
        elif not image.exists():
            dropped["no picture"] += 1
        else:
            # A mask that was not downloaded leaves no way to tell which depths are good.
            parts = [inside(root, part) for part in (frame.depth, frame.mask) if part]
            known = options.depth and frame.depth and all(part.exists() for part in parts)
            depth = partial(_read_depth, frame.depth_scale, *parts) if known else None
            read_picture = partial(_read_picture, image)
            frames.append(RawFrame(image.name, frame.number, read_picture, *frame.camera, frame.size, depth=depth))
    return Recording(scene, scene, frames, dropped=dropped, continues=successive)


def _skip_separators(text: str, position: int) -> int:
    found = _SEPARATORS.match(text, position)
    return found.end() if found else position


def _annotations(path: Path) -> Iterator[dict]:
    """The objects of a gzipped JSON list, one at a time: the whole list would take gigabytes.

    Raises UserError for a file that is no such list or damaged, has an object above 1 MiB, or unpacks to above a
    hundred times its size.
    """
    decode = json.JSONDecoder().raw_decode
    try:
        bound = max(LEAST_BOUND, MOST_UNPACKED * path.stat().st_size)
        with gzip.open(path, "rt", encoding="utf-8") as file:
            text, unpacked = file.read(CHUNK).lstrip().removeprefix("["), 0
            position = _skip_separators(text, 0)
            while not text.startswith("]", position):
                try:
                    annotation, end = decode(text, position)
                except json.JSONDecodeError:  # it goes on in the next chunk
                    more = file.read(CHUNK)
                    unpacked += len(more)
                    if not more:
                        raise UserError(f"{path} is cut short or damaged") from None
                    if unpacked > bound:
                        raise UserError(
                            f"{path} unpacks to above {bound >> 20} MiB; annotations do not, so it is damaged"
                        ) from None
                    if len(text) - position > LARGEST_ANNOTATION:
                        largest = LARGEST_ANNOTATION >> 20
                        raise UserError(f"{path} has an entry above {largest} MiB, so it is damaged") from None
                    text, position = text[position:] + more, 0
                    position = _skip_separators(text, 0)
                    continue
                position = _skip_separators(text, end)
                yield annotation
    except RecursionError:
        raise UserError(f"{path} has lists or objects inside of one another without end") from None
    except (EOFError, OSError, UnicodeDecodeError, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}") from None


def _parse(annotation: dict) -> _Frame:
    image, depth, viewpoint = annotation["image"], annotation.get("depth") or {}, annotation.get("viewpoint")
    height, width = image["size"]
    return _Frame(
        int(annotation["frame_number"]),
        image["path"],
        (height, width),
        _camera(viewpoint, height, width) if viewpoint else None,
        depth.get("path"),
        depth.get("mask_path"),
        float(depth.get("scale_adjustment", 1.0)),
    )


def _camera(viewpoint: dict, height: int, width: int) -> tuple[np.ndarray, tuple[float, float], tuple[float, float]]:
    """Pose, focal length and principal point in OpenCV's terms.

    PyTorch3D's intrinsics count from the middle of the picture to the left and up, in units of half its shorter side,
    or, in the older format that a missing name means, of half of each side.
    """
    flip = np.array([-1.0, -1.0, 1.0])
    rotation, translation = (np.array(viewpoint[key], np.float64) for key in ("R", "T"))
    focal, principal = (np.array(viewpoint[key], np.float64).tolist() for key in ("focal_length", "principal_point"))
    match viewpoint.get("intrinsics_format", "ndc_norm_image_bounds"):
        case "ndc_isotropic":
            x = y = min(height, width) / 2
        case "ndc_norm_image_bounds":
            x, y = width / 2, height / 2
        case other:
            raise ValueError(f"intrinsics_format {other!r}")
    c2w = invert_se3(pose((rotation * flip).T, translation * flip))
    return c2w, (focal[0] * x, focal[1] * y), (width / 2 - principal[0] * x, height / 2 - principal[1] * y)


def _secret_frames(category: Path) -> dict[str, set[int]]:
    """Numbers of the black frames of each sequence: what the challenge's development and test subsets ask for."""
    secret: dict[str, set[int]] = {}
    for subset in ("dev", "test"):
        for file in sorted((category / "set_lists").glob(f"set_lists_*_{subset}*.json")):
            for sequence, number, *_ in read_json(file, nan=True)["test"]:
                secret.setdefault(sequence, set()).add(number)
    return secret


def _jumps(frames: Sequence[_Frame]) -> bool:
    posed = [(frame.camera[0][:3, 3], frame.number) for frame in frames if frame.camera]
    posed = [(centre, number) for centre, number in posed if np.isfinite(centre).all()]
    if len(posed) < 3:
        return False
    centres, numbers = map(np.array, zip(*posed, strict=True))
    steps = np.linalg.norm(np.diff(centres, axis=0), axis=1) / np.maximum(np.diff(numbers), 1)
    return bool(steps.max() > JUMP * np.median(steps))


def _read_picture(path: Path) -> bytes:
    encoded = path.read_bytes()
    small = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_REDUCED_GRAYSCALE_8) if encoded else None
    if small is not None and not small.any():
        raise UserError("the picture is black: kept secret for the challenge")
    return encoded


def _read_depth(scale: float, path: Path, mask: Path | None = None) -> Float32[np.ndarray, "h w"]:
    depth = read_depth(path) * scale
    if mask is None:
        return depth
    known = read_image(mask).any(-1)
    if known.shape != depth.shape:
        raise UserError(f"{path} and {mask} differ in size")
    return np.where(known, depth, 0)


DATA_SET = DataSet(
    name="co3d",
    title="Co3Dv2",
    site="https://ai.meta.com/datasets/co3d-downloads/",
    licence="CC BY-NC 4.0",
    scale="sfm",
    layout="<category>/frame_annotations.jgz",
    find=find,
    read=read,
    min_frames=25,
    evaluation_scenes=300,
)
