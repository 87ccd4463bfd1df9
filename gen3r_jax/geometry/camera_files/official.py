"""cameras.json: Gen3R's file for given and for found cameras.

``{"extrinsics": t x 4x4 world-to-camera in OpenCV axes, "intrinsics": t x 3x3 in pixels}``. Files written here also
say ``"width"``, ``"height"`` (the image the intrinsics belong to) and ``"convention": "opencv_w2c"``; other keys are
ignored.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import read_json, write_json

CONVENTION = "opencv_w2c"


class Cameras(NamedTuple):
    """Cameras of a clip; `image_size` is (height, width), None where the file does not say it."""

    w2c: Float[np.ndarray, "t 4 4"]
    intrinsics: Float[np.ndarray, "t 3 3"]
    image_size: tuple[int, int] | None


def write_cameras(
    path: Path | str,
    w2c: Float[np.ndarray, "t 4 4"],
    intrinsics: Float[np.ndarray, "t 3 3"],
    image_size: tuple[int, int],
) -> None:
    """Writes cameras of images of `image_size` (height, width)."""
    document = {
        "convention": CONVENTION,
        "width": image_size[1],
        "height": image_size[0],
        "extrinsics": np.asarray(w2c).tolist(),
        "intrinsics": np.asarray(intrinsics).tolist(),
    }
    write_json(path, document)


def read_cameras(path: Path | str) -> Cameras:
    """Reads a file of this project or of the official one, in float64.

    Raises:
      UserError: not such a file, matrices of the wrong shape, another convention than ``opencv_w2c``.
    """
    document = read_json(path, nan=True)
    try:
        w2c = np.array(document["extrinsics"], np.float64)
        intrinsics = np.array(document["intrinsics"], np.float64)
    except (ValueError, KeyError, TypeError):
        raise UserError(
            f'{path} is no camera file; needed is JSON with "extrinsics" (4x4, world to camera) and "intrinsics" (3x3)'
        ) from None
    t = len(w2c) if w2c.ndim else 0
    if t == 0 or w2c.shape != (t, 4, 4) or intrinsics.shape != (t, 3, 3):
        raise UserError(
            f"{path} holds extrinsics {list(w2c.shape)} and intrinsics {list(intrinsics.shape)}; "
            "needed are as many 4x4 as 3x3 matrices"
        )
    if document.get("convention", CONVENTION) != CONVENTION:
        raise UserError(f"{path} says convention {document['convention']!r}; only {CONVENTION!r} can be read")
    size = tuple(document[side] for side in ("height", "width") if side in document)
    if not all(isinstance(side, int | float) for side in size):
        raise UserError(f"{path}: width and height must be numbers")
    return Cameras(w2c, intrinsics, size if len(size) == 2 else None)
