"""What is called after every step of the solver."""

from collections import deque
from collections.abc import Callable

import jax
from jaxtyping import Array, Float

from gen3r_jax.progress import Progress

Callback = Callable[[int, float, Float[Array, "b f h w 16"]], None]


def telling(callback: Callback | None, steps: int) -> Callback:
    """A callback that also tells how far sampling is; it waits for the step before, so the device is never idle."""
    running: deque[jax.Array] = deque()
    progress: Progress | None = None

    def advance(i: int, timestep: float, latents: jax.Array) -> None:
        nonlocal progress
        progress = progress or Progress("sampling", steps, "step", within="Sampling ...")
        running.append(latents)
        last = i == steps - 1
        while len(running) > (0 if last else 1):
            running.popleft().block_until_ready()
            progress.advance()
        if last:
            progress.close()
        if callback is not None:
            callback(i, timestep, latents)

    return advance
