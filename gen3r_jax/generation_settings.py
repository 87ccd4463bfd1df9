"""What a folder of weights says that it was made for, in its ``generation.json``: defaults that flags override."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3r_jax.errors import UserError
from gen3r_jax.options import read_options


@dataclass(frozen=True)
class GenerationSettings:
    """What the file may set; what it leaves out is as for the released weights."""

    num_frames: int = 49
    height: int = 560
    width: int = 560
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    negative_prompt: str = "bad detailed"


def read_settings(weights: Path) -> GenerationSettings:
    """Those of a folder of weights. Raises UserError where its file holds something else."""
    file = weights / "generation.json"
    if not file.exists():
        return GenerationSettings()
    try:
        settings: Any = json.loads(file.read_text())
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}; repair or remove it") from None
    if not isinstance(settings, dict):
        raise UserError(f"{file} holds no JSON object; repair or remove it")
    return read_options(GenerationSettings, settings, str(file))
