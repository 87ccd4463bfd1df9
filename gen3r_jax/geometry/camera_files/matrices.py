"""Poses as matrices of 4 x 4 or 3 x 4 numbers, in OpenCV axes: NumPy's files, text, and what networks save of theirs.

An ``.npz`` says by its keys whether its matrices map world to camera or back; of ``.npy`` and text the user says it.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError, one_line
from gen3r_jax.geometry.camera_files.contents import CameraFile, for_all, to_numbers, to_poses
from gen3r_jax.geometry.cameras import invert_se3, pose_fault
from gen3r_jax.storage.files import read_lines

# Key of an archive -> whether its matrices map world to camera. VGGT saves `extrinsic`, Depth Anything 3 `extrinsics`.
POSES = {"extrinsic": True, "extrinsics": True, "w2c": True, "c2w": False}
_INTRINSICS = ("intrinsic", "intrinsics", "K")
_MAPS = ("depth", "conf", "depth_conf")
"""Keys of maps ``t h w`` or ``t h w 1``, which tell the size of the pictures."""


def read_archive(path: Path) -> CameraFile:
    """Read an ``.npz`` with poses under a key of ``POSES``: of VGGT, of Depth Anything 3, or of anybody's.

    Intrinsics, in pixels, stand under `intrinsic`, `intrinsics` or `K`, one for each frame or one for all, or are
    missing. Of what size their pictures are say `height` and `width`, or maps of the depth.
    """
    arrays = _load(path, (*POSES, *_INTRINSICS, *_MAPS, "height", "width"))
    found = [key for key in POSES if key in arrays]
    if len(found) != 1:
        raise UserError(f"{path} holds {' and '.join(found) or 'no poses'}; needed is one of {', '.join(POSES)}")
    c2w = _as_c2w(path, arrays[found[0]], POSES[found[0]])
    intrinsics = next((arrays[key] for key in _INTRINSICS if key in arrays), None)
    if intrinsics is not None:
        intrinsics = for_all(intrinsics[0] if intrinsics.ndim == 4 and len(intrinsics) == 1 else intrinsics, len(c2w))
        if intrinsics is None:
            raise UserError(f"{path} needs intrinsics of 3 x 3 numbers, one for all or each of its {len(c2w)} poses")
    size = _picture_size(path, arrays)
    sizes = None if size is None else np.tile(size, (len(c2w), 1))
    return CameraFile(path, c2w, intrinsics=intrinsics, sizes=sizes)


def read_matrices(path: Path, w2c: bool) -> CameraFile:
    """Read an ``.npy`` file, or text with the numbers of a matrix in one line or in a line for each of its rows."""
    if path.suffix == ".npy":
        return CameraFile(path, _as_c2w(path, next(iter(_load(path).values())), w2c))
    rows = to_numbers([line.split() for line in read_lines(path) if not line.startswith("#")])
    if rows is None or rows.ndim != 2 or rows.shape[1] not in (4, 12, 16):
        raise UserError(f"{path}: each line needs the 12 or 16 numbers of a pose, or the 4 of one of its rows")
    height = rows.shape[1] // 4
    if height == 1:  # the last row of 4 x 4 matrices is 0 0 0 1
        height = 4 if len(rows) % 4 == 0 and (rows[3::4] == [0, 0, 0, 1]).all() else 3
    if rows.size % (4 * height):
        raise UserError(f"{path} has {len(rows)} rows of 4 numbers, which are no whole matrices")
    return CameraFile(path, _as_c2w(path, rows.reshape(-1, height, 4), w2c))


def _load(path: Path, keys: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """The arrays of these keys that a file has; of an ``.npy`` file its only one. Raises UserError."""
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            arrays = {path.stem: content}
        else:
            with content:
                arrays = {key: content[key] for key in keys if key in content}
    except Exception as error:  # zip files, zlib and NumPy each raise their own kinds
        raise UserError(f"cannot read the arrays of {path}: {one_line(error)}") from None
    for key, array in arrays.items():
        if array.dtype.kind not in "iuf":
            raise UserError(f"{path}: the array {key} is of type {array.dtype}; needed are integers or real numbers")
    return arrays


def _picture_size(path: Path, arrays: dict[str, np.ndarray]) -> Float[np.ndarray, "2"] | None:
    """Height and width that an archive tells, if it does."""
    if "height" in arrays and "width" in arrays:
        size = to_numbers([arrays["height"], arrays["width"]])
        if size is None or size.shape != (2,) or not np.isfinite(size).all():
            raise UserError(f"{path}: height and width must be numbers of pixels")
        return size
    for maps in (arrays[key] for key in _MAPS if key in arrays):
        if maps.ndim >= 3:
            return np.array(maps.shape[-3:-1] if maps.shape[-1] == 1 else maps.shape[-2:], np.float64)
    return None


def _as_c2w(path: Path, matrices: np.ndarray, w2c: bool) -> Float[np.ndarray, "t 4 4"]:
    """A batch axis of one sample and a single matrix are welcome; what is no pose is not inverted, so that it can be
    named."""
    while matrices.ndim > 3 and len(matrices) == 1:
        matrices = matrices[0]
    poses = to_poses(matrices[None] if matrices.ndim == 2 else matrices)
    if poses is None:
        raise UserError(f"{path} holds an array {list(matrices.shape)}; needed are poses [t, 4, 4] or [t, 3, 4]")
    for index, matrix in enumerate(poses if w2c else ()):
        poses[index] = matrix if pose_fault(matrix) else invert_se3(matrix)
    return poses
