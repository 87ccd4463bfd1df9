"""From rendered clips to what VGGT is trained on: samples of a few frames, changed at random, with their exact targets.

All of it runs on the device and is drawn from each sample's key.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, UInt8

from gen3r_jax.arrays import picture_size
from gen3r_jax.errors import UserError
from gen3r_jax.generation import networks
from gen3r_jax.geometry.cameras import encode_pose, invert_se3
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.options import Count, Natural

MIRROR = (-1.0, 1.0, 1.0, 1.0)  # x -> -x


@dataclass(frozen=True)
class SampleOptions:
    """How clips become samples.

    Attributes:
      frames: of a sample; 0 takes the whole clip.
      per_clip: samples of each clip.
      window: a sample is drawn from so many successive frames; 0: from the whole clip.
      shuffle: whether frames come in any order; otherwise as they were filmed.
      reverse, flip, permute_colors: whether half of the samples run backwards, half are mirrored from left to right,
        and colour channels are exchanged.
    """

    frames: Natural = 3
    per_clip: Count = 2
    window: Natural = 0
    shuffle: bool = False
    reverse: bool = True
    flip: bool = True
    permute_colors: bool = True

    def __post_init__(self) -> None:
        if self.frames == 1:
            raise UserError("samples.frames 1: one frame has no relative pose; give at least 2, or 0 for all")
        if self.window and not self.window >= self.frames > 0:
            raise UserError(f"samples.window {self.window} must be 0 or at least samples.frames {self.frames}")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Sample:
    """Samples and their targets, in units of the scene: points lie 1 from the first camera on average.

    Attributes:
      images: in [0, 1].
      pose_enc: as :func:`gen3r_jax.geometry.cameras.encode_pose` gives it, relative to the first frame.
      depth: 0 where it is not known. points: in the first camera's coordinates. known: where both are.
      intrinsics: in pixels; the first pixel's centre is at 0.5.
    """

    images: Float[Array, "b t h w 3"]
    pose_enc: Float[Array, "b t 9"]
    depth: Float[Array, "b t h w"]
    points: Float[Array, "b t h w 3"]
    known: Bool[Array, "b t h w"]
    intrinsics: Float[Array, "b t 3 3"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Clip:
    """A clip of t frames as the loader gives it: cameras in OpenCV axes, depth along the optical axis, 0: unknown."""

    frames: UInt8[Array, "t h w 3"]
    c2w: Float[Array, "t 4 4"]
    intrinsics: Float[Array, "t 3 3"]
    depth: Float[Array, "t h w"]


def draw_samples(clips: Clip, keys: Key[Array, "b"], options: SampleOptions) -> Sample:
    """Samples of a batch of clips (all leaves with a leading axis b): b * per_clip of them."""
    total = clips.frames.shape[1]
    if options.frames > total or options.window > total:
        raise UserError(
            f"samples.frames {options.frames} and samples.window {options.window} must be at most the {total} frames "
            "of a clip"
        )
    keys = jax.vmap(lambda key: jax.random.split(key, options.per_clip))(keys)
    draw = jax.vmap(jax.vmap(lambda clip, key: make_targets(change(clip, key, options)), in_axes=(None, 0)))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draw(clips, keys))


def change(clip: Clip, key: Key[Array, ""], options: SampleOptions) -> Clip:
    """Frames of a clip, drawn and changed as the options say."""
    total = len(clip.frames)
    count, window = options.frames or total, options.window or total
    order_key, start_key, *coins, color_key = jax.random.split(key, 5)
    order = jax.random.permutation(order_key, window)[:count]
    order = order if options.shuffle else jnp.sort(order)
    if options.reverse:
        order = jnp.where(jax.random.bernoulli(coins[0]), order[::-1], order)
    clip = jax.tree.map(lambda x: x[order + jax.random.randint(start_key, (), 0, total - window + 1)], clip)
    if options.flip:
        mirrored = mirror(clip)
        heads = jax.random.bernoulli(coins[1])
        clip = jax.tree.map(lambda a, b: jnp.where(heads, a, b), mirrored, clip)
    if options.permute_colors:
        clip = Clip(clip.frames[..., jax.random.permutation(color_key, 3)], clip.c2w, clip.intrinsics, clip.depth)
    return clip


def mirror(clip: Clip) -> Clip:
    """What a clip of the mirrored scene shows."""
    sides = jnp.asarray(MIRROR)
    width = clip.frames.shape[2]
    intrinsics = clip.intrinsics.at[:, 0, 2].set(width - clip.intrinsics[:, 0, 2])
    return Clip(clip.frames[:, :, ::-1], sides[:, None] * clip.c2w * sides, intrinsics, clip.depth[:, :, ::-1])


def make_targets(clip: Clip) -> Sample:
    """The targets of one clip."""
    depth = clip.depth.astype(jnp.float32)
    known = depth > 0
    c2w = jnp.matmul(invert_se3(clip.c2w[0]), clip.c2w, precision="highest")
    w2c = invert_se3(c2w)
    # Rays pass through pixel centres, at +0.5.
    centred = clip.intrinsics.at[:, :2, 2].add(-0.5)
    points = unproject_depth(depth, w2c, centred)
    distance = jnp.linalg.norm(jnp.where(known[..., None], points, 1.0), axis=-1)
    scale = jnp.sum(jnp.where(known, distance, 0.0)) / jnp.maximum(known.sum(), 1)
    scale = jnp.where(known.any(), scale, 1.0)
    w2c = w2c.at[:, :3, 3].divide(scale)
    return Sample(
        images=networks.to_unit_range(clip.frames),
        pose_enc=encode_pose(w2c, clip.intrinsics, picture_size(clip.frames)),
        depth=depth / scale,
        points=points / scale,
        known=known,
        intrinsics=clip.intrinsics,
    )
