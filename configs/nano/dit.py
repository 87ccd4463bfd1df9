"""The diffusion transformer of the nano model: `configs/dit.py` at 112 x 112 and 9 frames, from latents encoded before.

Needs `weights/` of the stages before (`make nano` runs all in order). As the paper's transformer begins as one of
videos, Wan 2.1, so this one begins as that of `:appearance`, which learns from nothing to make colours alone: half the
tokens, so a step takes half the time. `:frames` is what `gen3r encode` wants. `:overfit` learns 16 rendered clips by
heart, from nothing; `gen3r encode` takes it, too.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

full_recipe = runpy.run_path(str(Path(__file__).parent.parent / "dit.py"))["get_config"]


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "frames", "appearance", "overfit"):
        raise ValueError(f"configs/nano/dit.py has no preset {preset!r}; it has frames, appearance, overfit")
    config = full_recipe()
    config.model.update(preset="nano", remat="none", vae_chunk_frames=0, frozen_dtype="float32")
    config.weights.update(dir="runs/nano/weights", encoded="runs/nano/latents")
    config.weights.wan_dit = "runs/nano/dit-appearance/weights/wan_dit"
    config.data.update(source="runs/nano/data", sets=(), normalize=True, workers=0)
    config.optim.update(optimizer="muon", learning_rate=4e-3, warmup_steps=100, final_fraction=0.01, weight_decay=1e-2)
    config.optim.update(clip_norm=1.0, ema_decay=0.998)
    config.samples.update(num_inference_steps=4, guidance_scale=1.0, negative_prompt="")
    config.train.update(batch_size=8, side=112, phases=((9, 5_000, 8),), dtype="float32")
    config.validation.update(every=1000, clips=4)
    config.checkpoint.update(every=500, keep=2, keep_every=0)
    if preset == "appearance":
        config.model.latents = "appearance"
        config.weights.wan_dit = "random"
        config.train.phases = ((9, 7_000, 8),)
    if preset in ("frames", "overfit"):
        config.weights.update(wan_dit="random", encoded="")
    if preset == "overfit":
        config.data.update(source="procedural", num_scenes=16)
        config.conditions.update(text_drop=0.0, camera_drop=0.0)
        config.samples.guidance_scale = 1.0
        config.train.phases = ((9, 2_000, 8),)
        config.validation.split = "train"
    return config
