"""Which sizes the networks take, and what the video autoencoder makes of them."""

import math

from gen3r_jax.errors import UserError

SIDE_MULTIPLE = 112
"""VGGT's patches of 14 pixels and the diffusion transformer's of 16 meet at multiples of 112."""

PIXELS_PER_LATENT = 8
"""A latent of the video autoencoder stands for a square of so many pixels a side."""


def require_side(side: int) -> None:
    """Raises UserError, with the nearest sizes that do, for a side that the networks do not fit."""
    require_multiple("side", side, SIDE_MULTIPLE)


def whole_size(picture: tuple[int, int], size: tuple[int, int], multiple: int = SIDE_MULTIPLE) -> tuple[int, int]:
    """The height and width that show most of a picture, with sides of `multiple` and about as many pixels as `size`.

    The aspect counts ten times as much as the number of pixels, which differs by a quarter at most.
    """
    wanted, pixels = picture[0] / picture[1], size[0] * size[1] / multiple**2

    def misfit(tiles: tuple[int, int]) -> float:
        return 10 * abs(math.log(tiles[0] / tiles[1] / wanted)) + abs(math.log(tiles[0] * tiles[1] / pixels))

    heights = range(1, math.floor(1.25 * pixels) + 1)
    fitting = [
        (height, width)
        for height in heights
        for width in range(math.ceil(0.75 * pixels / height), math.floor(1.25 * pixels / height) + 1)
    ]
    height, width = min(fitting, key=misfit)
    return height * multiple, width * multiple


def require_multiple(name: str, value: int, divisor: int) -> None:
    """Raises UserError, with the nearest multiples, where `value` is no positive multiple of `divisor`."""
    if value < divisor or value % divisor:
        low = max(divisor, value // divisor * divisor)
        nearest = f"{low}, {low + divisor}" if value > low else f"{low}"
        raise UserError(f"{name} {value} is not a multiple of {divisor}; nearest: {nearest}")


def require_heads(name: str, width: int, heads: int, multiple: int = 1) -> None:
    """Raises UserError, with the nearest widths, where `width` does not split into `heads` of a `multiple` each."""
    if rest := width % (heads * multiple):
        low, step = width - rest, heads * multiple
        nearest = ", ".join(str(value) for value in (low, low + step) if value)
        each = f" whose width is a multiple of {multiple}" if multiple > 1 else ""
        raise UserError(f"{name} {width} does not split into {heads} heads{each}; nearest: {nearest}")


def require_clip_length(num_frames: int) -> None:
    """Raises UserError, with the nearest lengths, where `num_frames` is not 4 k + 1 (the video autoencoder's steps)."""
    if num_frames < 1 or num_frames != longest_clip(num_frames):
        low = longest_clip(max(1, num_frames))
        raise UserError(f"{num_frames} frames are not 4 k + 1; nearest: {low}, {low + 4}")


def longest_clip(num_frames: int) -> int:
    """The largest 4 k + 1 that is at most `num_frames`."""
    return (num_frames - 1) // 4 * 4 + 1


def latent_frames(num_frames: int) -> int:
    """How many frames of latents a clip of 4 k + 1 frames has: k + 1."""
    return (num_frames - 1) // 4 + 1


def clip_frames(num_latents: int) -> int:
    """The inverse of :func:`latent_frames`."""
    return 4 * num_latents - 3
