"""Convolutions that look at the past only, for videos that are processed whole or chunk by chunk.

Time is causal: an output frame sees its own input frame and earlier ones, and nothing before the clip but zeros. Every
layer here can be called in two ways that give the same numbers:

* *whole clip* (``history=None``): the input starts with the first frame of the clip;
* *one chunk* of it: `history` holds the input frames that the layer still needs from the chunks before (zeros at the
  beginning), and the layer returns the history for the next chunk. `start` is the position of the clip's first frame
  within this chunk: positive while the first chunk is filled up with dummy frames in front, negative later on.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from gen3r_jax.ops.conv import convolution, convolve
from gen3r_jax.ops.patches import from_patches, to_patches
from gen3r_jax.ops.platform import target_platform
from gen3r_jax.ops.shared import Conv, Linear, add

Start = int | Int[Array, ""]
History = Float[Array, "b n _ _ _"] | None  # [b n h w c] of the layer that it belongs to


def uniform(window: tuple[int, ...], inputs: int, outputs: int, rngs: nnx.Rngs) -> tuple[Array, Array]:
    """Kernel ``[*window, inputs, outputs]`` and bias as PyTorch draws them: uniform within ±1/sqrt(fan-in).

    One draw for both: every one has its own copy of the random generator to be compiled.
    """
    fan_in = math.prod(window) * inputs
    draw = jax.random.uniform(rngs.params(), (fan_in + 1, outputs), minval=-(fan_in**-0.5), maxval=fan_in**-0.5)
    return draw[:-1].reshape(*window, inputs, outputs), draw[-1]


def linear(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> Linear:
    layer = Linear(inputs, outputs, kernel_init=nnx.initializers.zeros, rngs=rngs)
    assert layer.bias is not None
    layer.kernel[...], layer.bias[...] = uniform((), inputs, outputs, rngs)
    return layer


def conv2d(
    inputs: int,
    outputs: int,
    *,
    strides: int = 1,
    padding: Any = "SAME",
    split: Literal["tiles", "frames"] = "tiles",
    rngs: nnx.Rngs,
) -> Conv:
    """3x3 convolution of every frame of ``b t h w c``; `split` as in :func:`gen3r_jax.ops.conv.convolve`."""
    zeros = nnx.initializers.zeros
    layer = Conv(
        inputs,
        outputs,
        (3, 3),
        strides=strides,
        padding=padding,
        kernel_init=zeros,
        conv_general_dilated=convolution(split),
        rngs=rngs,
    )
    assert layer.bias is not None
    layer.kernel[...], layer.bias[...] = uniform((3, 3), inputs, outputs, rngs)
    return layer


def causal_conv(
    x: Float[Array, "b t h w i"], kernel: Float[Array, "3 3 3 i o"], history: History = None
) -> Float[Array, "b t h w o"]:
    """Causal 3x3x3 convolution, zero padding in space. `history` is the last two input frames (None: zeros).

    Computed by 2D convolutions with time folded into the batch; 3D convolutions are slow nearly everywhere.
    """
    return (_concatenated if _concatenate(x) else _summed)(x, kernel, history)


def _concatenate(x: Array) -> bool:
    """The choice between the two forms; both give the same numbers.

    CPU, one core, GFLOP/s forward / forward and backward of summed | concatenated | 3D convolution (9x28x28, XLA):
    8 channels 15/18 | 66/26 | 5/4, 16: 38/42 | 80/48 | 10/5, 24: 77/43 | 76/42 | 12/10, 32: 92/56 | 82/53 | 18/14,
    64: 96/99 | 87/85 | 32/24; 5x28x28, 128: 115/110 | 87/84 | 49/41. Summed skips the taps that lie before the clip.

    TPU: by the compiler's estimates the forms are equal from 16 frames on, and summed is up to twice as fast at 8 or
    fewer. Compiling takes seconds for every convolution, which the concatenated form has a third of.
    """
    _, frames, _, _, channels = x.shape
    if target_platform() == "tpu":
        return frames > 8
    return channels < 24 and frames > 1


def _summed(x: Array, kernel: Array, history: History) -> Array:
    """Three convolutions, one for each time tap."""
    frames = x if history is None else jnp.concatenate([history, x], axis=1)
    t, total = x.shape[1], frames.shape[1]
    out = _conv2d(frames[:, total - t :], kernel[2])
    for back in (1, 2):  # taps on earlier frames; frames before the clip are zero and cost nothing
        known = min(t, total - back)
        if known > 0:
            past = _conv2d(frames[:, total - back - known : total - back], kernel[2 - back])
            out = out.at[:, t - known :].add(past) if known < t else out + past
    return out


def _concatenated(x: Array, kernel: Array, history: History) -> Array:
    """One convolution of the three time taps side by side on the channels."""
    if history is None:
        history = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
    frames, t = jnp.concatenate([history, x], axis=1), x.shape[1]
    taps = jnp.concatenate([frames[:, tap : tap + t] for tap in range(3)], axis=-1)
    return _conv2d(taps, jnp.moveaxis(kernel, 0, 2).reshape(3, 3, -1, kernel.shape[-1]))


def _conv2d(x: Array, kernel: Array) -> Array:
    b, t, h, w, c = x.shape
    return convolve(x.reshape(b * t, h, w, c), kernel).reshape(b, t, h, w, -1)


class CausalConv(nnx.Module):
    """Causal 3x3x3 convolution with bias."""

    def __init__(self, inputs: int, outputs: int, *, rngs: nnx.Rngs) -> None:
        kernel, bias = uniform((3, 3, 3), inputs, outputs, rngs)
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(bias)

    def __call__(
        self, x: Float[Array, "b t h w i"], history: History = None, start: Start = 0
    ) -> tuple[Float[Array, "b t h w o"], History]:
        if history is not None:
            x = _hide_before(x, start)
        out = add(causal_conv(x, self.kernel[...], history), self.bias[...])
        return out, None if history is None else jnp.concatenate([history, x], axis=1)[:, -2:]


class TimeConv(nnx.Module):
    """3x1x1 convolution without padding: ``t`` frames give ``(t - 3) // stride + 1``."""

    def __init__(self, inputs: int, outputs: int, *, stride: int = 1, rngs: nnx.Rngs) -> None:
        self.stride = stride
        kernel, bias = uniform((3,), inputs, outputs, rngs)
        self.kernel, self.bias = nnx.Param(kernel), nnx.Param(bias)

    def __call__(self, x: Float[Array, "b t h w i"]) -> Float[Array, "b s h w o"]:
        count = (x.shape[1] - 3) // self.stride + 1
        taps = [x[:, tap : tap + self.stride * (count - 1) + 1 : self.stride] for tap in range(3)]
        kernel = self.kernel[...].reshape(-1, self.kernel.shape[-1])
        return add(jnp.concatenate(taps, axis=-1) @ kernel, self.bias[...])


