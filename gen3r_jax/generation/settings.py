"""How a scene is sampled, and what a folder of weights says that it was made for.

``generation.json`` holds defaults of a folder, which flags and arguments override; ``scheduler.json`` holds the shift
of its noise schedule.
"""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from gen3r_jax.diffusion.solvers import SOLVERS
from gen3r_jax.errors import UserError
from gen3r_jax.models.sizes import require_clip_length, require_side
from gen3r_jax.options import Fraction, Natural, NonNegative, Range, changes_of, check_fields, nearest, read_options
from gen3r_jax.storage.files import read_json
from gen3r_jax.storage.hashes import require_whole

GEOMETRIES = ("generated", "video", "both")
"""Where the geometry of a scene may come from."""

MOST_FRAMES = 49
"""Frames of the clips that the released weights were trained on."""


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
    num_inference_steps: Natural = 50
    guidance_scale: NonNegative = 5.0
    negative_prompt: str = "bad detailed"
    guidance_skip: Fraction = 0.0
    step_cache: NonNegative = 0.0
    solver: str = "euler"
    shift: Annotated[float | None, Range(above=0)] = None
    seed: Annotated[int, Range(at_least=0, below=2**32)] = 42  # JAX takes no more of it
    geometry: str = "generated"

    def __post_init__(self) -> None:
        check_fields(self)
        require_text("negative_prompt", self.negative_prompt)
        require_clip_length(self.num_frames)
        for side in self.size:
            require_side(side)
        if self.solver not in SOLVERS:
            raise UserError(f"solver {self.solver!r}{nearest(self.solver, SOLVERS)} is none of {', '.join(SOLVERS)}")
        if self.geometry not in GEOMETRIES:
            raise UserError(f"geometry {self.geometry!r} is none of {', '.join(GEOMETRIES)}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.height, self.width

    def take(self, **changes: Any) -> Self:
        """The settings with those `changes` that are not None."""
        return dataclasses.replace(self, **{name: value for name, value in changes.items() if value is not None})


class SamplingOptions(changes_of(GenerationSettings, "num_frames", "height", "width")):
    """Holds what a config changes of the settings; None is as the folder of weights says."""


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
    try:
        return read_options(GenerationSettings, values, "settings")
    except UserError as error:
        raise UserError(f"{file}: {error}") from None


def read_shift(weights: Path) -> float:
    """The noise schedule's shift that a folder of weights was trained with, from its ``scheduler.json``."""
    file = weights / "scheduler.json"
    require_whole(weights, file.name)
    shift = read_json(file).get("shift")
    if type(shift) not in (int, float) or not 0 < shift < math.inf:
        raise UserError(f'{file} has no shift above 0; repair it, as in {{"shift": 2.0}}')
    return float(shift)
