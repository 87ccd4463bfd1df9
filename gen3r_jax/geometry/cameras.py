"""Cameras: rotations, rigid motions, VGGT's pose encoding, rays and Plücker coordinates.

OpenCV axes throughout (x right, y down, z forward). `w2c` maps world to camera coordinates, `c2w` back. Intrinsics are
in pixels, with zero skew. Every function takes NumPy or JAX arrays and answers in kind: data workers stay clear of JAX.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from gen3r_jax.arrays import SameArray, namespace

Size = tuple[int, int]
"""Height and width in pixels."""


# c2w @ OPENGL_AXES: from OpenCV axes to OpenGL's (x right, y up, z backward), and back.
OPENGL_AXES = np.diag([1.0, -1.0, -1.0, 1.0])

# What cameras can be. Coordinates of maps (UTM, earth-centred metres) stay below the longest translation.
LONGEST_TRANSLATION = 1e7
FOCAL_LENGTHS = (0.01, 1000.0)  # in widths and heights of the picture
LARGEST_SIDE = 100_000  # pixels
RIGID = 1e-3  # how far a rotation times its transpose may be from the identity


@dataclass(frozen=True)
class Cameras:
    """The cameras of a scene, frame by frame.

    Attributes:
      c2w: camera-to-world matrices, OpenCV axes, in the unit of length of the data.
      intrinsics: pinhole matrices, in pixels from the corner of an image of `sizes`.
      sizes: height and width of each camera's image in pixels.
    """

    c2w: Float[np.ndarray, "t 4 4"]
    intrinsics: Float[np.ndarray, "t 3 3"]
    sizes: Int[np.ndarray, "t 2"]

    def __len__(self) -> int:
        return len(self.c2w)

    def take(self, indices: list[int] | Int[np.ndarray, " n"]) -> "Cameras":
        """Returns the cameras of these frames."""
        return Cameras(self.c2w[indices], self.intrinsics[indices], self.sizes[indices])


def quaternion_to_matrix(xyzw: Float[SameArray, "*b 4"]) -> Float[SameArray, "*b 3 3"]:
    """Rotation of a quaternion, scalar last. The quaternion need not have unit length (but must not be zero)."""
    xp = namespace(xyzw)
    x, y, z, w = (xyzw[..., i] for i in range(4))
    s = 2.0 / (xyzw * xyzw).sum(-1)
    entries = [
        1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w),
        s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w),
        s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y),
    ]  # fmt: skip
    return xp.stack(entries, -1).reshape(*xyzw.shape[:-1], 3, 3)


def pose(rotation: Float[np.ndarray, "3 3"], translation: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """[rotation | translation; 0 0 0 1]."""
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation, translation
    return result


def quaternion_pose(xyzw: Float[np.ndarray, "4"], translation: Float[np.ndarray, "3"]) -> Float[np.ndarray, "4 4"]:
    """The pose of a quaternion, scalar LAST; a quaternion of zeros gives one that is not finite."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return pose(quaternion_to_matrix(np.asarray(xyzw, np.float64)), translation)


def matrix_to_quaternion(rotation: Float[SameArray, "*b 3 3"]) -> Float[SameArray, "*b 4"]:
    """Unit quaternion of a rotation, scalar last, with w >= 0.

    Each component can be found from the diagonal and then gives the others by division; the largest is taken, so that
    half turns (w = 0) are as accurate as any other rotation.
    """
    xp = namespace(rotation)
    (a, b, c), (d, e, f), (g, h, i) = ([rotation[..., row, column] for column in range(3)] for row in range(3))
    squares = xp.stack([1 + a - e - i, 1 - a + e - i, 1 - a - e + i, 1 + a + e + i], -1)  # 4 x², 4 y², 4 z², 4 w²
    products = [  # 4 times the outer product of (x, y, z, w) with itself
        xp.stack([squares[..., 0], b + d, c + g, h - f], -1),
        xp.stack([b + d, squares[..., 1], f + h, c - g], -1),
        xp.stack([c + g, f + h, squares[..., 2], d - b], -1),
        xp.stack([h - f, c - g, d - b, squares[..., 3]], -1),
    ]
    # The component taken is at least 1/2; the floor keeps the gradients of the others finite.
    doubled = xp.sqrt(xp.maximum(squares, 0.01))
    candidates = xp.stack(products, -2) / (2 * doubled[..., None])
    best = squares.argmax(-1)[..., None, None]
    xyzw = xp.take_along_axis(candidates, best, axis=-2)[..., 0, :]
    return xp.where(xyzw[..., 3:] < 0, -xyzw, xyzw)


