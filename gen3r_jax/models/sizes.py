"""Which sizes the networks take."""

from gen3r_jax.errors import UserError

SIDE_MULTIPLE = 112
"""VGGT's patches of 14 pixels and the diffusion transformer's of 16 meet at multiples of 112."""


def require_side(side: int) -> None:
    """Raises UserError, with the nearest sizes that do, for a side that the networks do not fit."""
    if side < SIDE_MULTIPLE or side % SIDE_MULTIPLE:
        low = max(SIDE_MULTIPLE, side // SIDE_MULTIPLE * SIDE_MULTIPLE)
        nearest = f"{low}, {low + SIDE_MULTIPLE}" if side > low else f"{low}"
        raise UserError(f"side {side} is not a multiple of {SIDE_MULTIPLE}; nearest: {nearest}")


def require_clip_length(num_frames: int) -> None:
    """Raises UserError, with the nearest lengths, where `num_frames` is not 4 k + 1 (the video autoencoder's steps)."""
    if num_frames < 1 or num_frames % 4 != 1:
        low = max(1, (num_frames - 1) // 4 * 4 + 1)
        raise UserError(f"{num_frames} frames are not 4 k + 1; nearest: {low}, {low + 4}")