class TimeDown(nnx.Module):
    """Halves the frame rate: 2k+1 frames become k+1. The first frame of the clip passes through untouched."""

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.conv = TimeConv(features, features, stride=2, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t h w c"], history: History = None, start: Start = 0
    ) -> tuple[Float[Array, "b s h w c"], History]:
        if history is None:
            return (jnp.concatenate([x[:, :1], self.conv(x)], axis=1) if x.shape[1] > 1 else x), None
        out = self.conv(jnp.concatenate([history, x], axis=1))
        first = _frames(out) == start // 2
        return jnp.where(first, x[:, 1::2], out), x[:, -1:]


class TimeUp(nnx.Module):
    """Doubles the frame rate: k+1 frames become 2k+1.

    The first frame of the clip stays single, and the convolution over the others does not see it.
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.conv = TimeConv(features, 2 * features, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t h w c"], history: History = None, start: Start = 0
    ) -> tuple[Float[Array, "b s h w c"], History]:
        if history is None:
            if x.shape[1] == 1:
                return x, None
            rest = self._double(jnp.pad(x[:, 1:], ((0, 0), (2, 0), (0, 0), (0, 0), (0, 0))))
            return jnp.concatenate([x[:, :1], rest], axis=1), None
        frames = jnp.concatenate([history, _hide_before(x, start + 1)], axis=1)
        out = self._double(frames)
        first = _frames(out) == 2 * start + 1
        return jnp.where(first, jnp.repeat(x, 2, axis=1), out), frames[:, -2:]

    def _double(self, frames: Float[Array, "b t h w c"]) -> Float[Array, "b s h w c"]:
        even, odd = jnp.split(self.conv(frames), 2, axis=-1)
        b, t, *rest = even.shape
        return jnp.stack([even, odd], axis=2).reshape(b, 2 * t, *rest)


class BlockDown(nnx.Module):
    """A linear map of each block of 4 frames and `side` x `side` cells; the first frame of the clip has its own.

    `whole`: the input is a whole clip, not a chunk; nothing is needed from the chunks before.
    """

    def __init__(self, inputs: int, outputs: int, side: int, *, rngs: nnx.Rngs) -> None:
        self.side = side
        self.first = linear(side * side * inputs, outputs, rngs=rngs)
        self.rest = linear(4 * side * side * inputs, outputs, rngs=rngs)

    def __call__(
        self, x: Float[Array, "b t h w i"], whole: bool, start: Start = 0
    ) -> Float[Array, "b f h//{self.side} w//{self.side} o"]:
        x = to_patches(x, self.side)
        if whole:
            first = self.first(x[:, :1])
            return jnp.concatenate([first, self.rest(_fold(x[:, 1:]))], axis=1) if x.shape[1] > 1 else first
        out = self.rest(_fold(x))
        return jnp.where(_frames(out) == start // 4, self.first(x[:, 3::4]), out)


class BlockUp(nnx.Module):
    """The way back from :class:`BlockDown`."""

    def __init__(self, inputs: int, outputs: int, side: int, *, rngs: nnx.Rngs) -> None:
        self.side = side
        self.first = linear(inputs, side * side * outputs, rngs=rngs)
        self.rest = linear(inputs, 4 * side * side * outputs, rngs=rngs)

    def __call__(
        self, z: Float[Array, "b f h w i"], whole: bool, start: Start = 0
    ) -> Float[Array, "b t {self.side}*h {self.side}*w o"]:
        if whole:
            out = jnp.concatenate([self.first(z[:, :1]), _unfold(self.rest(z[:, 1:]))], axis=1)
        else:
            out = _unfold(self.rest(z))
            out = jnp.where(_frames(out) == 4 * start + 3, jnp.repeat(self.first(z), 4, axis=1), out)
        return from_patches(out, self.side)


def _fold(x: Float[Array, "b t h w c"]) -> Float[Array, "b t//4 h w 4*c"]:
    b, t, h, w, c = x.shape
    return jnp.moveaxis(x.reshape(b, t // 4, 4, h, w, c), 2, 4).reshape(b, t // 4, h, w, 4 * c)


def _unfold(x: Float[Array, "b f h w c"]) -> Float[Array, "b 4*f h w c//4"]:
    b, f, h, w, c = x.shape
    return jnp.moveaxis(x.reshape(b, f, h, w, 4, c // 4), 4, 2).reshape(b, 4 * f, h, w, c // 4)


def _frames(x: Array) -> Int[Array, "t 1 1 1"]:
    return jnp.arange(x.shape[1])[:, None, None, None]


def _hide_before(x: Array, start: Start) -> Array:
    return jnp.where(_frames(x) >= start, x, 0)


def scan_chunks(
    step: Callable[[Array, Any, Start], tuple[Array, Any]], cache: Any, x: Float[Array, "b t ..."], chunk: int
) -> Float[Array, "b s ..."]:
    """Walks a clip in chunks of `chunk` frames: ``step(frames, cache, start) -> (outputs, cache)``.

    Dummy frames in front fill up the first chunk, so that all chunks have one shape and are compiled once. Their
    outputs come first in the result; the caller drops them.
    """
    b, t, *rest = x.shape
    count = -(-t // chunk)
    start = count * chunk - t
    x = jnp.pad(x, ((0, 0), (start, 0), *((0, 0) for _ in rest)))
    chunks = jnp.moveaxis(x.reshape(b, count, chunk, *rest), 1, 0)

    def body(carry: tuple, frames: Array) -> tuple:
        cache, start = carry
        out, cache = step(frames, cache, start)
        return (cache, start - chunk), out

    _, out = jax.lax.scan(body, (cache, jnp.int32(start)), chunks)
    out = jnp.moveaxis(out, 0, 1)
    return out.reshape(b, -1, *out.shape[3:])