def pose_fault(transform: Float[np.ndarray, "4 4"], tolerance: float = RIGID) -> str:
    """Say what keeps a matrix from being a rotation with a translation that can be meant; empty where nothing does.

    The words follow the name of a camera: "is mirrored ...". Where a rotation is all that is wrong, by no more than
    `tolerance`, nothing is.
    """
    rotation, translation = transform[:3, :3], transform[:3, 3]
    if not np.isfinite(transform).all():
        return "has numbers that are not finite"
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        product = rotation @ rotation.T
        scale = np.sqrt(np.trace(product) / 3)
        if not np.abs(product - np.eye(3)).max() <= tolerance:
            if np.abs(product / scale**2 - np.eye(3)).max() <= tolerance:
                return f"is scaled by {scale:.4g}; divide its rotation by that"
            return "is no rotation with a translation"
    if np.linalg.det(rotation) < 0:
        return "is mirrored (its determinant is -1); turn its axes into right-handed ones"
    if np.abs(transform[3] - [0, 0, 0, 1]).max() > 1e-6:
        transposed = np.abs(translation).max() <= 1e-6
        return "is transposed: its last row is not 0 0 0 1" if transposed else "is no pose: its last row is not 0 0 0 1"
    if (farthest := np.abs(translation).max()) > LONGEST_TRANSLATION:
        return f"is {farthest:.3g} away from the origin; at most {LONGEST_TRANSLATION:.0e} can be meant"
    return ""


def intrinsics_fault(intrinsics: Float[np.ndarray, "3 3"], size: Sequence[float]) -> str:
    """Say what keeps intrinsics from being a pinhole's of a picture of `size` (height, width), like `pose_fault`."""
    height, width = size
    focal = intrinsics[[1, 0], [1, 0]]
    if not np.isfinite(intrinsics).all() or (focal <= 0).any():
        return "needs finite intrinsics with positive focal lengths"
    if np.abs(intrinsics[[0, 1, 2, 2, 2], [1, 0, 0, 1, 2]] - [0, 0, 0, 0, 1]).max() > 1e-6:
        return "needs intrinsics [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], without skew"
    if not (1 <= height <= LARGEST_SIDE and 1 <= width <= LARGEST_SIDE):
        return f"needs an image size of positive numbers up to {LARGEST_SIDE}, not {width:g} x {height:g}"
    low, high = FOCAL_LENGTHS
    if (focal < np.multiply(low, size)).any() or (focal > np.multiply(high, size)).any():
        given = f"{focal[1]:.4g} and {focal[0]:.4g} for {width:g} x {height:g} pixels"
        return f"has focal lengths of {given}; {low:g} to {high:g} times the picture's sides can be meant"
    return ""


