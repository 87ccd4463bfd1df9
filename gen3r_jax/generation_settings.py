"""What a folder of weights says that it was made for, in its ``generation.json``: defaults that flags override."""

import json
from pathlib import Path

from gen3r_jax.errors import UserError

SETTINGS = ("num_frames", "height", "width", "num_inference_steps", "guidance_scale", "negative_prompt")


def read_settings(weights: Path) -> dict[str, int | float | str]:
    """Some of SETTINGS, none where the folder has no such file. Raises UserError where it holds something else."""
    file = weights / "generation.json"
    if not file.exists():
        return {}
    try:
        settings = json.loads(file.read_text())
        if not isinstance(settings, dict):
            raise UserError(f"{file} holds no JSON object; repair or remove it")
    except ValueError as error:
        raise UserError(f"{file} is not JSON: {error}; repair or remove it") from None
    if unknown := sorted(set(settings) - set(SETTINGS)):
        raise UserError(f"{file} sets {', '.join(unknown)}; it may set {', '.join(SETTINGS)}")
    return settings
