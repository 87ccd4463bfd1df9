"""How a scene is sampled, and what a folder of weights says that it was made for.

``generation.json`` holds defaults of a folder, which flags and arguments override; ``scheduler.json`` holds the shift
of its noise schedule.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gen3r_jax.diffusion.solvers import SOLVERS
from gen3r_jax.errors import UserError
from gen3r_jax.options import read_options
from gen3r_jax.storage.files import read_json
from gen3r_jax.storage.hashes import require_whole

GEOMETRIES = ("generated", "video", "both")
"""Where the geometry of a scene may come from."""

MOST_FRAMES = 49
"""Frames of the clips that the released weights were trained on."""


@dataclass(frozen=True)
class SamplingOptions:
    """What a config may say of how scenes are sampled; None is as the folder of weights says.

    Attributes:
      num_inference_steps: steps of the solver; with 0 a validation draws no samples.
      guidance_scale: strength of classifier-free guidance; 1 and below: none.
      negative_prompt: text that guidance leads away from.
      guidance_skip: part of the steps, the last ones, that run without guidance.
      step_cache: threshold of the step cache, 0 for none.
      solver: "euler", "unipc" or "dpm++".
      shift: shift of the noise schedule towards noise.
      seed: number that the noise follows from.
    """

    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str | None = None
    guidance_skip: float | None = None
    step_cache: float | None = None
    solver: str | None = None
    shift: float | None = None
    seed: int | None = None
    geometry: str | None = None


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """What a folder of weights was made for, and how it is sampled. The defaults are those of the released weights.

    Attributes:
      num_frames: length of a clip, 4k+1.
      height, width: size of the frames in pixels, multiples of 112.
      num_inference_steps: steps of the solver; with 0 a validation draws no samples.
      guidance_scale: strength of classifier-free guidance; 1 and below: none.
      negative_prompt: text that guidance leads away from.
      guidance_skip: part of the steps, the last ones, that run without guidance.
      step_cache: above 0, steps whose velocity should hardly differ take over that of the step before; 0.1 is moderate.
      solver: "euler" (the official choice), "unipc" or "dpm++".
      shift: shift of the noise schedule towards noise; None is that of the weights, or 5 for solvers other than euler.
      seed: sample i of a batch depends on the seed and i alone.
      geometry: depth, cameras and points are those that were "generated" with the video, those that VGGT reads from the
        generated "video", or a mix of "both".
    """

    num_frames: int = MOST_FRAMES
    height: int = 560
    width: int = 560
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    negative_prompt: str = "bad detailed"
    guidance_skip: float = 0.0
    step_cache: float = 0.0
    solver: str = "euler"
    shift: float | None = None
    seed: int = 42
    geometry: str = "generated"

    def __post_init__(self) -> None:
        require_text("negative_prompt", self.negative_prompt)
        if self.num_inference_steps < 0:
            raise UserError(f"num_inference_steps must be at least 1, not {self.num_inference_steps}")
        if not 0 <= self.guidance_scale < math.inf:
            raise UserError(
                f"guidance_scale {self.guidance_scale} is negative or not finite; 1 means no guidance, 5 is usual"
            )
        if not 0 <= self.guidance_skip <= 1:
            raise UserError(f"guidance_skip {self.guidance_skip} is not between 0 and 1")
        if not 0 <= self.step_cache < math.inf:
            raise UserError(f"step_cache {self.step_cache} is negative or not finite; 0 means none, 0.1 is moderate")
        if self.solver not in SOLVERS:
            raise UserError(f"solver {self.solver!r} is none of {', '.join(SOLVERS)}")
        if self.geometry not in GEOMETRIES:
            raise UserError(f"geometry {self.geometry!r} is none of {', '.join(GEOMETRIES)}")
        if self.shift is not None and not 0 < self.shift < math.inf:
            raise UserError(f"shift {self.shift} is not a positive, finite number")
        if not 0 <= self.seed < 2**32:  # JAX takes no more of it
            raise UserError(f"seed {self.seed} is not a number from 0 to 2**32 - 1")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def take(self, **changes: Any) -> Self:
        """The settings with those `changes` that are not None."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


def require_text(name: str, text: str) -> None:
    """Raises UserError where `text` has characters that are none, which bytes become that are no UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        where = f"character {error.start}, {text[error.start]!a}"
        raise UserError(f"{name} is no text: {where}, is none; write it in UTF-8") from None


def read_settings(weights: Path) -> GenerationSettings:
    """The settings of a folder of weights; without ``generation.json`` those of the released weights.

    Raises UserError where a file holds something else.
    """
    file = weights / "generation.json"
    require_whole(weights, file.name)
    values = read_json(file) if file.exists() else {}
    return read_options(GenerationSettings, values, str(file))


def read_shift(weights: Path) -> float:
    """The noise schedule's shift that a folder of weights was trained with, from its ``scheduler.json``."""
    file = weights / "scheduler.json"
    require_whole(weights, file.name)
    shift = read_json(file).get("shift")
    if not isinstance(shift, (int, float)) or not shift > 0:
        raise UserError(f'{file} has no shift above 0; repair it, as in {{"shift": 2.0}}')
    return float(shift)
