"""One scene, one row of a table: what was predicted against the truth (Gen3R section 4.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8

from gen3r_jax.evaluation.appearance import Lpips, psnr, ssim
from gen3r_jax.evaluation.depth import depth_errors
from gen3r_jax.evaluation.geometry import aligned_chamfer, thin
from gen3r_jax.geometry.agreement import Agreement
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.geometry.poses import pose_errors
from gen3r_jax.options import Count, NonNegative, Positive

APPEARANCE = ("psnr", "ssim", "lpips")
GEOMETRY = ("accuracy", "completeness", "chamfer", "relative_percent")
POSES = ("auc_30", "rra_15", "rta_15")
DEPTH = ("abs_rel", "delta_1_25")

SAME_DEPTH = 0.05
"""Two cameras see the same point where its depths differ by less than this part."""


@dataclass(frozen=True)
class MetricOptions:
    """The config group ``metrics``; see :func:`gen3r_jax.evaluation.geometry.aligned_chamfer`.

    lpips: folder of converted weights; empty: there is no LPIPS.
    scale: how the alignment finds its scale: "variance", as the released code, or "least_squares", as Umeyama.
    voxel_size: side of a voxel in units of the true points; clouds are thinned to one point in each.
    num_points: number of points that clouds are thinned to then.
    farthest: true depth beyond it is unknown; 0: none is. TartanAir's reaches 1000 m, and far points would say all.
    """

    lpips: str = ""
    scale: Literal["variance", "least_squares"] = "variance"
    voxel_size: Positive = 0.005
    num_points: Count = 20_000
    farthest: NonNegative = 80.0


@dataclass(frozen=True, eq=False)  # by identity, so that what was made of one can be kept
class Truth:
    """A clip as it was filmed. depth: 0 where unknown, None without depth. c2w: None without cameras."""

    frames: UInt8[np.ndarray, "t h w 3"]
    intrinsics: Float[np.ndarray, "t 3 3"]
    c2w: Float[np.ndarray, "t 4 4"] | None
    depth: Float[np.ndarray, "t h w"] | None


@dataclass(frozen=True)
class Prediction:
    """What a row says of a clip; None where it says nothing.

    frames: all of the clip, in [0, 1]. given: which of them were known. seen: which frames the geometry is of, which is
    depth and cameras, or points alone. agreement: of two readings of the geometry.
    """

    frames: Float32[np.ndarray, "t h w 3"] | None = None
    given: Sequence[int] = ()
    seen: Sequence[int] = ()
    depth: Float[np.ndarray, "k h w"] | None = None
    w2c: Float[np.ndarray, "k r 4"] | None = None
    intrinsics: Float[np.ndarray, "k 3 3"] | None = None
    points: Float[np.ndarray, "k h w 3"] | None = None
    agreement: Agreement | None = None

    @property
    def views(self) -> tuple[Float[np.ndarray, "k h w"], Float[np.ndarray, "k r 4"], Float[np.ndarray, "k 3 3"]]:
        """Depth, cameras and intrinsics of a prediction that has them."""
        assert self.depth is not None and self.w2c is not None and self.intrinsics is not None
        return self.depth, self.w2c, self.intrinsics


class Scores(NamedTuple):
    """values: by metric, None for n/a. reasons: why, by metric. Metrics that the row does not claim are in neither."""

    values: dict[str, float | None]
    reasons: dict[str, str]


def score(prediction: Prediction, truth: Truth, options: MetricOptions, lpips: Lpips | None = None) -> Scores:
    """Every metric that the prediction allows."""
    values: dict[str, float | None] = {}
    reasons: dict[str, str] = {}

    def not_available(names: Sequence[str], reason: str) -> None:
        values.update(dict.fromkeys(names))
        reasons.update(dict.fromkeys(names, reason))

    if prediction.frames is not None:
        true_frames = truth.frames.astype(np.float32) / 255
        values["psnr"] = psnr(prediction.frames, true_frames)
        new = np.setdiff1d(np.arange(len(true_frames)), prediction.given)
        if 0 < len(new) < len(true_frames):  # the given ones can be copied, which says nothing
            values["psnr_new"] = psnr(prediction.frames[new], true_frames[new])
        values["ssim"] = ssim(prediction.frames, true_frames)
        if lpips is None:
            not_available(("lpips",), "no LPIPS weights were given")
        else:
            values["lpips"] = lpips(prediction.frames, true_frames)
    if prediction.depth is not None or prediction.points is not None:
        wanted = GEOMETRY if prediction.depth is None else (*DEPTH, *GEOMETRY)
        if truth.depth is None:
            not_available(wanted, "the data have no depth")
        elif not (truth.depth[list(prediction.seen)] > 0).any():
            not_available(wanted, "the depth of the scene is unknown everywhere")
        else:
            if prediction.depth is not None:
                values |= _score_depth(prediction, truth)
            if truth.c2w is None:
                not_available(GEOMETRY, "the data have no cameras")
            else:
                points = _points(prediction)
                known = truth.depth[list(prediction.seen)] > 0
                if np.isfinite(points[known]).all(axis=-1).sum() < 3:
                    not_available(GEOMETRY, "the prediction is not finite")
                else:
                    values |= _score_points(points, prediction.seen, truth, options)
    if prediction.w2c is not None:
        if truth.c2w is None:
            not_available(POSES, "the data have no cameras")
        elif len(prediction.seen) < 2:
            not_available(POSES, "one frame has no relative pose")
        else:
            scores = _score_poses(prediction, truth)
            values |= scores
            if np.isnan(scores["rta_15"]):
                not_available(("rta_15",), "the true cameras stand still")
    if prediction.agreement is not None:
        values |= {"agreement": prediction.agreement.depth, "agreement_of_cameras": prediction.agreement.poses}
    not_finite = [name for name, value in values.items() if value is not None and not np.isfinite(value)]
    not_available(not_finite, "the prediction is not finite")
    return Scores(values, reasons)


def score_parts(prediction: Prediction, truth: Truth) -> dict[str, Scores]:
    """PSNR and depth of the pixels of new frames that a given frame shows, too ("seen"), and of the others ("unseen").

    Nothing where no frame or every frame is given, and where the truth has no depth or no cameras.
    """
    new = np.setdiff1d(np.arange(len(truth.frames)), prediction.given)
    if truth.depth is None or truth.c2w is None or not 0 < len(new) < len(truth.frames):
        return {}
    known = truth.depth[new] > 0
    seen = seen_pixels(truth, prediction.given)[new]
    parts = {"seen": seen, "unseen": known & ~seen}
    return {part: _score_pixels(prediction, truth, new, mask, float(mask.sum() / max(1, known.sum())))
            for part, mask in parts.items() if mask.any()}  # fmt: skip


def seen_pixels(truth: Truth, given: Sequence[int]) -> Bool[np.ndarray, "t h w"]:
    """Where the point that a pixel shows is visible in a given frame: it lies inside, and at its depth.

    Depths that differ by less than SAME_DEPTH of the nearer count as equal.
    """
    assert truth.depth is not None and truth.c2w is not None
    w2c, (height, width) = invert_se3(truth.c2w), truth.depth.shape[1:]
    intrinsics = truth.intrinsics.copy()
    intrinsics[:, :2, 2] -= 0.5  # pixels are counted from their centres
    points = unproject_depth(truth.depth, w2c, intrinsics)
    seen = np.zeros(truth.depth.shape, bool)
    for frame in given:
        camera = points @ w2c[frame, :3, :3].T + w2c[frame, :3, 3]
        z = camera[..., 2]
        ahead = np.maximum(z, 1e-6)
        x, y = (np.rint(intrinsics[frame, i, i] * camera[..., i] / ahead + intrinsics[frame, i, 2]) for i in (0, 1))
        inside = (z > 0) & (x >= 0) & (x < width) & (y >= 0) & (y < height)
        there = truth.depth[frame, np.where(inside, y, 0).astype(int), np.where(inside, x, 0).astype(int)]
        seen |= inside & (there > 0) & (np.abs(there - z) < SAME_DEPTH * np.minimum(there, ahead))
    return seen & (truth.depth > 0)


def _score_pixels(
    prediction: Prediction, truth: Truth, new: np.ndarray, mask: Bool[np.ndarray, "n h w"], share: float
) -> Scores:
    """Scores of some pixels of the frames `new`; depth under the scale of the whole clip."""
    values: dict[str, float | None] = {"pixels": share}
    if prediction.frames is not None:
        error = prediction.frames[new][mask] - truth.frames[new][mask].astype(np.float32) / 255
        values["psnr_new"] = float(-10 * np.log10(max(np.mean(np.square(error, dtype=np.float64)), 1e-10)))
    if prediction.depth is not None and len(prediction.seen) == len(truth.frames):
        assert truth.depth is not None
        scale = depth_errors(prediction.depth, truth.depth, truth.depth > 0).scale
        errors = depth_errors(prediction.depth[new], truth.depth[new], mask, scale)
        values |= {"abs_rel": errors.abs_rel, "delta_1_25": errors.delta}
    return Scores(values, {})


def _score_depth(prediction: Prediction, truth: Truth) -> dict[str, float]:
    assert truth.depth is not None and prediction.depth is not None
    true_depth = truth.depth[list(prediction.seen)]
    errors = depth_errors(prediction.depth, true_depth, true_depth > 0)
    return {"abs_rel": errors.abs_rel, "delta_1_25": errors.delta}


def _points(prediction: Prediction) -> Float[np.ndarray, "k h w 3"]:
    if prediction.points is not None:
        return prediction.points
    return unproject_depth(*prediction.views)


def _score_points(
    predicted: Float[np.ndarray, "k h w 3"], seen: Sequence[int], truth: Truth, options: MetricOptions
) -> dict[str, float]:
    """Points of the frames that were seen, aligned, against those of the whole clip."""
    assert truth.depth is not None
    points, cloud = _true_points(truth, options)
    distance = aligned_chamfer(
        predicted,
        points,
        truth.depth > 0,
        frames=seen,
        target_cloud=cloud,
        scale=options.scale,
        voxel_size=options.voxel_size,
        num_points=options.num_points,
    )
    return dict(zip(GEOMETRY, distance, strict=True))


@lru_cache(maxsize=1)  # all rows of a scene ask for the same
def _true_points(truth: Truth, options: MetricOptions) -> tuple[Float[np.ndarray, "t h w 3"], Float[np.ndarray, "n 3"]]:
    """The points of the whole clip, in world coordinates, and those that are left of them by thinning."""
    # Unprojection counts pixels from their centres, true principal points from the corner.
    assert truth.depth is not None and truth.c2w is not None
    intrinsics = truth.intrinsics.copy()
    intrinsics[:, :2, 2] -= 0.5
    points = unproject_depth(truth.depth, invert_se3(truth.c2w), intrinsics)
    return points, thin(np.asarray(points, np.float64)[truth.depth > 0], options.voxel_size, options.num_points)


def _score_poses(prediction: Prediction, truth: Truth) -> dict[str, float]:
    assert truth.c2w is not None and prediction.w2c is not None
    errors = pose_errors(invert_se3(prediction.w2c), truth.c2w[list(prediction.seen)])
    return {"auc_30": errors.auc(30), "rra_15": errors.rra(15), "rta_15": errors.rta(15)}
