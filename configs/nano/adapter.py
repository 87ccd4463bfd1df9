"""The geometry adapter of the nano model: `configs/adapter.py` at 112 x 112 and 9 frames, between nano networks.

Needs `weights/vggt` and `weights/wan_vae` of the two stages before (`make nano` runs all in order). `:no_kl` is the
paper's ablation, `:overfit` learns 16 rendered clips by heart.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

full_recipe = runpy.run_path(str(Path(__file__).parent.parent / "adapter.py"))["get_config"]


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "no_kl", "overfit"):
        raise ValueError(f"configs/nano/adapter.py has no preset {preset!r}; it has no_kl, overfit")
    config = full_recipe()
    config.model.update(preset="nano", remat="none", vae_chunk_frames=0, frozen_dtype="float32")
    config.weights.dir = "runs/nano/weights"
    config.data.update(source="runs/nano/data", max_stride=1, workers=0)
    # The small VGGT's tokens are large and its heads read little of them: with the paper's weights cameras were lost on
    # the way. Points are those of depth and cameras; judging the second dense head would cost a third of a step.
    config.losses.update(image_token=0.2, camera_token=0.2, camera=50.0, depth=4.0, point=0.0)
    config.optim.update(optimizer="muon", learning_rate=4e-3, warmup_steps=100, final_fraction=0.01, clip_norm=1.0)
    config.train.update(batch_size=2, side=112, phases=((9, 5_000, 2),), dtype="float32")
    config.validation.update(every=500, clips=4)
    config.checkpoint.update(every=250, keep=2, keep_every=0)
    if preset == "no_kl":
        config.losses.kl = "none"
    if preset == "overfit":
        config.data.update(source="procedural", num_scenes=16)
        config.train.phases = ((9, 1_000, 2),)
        config.validation.update(every=250, clips=16, split="train")
    return config
