"""A head that reads colours from the tokens of the nano model's VGGT, to compare with the video VAE (Gen3R, Table 9).

Needs `weights/vggt` alone. At full size: --config.model.preset=gen3r --config.weights.dir=weights and the data, side,
phases and learning rate that fit. `:tiny` runs in a minute, on the tokens of a tiny random VGGT.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

base = runpy.run_path(str(Path(__file__).parent / "base.py"))["get_config"]


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "tiny"):
        raise ValueError(f"configs/nano/rgb_head.py has no preset {preset!r}; it has tiny")
    config = base("rgb_head")
    config.model.frozen_dtype = "float32"
    config.weights.dir = "runs/nano/weights"
    config.train.phases = ((9, 1_000, 4),)  # (frames, steps, clips per device)

    if preset == "tiny":
        config.model.preset = "tiny"
        config.weights.dir = ""  # a random VGGT
        config.data.update(source="procedural", num_scenes=64)
        config.optim.update(learning_rate=1e-2, warmup_steps=0)
        config.train.update(batch_size=2, phases=((5, 100, 2),))
        config.validation.update(every=50, clips=2)
        config.checkpoint.every = 50
    return config
