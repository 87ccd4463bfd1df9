"""transforms.json: cameras as nerfstudio and Gen3R's training data have them.

Both look alike; the training data's ``transform_matrix`` is camera-to-world in OpenCV axes (x right, y down,
z forward), nerfstudio's in OpenGL axes. A word of this project tells them apart: ``camera_convention``.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import LENS_TERMS, CameraFile, pinhole, to_numbers, to_poses
from gen3r_jax.geometry.cameras import OPENGL_AXES, Cameras
from gen3r_jax.storage.files import read_json, write_json

OPENCV, OPENGL = "opencv_c2w", "opengl_c2w"
INTRINSIC_KEYS = ("w", "h", "fl_x", "fl_y", "cx", "cy")

_ANGLES = ("camera_angle_x", "camera_angle_y")
_PINHOLES = ("OPENCV", "FULL_OPENCV", "PINHOLE", "SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
# What nerfstudio and its kin write, and Gen3R's training data do not have.
_OF_NERFSTUDIO = (
    "applied_transform", "applied_scale", "orientation_override", "camera_model", "aabb_scale", "ply_file_path",
    "camera_angle_x", "colmap_im_id",
)  # fmt: skip


def read_transforms(path: Path) -> tuple[list[str], Cameras]:
    """Read the ``transforms.json`` of a training scene: the pictures' names below ``images/``, and their cameras.

    Frames come in the order of their names. The axes are those that the file declares; where it declares none, OpenCV's
    as in Gen3R's training data, unless other keys say that the file is nerfstudio's. Raises UserError that names what
    is wrong: such a file, a distorted lens, a matrix that is no pose.
    """
    contents = read_scene_transforms(path).in_order()
    contents.require_sound()
    return [picture_name(name) for name in contents.names], contents.cameras()


def read_scene_transforms(path: Path) -> CameraFile:
    """Read what :func:`read_transforms` does, in the order of the file and without judging the numbers."""
    document = _document(path)
    if marks := _marks_of_nerfstudio(path, document):
        raise UserError(
            f"{path} has nerfstudio's {marks[0]} but does not say its axes; add "
            f'"camera_convention": "{OPENGL}" (nerfstudio\'s: y up, z backward) or "{OPENCV}" (y down, z forward)'
        )
    return _contents(path, document, opengl=_declared(path, document) == OPENGL)


def read_folder_transforms(path: Path) -> CameraFile:
    """Read the ``transforms.json`` of a nerfstudio folder or of a scene, in the order of the file and without judging
    the numbers.

    Where the file declares no axes they are OpenGL's if other keys say that it is nerfstudio's, else OpenCV's.
    """
    document = _document(path)
    opengl = bool(_marks_of_nerfstudio(path, document)) or _declared(path, document) == OPENGL
    return _contents(path, document, opengl)


def _marks_of_nerfstudio(path: Path, document: dict[str, Any]) -> list[str]:
    """The keys that say that a file is nerfstudio's, where it does not declare its axes."""
    if _declared(path, document) is not None:
        return []
    return [key for key in _OF_NERFSTUDIO if key in document or key in document["frames"][0]]


def read_capture(path: Path, opengl: bool | None) -> CameraFile:
    """Read a ``transforms.json`` of any origin, in the order of the file and without judging the numbers.

    Args:
      opengl: whether the user says that its axes are OpenGL's; None leaves it to the file.

    Raises:
      UserError: axes that nobody told or told otherwise; a file that is damaged.
    """
    document = _document(path)
    if opengl is None:
        declared = _declared(path, document)
        if declared is None:
            raise UserError(
                f"{path} does not say its axes: add --camera_format nerfstudio (OpenGL axes) or opencv-transforms"
            )
        opengl = declared == OPENGL
    elif document.get("camera_convention") == (OPENCV if opengl else OPENGL):
        raise UserError(f"{path} says that its axes are {document['camera_convention']}; leave --camera_format away")
    return _contents(path, document, opengl)


def write_transforms(
    path: Path, names: Sequence[str], cameras: Cameras, convention: str = OPENCV, **others: Any
) -> None:
    """Write a ``transforms.json`` that :func:`read_transforms` reads back exactly, and Gen3R's own loader where the
    convention is OpenCV's.

    Args:
      names: of the pictures below ``images/``.
      others: further entries of the file.
    """
    axes = OPENGL_AXES if convention == OPENGL else np.eye(4)
    frames = []
    for name, c2w, matrix, (height, width) in zip(names, cameras.c2w, cameras.intrinsics, cameras.sizes, strict=True):
        numbers = (width, height, matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2])
        intrinsics = dict(zip(INTRINSIC_KEYS, (number.item() for number in numbers), strict=True))
        frames.append({"file_path": f"images/{name}", **intrinsics, "transform_matrix": (c2w @ axes).tolist()})
    write_json(path, {"camera_convention": convention, **others, "frames": frames}, indent=None)


def picture_name(file_path: str) -> str:
    """Where a frame's picture is below ``images/``: what follows that folder in `file_path`, else its bare name."""
    *folders, name = file_path.split("/")
    below = len(folders) - folders[::-1].index("images") if "images" in folders else len(folders)
    return "/".join([*folders[below:], name])


