"""Cameras and pictures that EXIF turns: poses that were found on stored pixels are turned with the picture."""

import dataclasses
import math
from typing import NamedTuple

from gen3r_jax.errors import UserError, notice
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.cameras import Size, quarter_turn

UPRIGHT, CLOCKWISE, COUNTERCLOCKWISE = 1, 6, 8
QUARTERS = (5, 6, 7, 8)
"""EXIF's tags of pictures that are turned by a quarter to be shown; 5 and 7 are mirrored, too."""

ASPECT_TOLERANCE = 0.02


class StoredPicture(NamedTuple):
    """A picture as its file stores it. size: height and width of the stored pixels. tag: EXIF's orientation."""

    name: str
    size: Size
    tag: int


def fits(size: tuple[float, float], other: tuple[float, float]) -> bool:
    """Whether two sizes (height, width) have the same aspect."""
    return abs(math.log(size[0] / size[1] * other[1] / other[0])) <= ASPECT_TOLERANCE


def turned_with(picture: StoredPicture, contents: CameraFile) -> CameraFile:
    """The cameras of the picture as it is shown.

    They are turned by a quarter where their file's image size is that of the stored pixels, and not that of the shown
    ones. Where it cannot be seen what they are for, they stay, with a notice. Raises UserError where the picture is
    mirrored, too.
    """
    if picture.tag == UPRIGHT:
        return contents
    (height, width), quarter = picture.size, picture.tag in QUARTERS
    of = None if contents.sizes is None else tuple(contents.sizes[0].tolist())
    stored, shown = (of is not None and fits(of, size) for size in (picture.size, (width, height)))
    if quarter and shown and not stored:
        return contents
    if not (quarter and stored and not shown):
        notice(
            f"{picture.name} is turned by its EXIF tag, and {contents.path} does not show whether its cameras are for "
            "the picture as stored or as shown; they are taken as for the shown one"
        )
        return contents
    if picture.tag not in (CLOCKWISE, COUNTERCLOCKWISE):
        raise UserError(
            f"{picture.name} is turned and mirrored by its EXIF tag, the cameras of {contents.path} are for its stored "
            "pixels; save the picture without the tag, as it is stored"
        )
    notice(f"{contents.path}: its cameras are for {picture.name} as stored; they are turned with it, as EXIF says")
    cameras = quarter_turn(contents.cameras(), clockwise=picture.tag == CLOCKWISE)
    return dataclasses.replace(
        contents, c2w=cameras.c2w, intrinsics=cameras.intrinsics, sizes=cameras.sizes.astype(float)
    )
