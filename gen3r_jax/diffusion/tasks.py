"""Which frames of a clip are given."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

from gen3r_jax.errors import UserError

TASKS = ("1view", "2view", "allview")


def given_frames(task: str, num_frames: int) -> tuple[int, ...]:
    """Which frames of a clip a task gives: the first, the first and the last, or all. Of one frame all are the same."""
    given = {"1view": (0,), "2view": (0, num_frames - 1), "allview": range(num_frames)}[task]
    return tuple(dict.fromkeys(given))


def frame_mask(given: Sequence[int], num_frames: int) -> Bool[np.ndarray, " t"]:
    """True at the frames that are given. Raises UserError for an index outside of the clip or one that repeats."""
    if not given or len(set(given)) != len(given) or not all(0 <= index < num_frames for index in given):
        indices = " ".join(map(str, given))
        raise UserError(f"given frames '{indices}': needed are different indices from 0 to {num_frames - 1}")
    mask = np.zeros(num_frames, bool)
    mask[list(given)] = True
    return mask
