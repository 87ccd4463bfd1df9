"""Building blocks that the Wan 2.1 causal VAE and the geometry adapter share.

Both are stacks of causal residual blocks with a single-head attention per frame at the bottom. They differ in how
they resample space (:mod:`gen3r_jax.models.wan_vae`, :mod:`gen3r_jax.models.geometry_adapter`) and agree on time:
4k+1 frames become k+1 latents. :mod:`gen3r_jax.ops.causal_conv` explains whole clips, chunks, `cache` and `start`.
Blocks of equal shape in a row are stacked and walked by ``jax.lax.scan``: a compiler sees each kind of block once.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.models.sizes import clip_frames, latent_frames, require_clip_length
from gen3r_jax.module import Remat, rematerialised
from gen3r_jax.ops.attention import attend
from gen3r_jax.ops.causal_conv import CausalConv, History, Start, TimeDown, TimeUp, linear, scan_chunks
from gen3r_jax.ops.leaves import Leaf
from gen3r_jax.sharding import shard

Shape = tuple[int, int, int] | None  # (b, h, w) of an input that comes in chunks; None for a whole clip
Cache = Any  # nested dict of histories; its leaves are None for a whole clip


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DiagonalGaussian:
    """A posterior over latents ``b t h w c``.

    `mean` is in normalised latent units, `logvar` in those of the network: the networks were trained with this mixture.
    """

    mean: Float[Leaf, "b t h w c"]
    logvar: Float[Leaf, "b t h w c"]

    @classmethod
    def from_moments(cls, moments: Float[Array, "b t h w m"]) -> Self:
        mean, logvar = jnp.split(moments, 2, axis=-1)
        return cls(mean, jnp.clip(logvar, -30.0, 20.0))

    @property
    def std(self) -> Float[Array, "b t h w c"]:
        return jnp.exp(0.5 * self.logvar)

    def mode(self) -> Float[Array, "b t h w c"]:
        return self.mean

    def sample(self, eps: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        """Reparameterised sample; `eps` is standard normal."""
        return self.mean + self.std * eps


class L2Norm(nnx.Module):
    """Unit length over the channels, times sqrt(c) and a learned scale. Computed in float32."""

    def __init__(self, features: int) -> None:
        self.scale = nnx.Param(jnp.ones(features))

    def __call__(self, x: Float[Array, "*s c"]) -> Float[Array, "*s c"]:
        x32 = x.astype(jnp.float32)
        # The bound of the official code, 1e-12 on the length; the square keeps the gradient finite at zero.
        inverse = jax.lax.rsqrt(jnp.maximum(jnp.sum(x32 * x32, axis=-1, keepdims=True), 1e-24))
        scale = self.scale[...]
        out = x32 * inverse * (scale.astype(jnp.float32) * x.shape[-1] ** 0.5)
        return out.astype(jnp.promote_types(x.dtype, scale.dtype))


class ResidualBlock(nnx.Module):
    """Twice norm, SiLU, causal 3x3x3 convolution; a 1x1x1 projection on the shortcut if the width changes."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.norm1 = L2Norm(inputs)
        self.conv1 = CausalConv(inputs, outputs, rngs=rngs)
        self.norm2 = L2Norm(outputs)
        self.conv2 = CausalConv(outputs, outputs, rngs=rngs)
        self.shortcut = linear(inputs, outputs, rngs=rngs) if inputs != outputs else None

    def __call__(
        self, x: Float[Array, "b t h w i"], cache: Cache, start: Start
    ) -> tuple[Float[Array, "b t h w o"], Cache]:
        skip = x if self.shortcut is None else self.shortcut(x)
        x, history1 = self.conv1(nnx.silu(self.norm1(x)), cache["conv1"], start)
        x, history2 = self.conv2(nnx.silu(self.norm2(x)), cache["conv2"], start)
        return skip + x, {"conv1": history1, "conv2": history2}