def _document(path: Path) -> dict[str, Any]:
    """The file's content, in which `frames` is a list of objects that is not empty."""
    document = read_json(path, nan=True)  # numbers that are not finite are named with their camera
    frames = document.get("frames")
    if not isinstance(frames, list) or not frames:
        raise UserError(f"{path} lists no frames: it needs `frames`, a list that is not empty")
    document["frames"] = [frame if isinstance(frame, dict) else {} for frame in frames]
    return document


def _declared(path: Path, document: dict[str, Any]) -> str | None:
    declared = document.get("camera_convention")
    if declared is not None and declared not in (OPENCV, OPENGL):
        raise UserError(f"{path} says camera_convention {str(declared)[:40]!r}; known are {OPENCV} and {OPENGL}")
    return declared


def _contents(path: Path, document: dict[str, Any], opengl: bool) -> CameraFile:
    """Intrinsics and lens terms stand in each frame or, for all frames, at the top."""
    kept = (*INTRINSIC_KEYS, *LENS_TERMS, *_ANGLES, "camera_model", "is_fisheye")
    shared = {key: document[key] for key in kept if key in document}
    names, poses, numbers, lenses = [], [], [], []
    for index, frame in enumerate(document["frames"]):
        frame = _with_angles(shared | frame, path)
        if missing := [key for key in (*INTRINSIC_KEYS, "file_path", "transform_matrix") if key not in frame]:
            raise UserError(f"{path}: frame {index} lacks {', '.join(missing)}")
        model = str(frame.get("camera_model", "OPENCV")).upper()
        if model not in _PINHOLES or frame.get("is_fisheye"):
            kind = "fisheye" if model in _PINHOLES else model[:40]
            raise UserError(f"{path}: its camera is no pinhole ({kind}); undistort the pictures first")
        names.append(str(frame["file_path"]).replace("\\", "/").removeprefix("./"))
        poses.append(_pose(frame["transform_matrix"], f"{path}: frame {index}"))
        numbers.append(to_numbers([frame[key] for key in INTRINSIC_KEYS]))
        lenses.append(to_numbers([frame.get(key) or 0 for key in LENS_TERMS]))
        for what, values, keys in (("intrinsics", numbers[-1], INTRINSIC_KEYS), ("lens terms", lenses[-1], LENS_TERMS)):
            if values is None or values.shape != (len(keys),):
                raise UserError(f"{path}: frame {index} has {what} that are not numbers")
    w, h, *pinholes = np.array(numbers).T
    return CameraFile(
        path,
        np.stack(poses) @ (OPENGL_AXES if opengl else np.eye(4)),
        tuple(names),
        intrinsics=np.stack([pinhole(*values) for values in zip(*pinholes, strict=True)]),
        sizes=np.stack([h, w], axis=-1),
        lenses=tuple(_trimmed(terms.tolist()) for terms in lenses),
    )


def _with_angles(frame: dict[str, Any], path: Path) -> dict[str, Any]:
    """A frame of NeRF's form, which says ``camera_angle_x`` in radians, with the intrinsics that follow from it.

    What the frame says itself stays. Where it does not say its size, its picture beside the file tells.
    """
    angle_x = to_numbers(frame.get("camera_angle_x"))
    if angle_x is None or angle_x.shape or not 0 < angle_x < math.pi:
        return frame
    size = {} if {"w", "h"} <= frame.keys() else _size_of_picture(path.parent / str(frame.get("file_path")))
    sides = to_numbers([(size | frame).get(side) for side in ("w", "h")])
    if sides is None or not np.isfinite(sides).all():
        return frame
    (w, h), angle_y = sides.tolist(), to_numbers(frame.get("camera_angle_y"))
    derived = {"fl_x": w / 2 / math.tan(angle_x / 2), "cx": w / 2, "cy": h / 2}
    derived["fl_y"] = frame.get("fl_x", derived["fl_x"])
    if angle_y is not None and not angle_y.shape and 0 < angle_y < math.pi:
        derived["fl_y"] = h / 2 / math.tan(angle_y / 2)
    return {**size, **derived, **frame}


def _size_of_picture(path: Path) -> dict[str, int]:
    """w and h of a picture, whose name may lack ``.png``; nothing where there is none that can be read."""
    for file in (path, path.with_name(f"{path.name}.png")):
        if file.is_file():
            with suppress(Exception), Image.open(file) as picture:  # damaged files make Pillow raise nearly anything
                return {"w": picture.width, "h": picture.height}
    return {}


def _pose(matrix: Any, where: str) -> Float[np.ndarray, "4 4"]:
    poses = to_poses([matrix])
    if poses is None:
        numbers = to_numbers(matrix)
        hint = ": it is transposed" if numbers is not None and numbers.shape == (4, 3) else ""
        raise UserError(f"{where} has a transform_matrix that is not 4 x 4 numbers{hint}")
    return poses[0]


def _trimmed(terms: list[float]) -> tuple[float, ...]:
    """As many terms as OpenCV needs: none, 4, 5 or 8."""
    count = next(count for count in (0, 4, 5, 8) if not any(terms[count:]))
    return tuple(terms[:count])
