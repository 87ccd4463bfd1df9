"""What a folder of weights says that it was made for: ``generation.json`` has defaults that flags override,
``scheduler.json`` the shift of the noise schedule."""

from dataclasses import dataclass
from pathlib import Path

from gen3r_jax.errors import UserError
from gen3r_jax.options import read_options
from gen3r_jax.storage.files import read_json


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
    return read_options(GenerationSettings, read_json(file), str(file))


def read_shift(weights: Path) -> float:
    """The noise schedule's shift that a folder of weights was trained with, from its ``scheduler.json``."""
    file = weights / "scheduler.json"
    shift = read_json(file).get("shift")
    if not isinstance(shift, (int, float)) or not shift > 0:
        raise UserError(f'{file} has no shift above 0; repair it, as in {{"shift": 2.0}}')
    return float(shift)
