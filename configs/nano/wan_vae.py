"""The video VAE of the nano model, from nothing: 112 x 112, 9 frames, 1.94 million parameters.

The recipe is for an hour on one CPU core: many small steps (a step takes 0.1 s of gradient for two crops) teach more
than few large ones. To go on with whole frames, start another run from its weights:

    --config.weights.wan_vae=WORKDIR/weights/wan_vae --config.crops.side=0 --config.train.phases='((9, 500, 4),)'

`:overfit` trains on 16 rendered clips alone, whole, one a step; they come back with 30.9 dB.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

base = runpy.run_path(str(Path(__file__).parent / "base.py"))["get_config"]


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "overfit"):
        raise ValueError(f"configs/nano/wan_vae.py has no preset {preset!r}; it has overfit")
    config = base("wan_vae")
    config.optim.learning_rate = 5e-3
    config.mesh.seq = 0
    config.train.phases = ((9, 9_000, 4),)  # (frames, steps, clips per device)
    config.validation.every = 1000

    if preset == "overfit":
        config.statistics.clips = 16
        config.data.update(source="procedural", num_scenes=16)
        config.crops.side = 0  # a crop of a clip is another clip: there are 5329 of them, at all places of the cells
        config.train.update(batch_size=1, phases=((9, 6_000, 1),))
        config.validation.update(every=500, clips=16, split="train")
    return config
