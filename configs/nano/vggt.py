"""VGGT of the nano model, from nothing: 112 x 112, 9 frames, 3.7 million parameters, on scenes with exact geometry.

Samples of three frames from anywhere in the clip are cheap: a thousand steps take 20 minutes of one CPU core.
Rotations left the identity after about three minutes (pairs of frames, cameras alone) with `losses.match` and
`losses.track` together with attention that begins by comparing (`stages/vggt/start.py`), which were tried as one.

`:overfit` learns 16 rendered clips by heart, which shows whether the network can learn at all.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

base = runpy.run_path(str(Path(__file__).parent / "base.py"))["get_config"]


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "overfit"):
        raise ValueError(f"configs/nano/vggt.py has no preset {preset!r}; it has overfit")
    config = base("vggt")
    config.data.depth = True
    config.optim.beta2 = 0.99
    config.train.phases = ((9, 7_000, 4),)  # (frames, steps, clips per device)

    if preset == "overfit":
        config.samples.update(frames=0, per_clip=1, reverse=False, flip=False, permute_colors=False)
        config.losses.dense_frames = 2
        config.data.update(source="procedural", num_scenes=16)
        config.train.update(batch_size=2, phases=((9, 1_600, 2),))
        config.validation.update(every=200, clips=16, split="train")
    return config