def _of_width(width: int, rngs: nnx.Rngs) -> ResidualBlock:
    return ResidualBlock(width, width, rngs=rngs)


def residual_cache(inputs: int, outputs: int, shape: Shape, dtype: jnp.dtype) -> Cache:
    return {"conv1": _history(2, inputs, shape, dtype), "conv2": _history(2, outputs, shape, dtype)}


class FrameAttention(nnx.Module):
    """Single-head attention over the positions of each frame, with residual."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.norm = L2Norm(features)
        self.qkv = linear(features, 3 * features, rngs=rngs)
        self.proj = linear(features, features, rngs=rngs)
        self.proj.kernel[...] = jnp.zeros_like(self.proj.kernel[...])

    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        b, t, h, w, c = x.shape

        def attend_frame(qkv: Float[Array, "b n d"]) -> Float[Array, "b n c"]:
            q, k, v = jnp.split(qkv[:, :, None], 3, axis=-1)  # one head
            return attend(q, k, v)[:, :, 0]

        qkv = self.qkv(self.norm(x)).reshape(b, t, h * w, 3 * c)
        out = jax.lax.map(attend_frame, jnp.moveaxis(qkv, 1, 0))  # frame by frame: scores are large
        return x + self.proj(jnp.moveaxis(out, 0, 1).reshape(b, t, h, w, c))


def _block(start: Start, remat: Remat) -> Callable[[Array, tuple[ResidualBlock, Cache]], tuple[Array, Cache]]:
    """Runs ``(block, cache)`` on `x`: a body for ``jax.lax.scan`` over stacked blocks, or for a single one."""

    def run(x: Array, item: tuple[ResidualBlock, Cache]) -> tuple[Array, Cache]:
        block, cache = item
        return block(x, cache, start)

    return rematerialised(run, remat)


class Level(nnx.Module):
    """Residual blocks of one width, then a change of resolution.

    `entry` is the block that changes the width, `blocks` the stack of those that keep it; None where there are none.
    """

    def __init__(
        self, inputs: int, outputs: int, count: int, resample: "Down | Up | None", remat: Remat, *, rngs: nnx.Rngs
    ) -> None:
        self.widths = (inputs, outputs)
        self.count = count - (inputs != outputs)
        self.remat: Remat = remat
        self.entry = ResidualBlock(inputs, outputs, rngs=rngs) if inputs != outputs else None
        self.blocks = module.stack(partial(_of_width, outputs), rngs, self.count) if self.count else None
        self.resample = resample

    def __call__(
        self, x: Float[Array, "b t h w i"], cache: Cache, start: Start
    ) -> tuple[Float[Array, "b s y x o"], Cache, Start]:
        block = _block(start, self.remat)
        new = dict(cache)
        if self.entry is not None:
            x, new["entry"] = block(x, (self.entry, cache["entry"]))
        if self.blocks is not None:
            x, new["blocks"] = jax.lax.scan(block, x, (self.blocks, cache["blocks"]))
        if self.resample is not None:
            x, new["time"], start = self.resample(x, cache["time"], start)
        return shard(x, "batch", None, "rows", "columns"), new, start

    def init_cache(self, shape: Shape, dtype: jnp.dtype) -> tuple[Cache, Shape]:
        """Empty cache, and the shape that the next level sees."""
        inputs, outputs = self.widths
        block = residual_cache(outputs, outputs, shape, dtype)
        cache = {
            "entry": None if self.entry is None else residual_cache(inputs, outputs, shape, dtype),
            "blocks": jax.tree.map(lambda x: jnp.repeat(x[None], self.count, axis=0), block),
            "time": None,
        }
        if self.resample is not None:
            cache["time"], shape = self.resample.init_cache(shape, dtype)
        return cache, shape


class Down(nnx.Module):
    """A per-frame convolution that keeps the width, then half the frame rate if `temporal`."""

    def __init__(
        self, space: Callable[[Array], Array], features: int, stride: int, temporal: bool, *, rngs: nnx.Rngs
    ) -> None:
        self.features, self.stride = features, stride
        self.space = space
        self.time = TimeDown(features, rngs=rngs) if temporal else None

    def __call__(self, x: Float[Array, "b t h w c"], history: History, start: Start) -> tuple[Array, History, Start]:
        x = self.space(x)
        if self.time is None:
            return x, history, start
        x, history = self.time(x, history, start)
        return x, history, (start - 1) // 2

    def init_cache(self, shape: Shape, dtype: jnp.dtype) -> tuple[History, Shape]:
        shape = shape and (shape[0], shape[1] // self.stride, shape[2] // self.stride)
        return _history(1, self.features, shape, dtype) if self.time is not None else None, shape


class Up(nnx.Module):
    """Twice the frame rate if `temporal`, then a per-frame convolution that halves the width."""

    def __init__(
        self, space: Callable[[Array], Array], features: int, stride: int, temporal: bool, *, rngs: nnx.Rngs
    ) -> None:
        self.features, self.stride = features, stride
        self.time = TimeUp(features, rngs=rngs) if temporal else None
        self.space = space

    def __call__(self, x: Float[Array, "b t h w c"], history: History, start: Start) -> tuple[Array, History, Start]:
        if self.time is None:
            return self.space(x), history, start
        x, history = self.time(x, history, start)
        return self.space(x), history, 2 * start + 1

    def init_cache(self, shape: Shape, dtype: jnp.dtype) -> tuple[History, Shape]:
        history = _history(2, self.features, shape, dtype) if self.time is not None else None
        return history, shape and (shape[0], shape[1] * self.stride, shape[2] * self.stride)


# Which changes of resolution halve or double the frame rate, in the order of the encoder; the decoder mirrors it. A
# network with fewer changes goes without the first.
TEMPORAL = (False, True, True)
Resampling = Callable[[int, bool], Down | Up]  # of (features, temporal)
Shortcut = Callable[[Array, bool, Start], Array]  # of (input, whether it is a whole clip, start)


class Encoder(nnx.Module):
    """Causal encoder: ``b 4k+1 h w inputs`` -> ``b k+1 h' w' outputs``.

    The last level holds one block more than the `blocks` of the others, the first of the official "middle": nothing
    lies between.
    """

    def __init__(
        self,
        inputs: int,
        widths: tuple[int, ...],
        outputs: int,
        down: Resampling,
        remat: Remat,
        blocks: int = 2,
        shortcut: Shortcut | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.inputs, last = inputs, widths[-1]
        self.remat: Remat = remat
        self.stem = CausalConv(inputs, widths[0], rngs=rngs)
        levels = []
        for i, (before, after) in enumerate(zip((widths[0], *widths), widths, strict=False)):
            is_last = i == len(widths) - 1
            resample = None if is_last else down(after, TEMPORAL[i + 1 - len(widths)])
            levels.append(Level(before, after, blocks + is_last, resample, remat, rngs=rngs))
        self.levels = nnx.List(levels)
        self.attention = FrameAttention(last, rngs=rngs)
        self.tail = ResidualBlock(last, last, rngs=rngs)
        self.norm = L2Norm(last)
        self.head = CausalConv(last, outputs, rngs=rngs)
        self.shortcut = shortcut

    def __call__(
        self, x: Float[Array, "b t h w i"], cache: Cache, start: Start
    ) -> tuple[Float[Array, "b s y x o"], Cache]:
        new = dict(cache)
        beside = None if self.shortcut is None else self.shortcut(x, cache["stem"] is None, start)
        x, new["stem"] = self.stem(x, cache["stem"], start)
        x, new["levels"], start = _walk(self.levels, x, cache["levels"], start)
        x = rematerialised(FrameAttention.__call__, self.remat)(self.attention, x)
        x, new["tail"] = _block(start, self.remat)(x, (self.tail, cache["tail"]))
        x, new["head"] = self.head(nnx.silu(self.norm(x)), cache["head"], start)
        return x if beside is None else x + beside, new

    def init_cache(self, shape: Shape, dtype: jnp.dtype) -> Cache:
        stem = _history(2, self.inputs, shape, dtype)
        levels, shape = _walk_cache(self.levels, shape, dtype)
        last = self.levels[-1].widths[1]
        tail, head = residual_cache(last, last, shape, dtype), _history(2, last, shape, dtype)
        return {"stem": stem, "levels": levels, "tail": tail, "head": head}


class Decoder(nnx.Module):
    """Causal decoder: ``b k+1 h w inputs`` -> ``b 4k+1 h' w' outputs``.

    A level has one block more than the encoder's `blocks`, and the first one more than the others, the last of the
    official "middle": nothing lies between.
    """

    def __init__(
        self,
        inputs: int,
        widths: tuple[int, ...],
        outputs: int,
        up: Resampling,
        remat: Remat,
        blocks: int = 2,
        shortcut: Shortcut | None = None,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.inputs, first = inputs, widths[0]
        self.remat: Remat = remat
        self.stem = CausalConv(inputs, first, rngs=rngs)
        self.lead = ResidualBlock(first, first, rngs=rngs)
        self.attention = FrameAttention(first, rngs=rngs)
        levels, before = [], first
        for i, after in enumerate(widths):
            resample = None if i == len(widths) - 1 else up(after, TEMPORAL[::-1][i])
            levels.append(Level(before, after, blocks + 1 + (i == 0), resample, remat, rngs=rngs))
            before = after // 2
        self.levels = nnx.List(levels)
        self.norm = L2Norm(widths[-1])
        self.head = CausalConv(widths[-1], outputs, rngs=rngs)
        self.shortcut = shortcut

    def __call__(
        self, x: Float[Array, "b t h w i"], cache: Cache, start: Start
    ) -> tuple[Float[Array, "b s y x o"], Cache]:
        new = dict(cache)
        beside = None if self.shortcut is None else self.shortcut(x, cache["stem"] is None, start)
        x, new["stem"] = self.stem(x, cache["stem"], start)
        x, new["lead"] = _block(start, self.remat)(x, (self.lead, cache["lead"]))
        x = rematerialised(FrameAttention.__call__, self.remat)(self.attention, x)
        x, new["levels"], start = _walk(self.levels, x, cache["levels"], start)
        x, new["head"] = self.head(nnx.silu(self.norm(x)), cache["head"], start)
        return x if beside is None else x + beside, new

    def init_cache(self, shape: Shape, dtype: jnp.dtype) -> Cache:
        first, last = self.levels[0].widths[0], self.levels[-1].widths[1]
        stem, lead = _history(2, self.inputs, shape, dtype), residual_cache(first, first, shape, dtype)
        levels, shape = _walk_cache(self.levels, shape, dtype)
        return {"stem": stem, "lead": lead, "levels": levels, "head": _history(2, last, shape, dtype)}


def _walk(levels: Iterable[Level], x: Array, caches: list[Cache], start: Start) -> tuple[Array, list[Cache], Start]:
    new = []
    for level, cache in zip(levels, caches, strict=True):
        x, cache, start = level(x, cache, start)
        new.append(cache)
    return x, new, start


def _walk_cache(levels: Iterable[Level], shape: Shape, dtype: jnp.dtype) -> tuple[list[Cache], Shape]:
    caches = []
    for level in levels:
        cache, shape = level.init_cache(shape, dtype)
        caches.append(cache)
    return caches, shape


def _history(frames: int, features: int, shape: Shape, dtype: jnp.dtype) -> History:
    return None if shape is None else jnp.zeros((shape[0], frames, *shape[1:], features), dtype)


class CausalAutoencoder(module.Network):
    """What both networks do around their encoder and decoder: clips in chunks, latent statistics, dtypes.

    A subclass sets `config` (with `latent_channels`, `latent_mean`, `latent_std`), `encoder` and `decoder`, and says
    how frames enter and leave. The dtype of the weights decides that of the arithmetic; posteriors are float32.
    """

    encoder: Encoder
    decoder: Decoder

    def __init__(self, config: Any, encoder: Encoder, decoder: Decoder, *, rngs: nnx.Rngs) -> None:
        channels = config.latent_channels
        for name in ("latent_mean", "latent_std"):
            if len(getattr(config, name)) != channels:
                raise UserError(f"{name} has {len(getattr(config, name))} numbers for {channels} latent channels")
        self.config = config
        self.encoder = encoder
        self.to_moments = linear(2 * channels, 2 * channels, rngs=rngs)
        self.from_latent = linear(channels, channels, rngs=rngs)
        self.decoder = decoder

    def enter(self, frames: Float[Array, "b t h w i"]) -> Float[Array, "b t y x f"]:
        """Frames -> what the encoder sees; per frame."""
        return frames

    def leave(self, features: Float[Array, "b t y x c"]) -> Float[Array, "b t h w o"]:
        """What the decoder gives -> frames; per frame."""
        return features

    def encode_features(
        self, frames: Float[Array, "b t h w i"], chunk_frames: int | None = None
    ) -> Float[Array, "b f y x m"]:
        """What the encoder makes of 4k+1 frames: k+1 maps, from which :meth:`posterior` reads the latents."""
        require_clip_length(frames.shape[1])
        frames = frames.astype(self._dtype)

        def step(frames: Array, cache: Cache, start: Start) -> tuple[Array, Cache]:
            return self.encoder(self.enter(frames), cache, start)

        if chunk_frames is None:
            return step(frames, self.encoder.init_cache(None, self._dtype), 0)[0]
        if chunk_frames < 4 or chunk_frames % 4:
            raise UserError(f"chunk_frames {chunk_frames} is not a multiple of 4")
        entered = jax.eval_shape(self.enter, frames[:, :1])
        cache = self.encoder.init_cache((entered.shape[0], entered.shape[2], entered.shape[3]), self._dtype)
        return scan_chunks(step, cache, frames, chunk_frames)[:, -latent_frames(frames.shape[1]) :]

    def posterior(self, features: Float[Array, "b f y x m"]) -> DiagonalGaussian:
        """The posterior over normalised latents, in float32."""
        posterior = DiagonalGaussian.from_moments(self.to_moments(features.astype(jnp.float32)))
        mean, std = self._statistics
        return replace(posterior, mean=(posterior.mean - mean) / std)

    def _decode(
        self, z: Float[Array, "b f y x c"], chunk_frames: int | None, leave: Callable[[Array], Array]
    ) -> Float[Array, "b t h w o"]:
        mean, std = self._statistics
        z = (z * std + mean).astype(self._dtype)

        def step(z: Array, cache: Cache, start: Start) -> tuple[Array, Cache]:
            x, cache = self.decoder(self.from_latent(z), cache, start)
            return leave(x), cache

        if chunk_frames is None:
            return step(z, self.decoder.init_cache(None, self._dtype), 0)[0]
        if chunk_frames < 1:
            raise UserError(f"chunk_frames {chunk_frames} is not a positive number of latents")
        cache = self.decoder.init_cache((z.shape[0], z.shape[2], z.shape[3]), self._dtype)
        return scan_chunks(step, cache, z, chunk_frames)[:, -clip_frames(z.shape[1]) :]

    def decode_features(
        self, z: Float[Array, "b f y x c"], chunk_frames: int | None = None
    ) -> Float[Array, "b t h w o"]:
        """What the decoder makes of normalised latents, before :meth:`leave`."""
        return self._decode(z, chunk_frames, lambda features: features)

    @property
    def _dtype(self) -> jnp.dtype:
        return self.from_latent.kernel[...].dtype

    @property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.config.latent_mean, np.float32), np.asarray(self.config.latent_std, np.float32)