def nearest_rotation(matrix: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The rotation that differs least from a matrix that is nearly one."""
    u, _, vt = np.linalg.svd(matrix)
    return u @ vt


def quarter_turn(cameras: Cameras, clockwise: bool) -> Cameras:
    """Turn cameras about their axes as their pictures are turned, so that a point stays on its pixel."""
    height, width = cameras.sizes.T
    (fx, fy), (cx, cy) = cameras.intrinsics[:, [0, 1], [0, 1]].T, cameras.intrinsics[:, :2, 2].T
    intrinsics = cameras.intrinsics.copy()
    intrinsics[:, 0, 0], intrinsics[:, 1, 1] = fy, fx
    intrinsics[:, 0, 2], intrinsics[:, 1, 2] = (height - cy, cx) if clockwise else (cy, width - cx)
    # The new axes in terms of the old: clockwise, what was up is right, and what was right is down.
    turn = np.array([[0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    return Cameras(cameras.c2w @ (turn if clockwise else turn.T), intrinsics, cameras.sizes[:, ::-1])


def encode_pose(
    w2c: Float[SameArray, "*b r 4"], intrinsics: Float[SameArray, "*b 3 3"], image_size: tuple[int, int]
) -> Float[SameArray, "*b 9"]:
    """VGGT's camera encoding: translation (3), quaternion xyzw (4), vertical and horizontal field of view in radians.

    `image_size` is (height, width) in pixels. The principal point is not encoded.
    """
    xp = namespace(w2c)
    height, width = image_size
    fov_h = 2 * xp.arctan(height / 2 / intrinsics[..., 1, 1])
    fov_w = 2 * xp.arctan(width / 2 / intrinsics[..., 0, 0])
    quaternion = matrix_to_quaternion(w2c[..., :3, :3])
    return xp.concatenate([w2c[..., :3, 3], quaternion, fov_h[..., None], fov_w[..., None]], -1)


def decode_pose(
    pose_enc: Float[SameArray, "*b 9"], image_size: tuple[int, int]
) -> tuple[Float[SameArray, "*b 3 4"], Float[SameArray, "*b 3 3"]]:
    """Inverse of :func:`encode_pose`: `w2c` and intrinsics with the principal point in the middle of the image."""
    xp = namespace(pose_enc)
    height, width = image_size
    w2c = xp.concatenate([quaternion_to_matrix(pose_enc[..., 3:7]), pose_enc[..., :3, None]], -1)
    # An untrained head may see nothing at all: its focal lengths stay finite.
    fov = xp.maximum(pose_enc[..., 7:], 1e-3)
    fy, fx = height / 2 / xp.tan(fov[..., 0] / 2), width / 2 / xp.tan(fov[..., 1] / 2)
    zero, one = xp.zeros_like(fx), xp.ones_like(fx)
    entries = [fx, zero, width / 2 * one, zero, fy, height / 2 * one, zero, zero, one]
    return w2c, xp.stack(entries, -1).reshape(*fx.shape, 3, 3)


def invert_se3(transform: Float[SameArray, "*b r 4"]) -> Float[SameArray, "*b 4 4"]:
    """Inverse of rigid motions given as 3x4 or 4x4 matrices (the rotation is transposed, not inverted)."""
    xp = namespace(transform)
    rotation = xp.swapaxes(transform[..., :3, :3], -1, -2)
    return homogeneous(xp.concatenate([rotation, -_product(rotation, transform[..., :3, 3:])], -1))


def homogeneous(transform: Float[SameArray, "*b 3 4"]) -> Float[SameArray, "*b 4 4"]:
    """3x4 matrices with the last row (0, 0, 0, 1)."""
    xp = namespace(transform)
    bottom = xp.broadcast_to(xp.asarray([0, 0, 0, 1], dtype=transform.dtype), (*transform.shape[:-2], 1, 4))
    return xp.concatenate([transform, bottom], -2)


def cover_size(size: Size, target: Size) -> Size:
    """Size of an image of `size` once it is scaled, aspect kept, to just cover `target`."""
    ratio = max(target[0] / size[0], target[1] / size[1])
    return round(size[0] * ratio), round(size[1] * ratio)


def inner_size(size: Size, target: Size) -> Size:
    """Size of an image of `size` once it is scaled, aspect kept, to just fit inside of `target`."""
    ratio = min(target[0] / size[0], target[1] / size[1])
    return max(round(size[0] * ratio), 1), max(round(size[1] * ratio), 1)


def offset(size: Size, target: Size) -> tuple[int, int]:
    """Row and column of an image of `size` where one of `target` begins that has the same middle; below 0 outside."""
    return (size[0] - target[0]) // 2, (size[1] - target[1]) // 2


def crop_intrinsics(
    intrinsics: Float[np.ndarray, "*b 3 3"], size: Size, target: Size, *, truncate: bool = False, pad: bool = False
) -> Float[np.ndarray, "*b 3 3"]:
    """Pixel intrinsics of an image of `size` (height, width) after :func:`resize_crop` to `target`.

    With `pad` they are those after :func:`resize_pad` instead.

    The axes are scaled by the ratio of the whole pixel sizes, and the crop's offset is that of the image, so that a
    projected point stays on its pixel. `truncate=True` is the official loader instead: one ratio for both axes, and
    the resized size truncated where the image's is rounded, which shifts the principal point by up to a pixel.
    """
    if truncate:
        ratio = max(target[0] / size[0], target[1] / size[1])
        scale_x = scale_y = ratio
        resized = (int(size[0] * ratio), int(size[1] * ratio))
    else:
        resized = inner_size(size, target) if pad else cover_size(size, target)
        scale_x, scale_y = resized[1] / size[1], resized[0] / size[0]
    result = np.array(intrinsics, np.float64)
    result[..., 0, :] *= scale_x
    result[..., 1, :] *= scale_y
    top, left = offset(resized, target)
    result[..., 0, 2] -= left
    result[..., 1, 2] -= top
    return result


def uncrop_intrinsics(
    intrinsics: Float[np.ndarray, "*b 3 3"], size: Size, target: Size, *, pad: bool = False
) -> Float[np.ndarray, "*b 3 3"]:
    """The inverse of :func:`crop_intrinsics`: those of the image of `size` from those of `target`."""
    resized = inner_size(size, target) if pad else cover_size(size, target)
    top, left = offset(resized, target)
    result = np.array(intrinsics, np.float64)
    result[..., 0, 2] += left
    result[..., 1, 2] += top
    result[..., 0, :] /= resized[1] / size[1]
    result[..., 1, :] /= resized[0] / size[0]
    return result


def rebase_to_first(c2w: Float[SameArray, "t 4 4"]) -> Float[SameArray, "t 4 4"]:
    """Expresses a camera path in the coordinates of its first camera, which becomes exactly the identity."""
    xp = namespace(c2w)
    first = xp.eye(4, dtype=c2w.dtype)[None]
    return xp.concatenate([first, _product(xp.linalg.inv(c2w[0]), c2w[1:])], 0)


def rays(
    intrinsics: Float[SameArray, "*b 3 3"], c2w: Float[SameArray, "*b 4 4"], image_size: tuple[int, int]
) -> tuple[Float[SameArray, "*b h w 3"], Float[SameArray, "*b h w 3"]]:
    """Origin and unit direction, in world coordinates, of the ray through the centre (+0.5) of every pixel."""
    xp = namespace(c2w)
    height, width = image_size
    y, x = xp.meshgrid(xp.arange(height) + 0.5, xp.arange(width) + 0.5, indexing="ij")
    fx, fy, cx, cy = (intrinsics[..., i, j, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    x, y = (x - cx) / fx, (y - cy) / fy
    in_camera = xp.stack([x, y, xp.ones_like(x)], -1).astype(c2w.dtype)  # [b h w 3]
    directions = _product(in_camera, xp.swapaxes(c2w[..., :3, :3], -1, -2)[..., None, :, :])
    directions = directions / xp.linalg.norm(directions, axis=-1, keepdims=True)
    return xp.broadcast_to(c2w[..., None, None, :3, 3], directions.shape), directions


def plucker_map(
    intrinsics: Float[SameArray, "*b 3 3"], c2w: Float[SameArray, "*b 4 4"], image_size: tuple[int, int]
) -> Float[SameArray, "*b h w 6"]:
    """Plücker coordinates of every pixel's ray: moment (origin x direction), then direction."""
    xp = namespace(c2w)
    origins, directions = rays(intrinsics, c2w, image_size)
    return xp.concatenate([xp.cross(origins, directions), directions], -1)


def _product(a: SameArray, b: SameArray) -> SameArray:
    """Matrix product at full precision: accelerators would round its factors by default, and poses suffer."""
    xp = namespace(b)
    return xp.matmul(a, b) if xp is np else xp.matmul(a, b, precision="highest")
