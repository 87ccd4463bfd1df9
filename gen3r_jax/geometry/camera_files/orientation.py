"""Cameras of pictures and videos that are shown turned: poses that were found on stored pixels are turned, too."""

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

from gen3r_jax.errors import UserError, notice
from gen3r_jax.geometry.camera_files.contents import CameraFile
from gen3r_jax.geometry.cameras import Size, quarter_turn

UPRIGHT, CLOCKWISE, COUNTERCLOCKWISE = 1, 6, 8
QUARTERS = (5, 6, 7, 8)
"""EXIF's tags of pictures that are turned by a quarter to be shown; 5 and 7 are mirrored, too."""

ASPECT_TOLERANCE = 0.02
"""Sizes of the same picture differ by less in the logarithm of their aspect."""


class StoredPicture(NamedTuple):
    """A picture or video as its file stores it.

    size: height and width of the stored pixels. tag: how they are turned to be shown, as EXIF's orientation.
    """

    name: str
    size: Size
    tag: int

    def as_shown(self, camera_size: Sequence[float]) -> bool | None:
        """Whether a camera for pictures of `camera_size` (height, width) is for this one as it is shown.

        Only quarter turns of pictures that are not square can be told from their sizes: None where they cannot.
        """
        (height, width), aspect = self.size, math.log(camera_size[0] / camera_size[1])
        stored, shown = (abs(aspect - math.log(of)) <= ASPECT_TOLERANCE for of in (height / width, width / height))
        return shown if self.tag in QUARTERS and stored != shown else None


def stored_as(name: str, shown: Size, tag: int) -> StoredPicture:
    """What is shown with the height and width `shown`, as its file stores it."""
    return StoredPicture(name, (shown[1], shown[0]) if tag in QUARTERS else shown, tag)


def turned_with(picture: StoredPicture, contents: CameraFile) -> CameraFile:
    """The cameras of the picture as it is shown.

    They are turned by a quarter where their file's image size is that of the stored pixels, and not that of the shown
    ones. Where it cannot be seen what they are for, they stay, with a notice. Raises UserError where the picture is
    mirrored, too.
    """
    if picture.tag == UPRIGHT:
        return contents
    as_shown = None if contents.sizes is None else picture.as_shown(contents.sizes[0].tolist())
    if as_shown is None:
        notice(
            f"{picture.name} is not shown as it is stored (EXIF tag or display matrix), and {contents.path} does not "
            "show which of both its cameras are for; they are taken as for the shown one"
        )
    if as_shown in (None, True):
        return contents
    if picture.tag not in (CLOCKWISE, COUNTERCLOCKWISE):
        raise UserError(
            f"{picture.name} is shown turned and mirrored (EXIF tag or display matrix), the cameras of {contents.path} "
            "are for its stored pixels; save it as it is stored, without that mark"
        )
    notice(f"{contents.path}: its cameras are for {picture.name} as stored; they are turned with it")
    cameras = quarter_turn(contents.cameras(), clockwise=picture.tag == CLOCKWISE)
    return dataclasses.replace(
        contents, c2w=cameras.c2w, intrinsics=cameras.intrinsics, sizes=cameras.sizes.astype(float)
    )
