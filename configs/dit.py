"""Stage 2: the diffusion transformer. `configs/dit.py` is the recipe; `:tiny` runs on a CPU in minutes.

`:overfit` is `:tiny` on a single clip, which it learns by heart: the loss must fall to nearly nothing.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

from gen3r_jax.stages.config import default_config

MIXTURE = runpy.run_path(str(Path(__file__).parent / "data" / "mixture.py"))["MIXTURE"]


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "tiny", "overfit"):
        raise ValueError(f"configs/dit.py has no preset {preset!r}; it has tiny, overfit, and none for the full recipe")
    config = default_config("dit")
    config.data.update(sets=MIXTURE, max_stride=1, cameras=True)
    config.optim.update(final_fraction=1e-4, warmup_steps=50, weight_decay=3e-2, clip_norm=0.25, clip_start=2.0)
    config.train.phases = ((49, 8_000, 1),)  # (frames, steps, clips per device)
    config.validation.every = 200
    config.checkpoint.update(every=100, keep_every=1000)

    if preset in ("tiny", "overfit"):
        config.model.update(preset="tiny", remat="none", vae_chunk_frames=0, frozen_dtype="float32")
        config.weights.dir = ""  # random networks
        config.tuning.rank = 4
        config.noise.strata = 4
        config.samples.num_inference_steps = 20
        config.data.update(source="procedural", num_scenes=64, workers=0)
        config.optim.update(learning_rate=2e-3, warmup_steps=20, clip_norm=1.0, final_fraction=0.1)
        config.train.update(batch_size=4, side=112, phases=((5, 300, 4),), dtype="float32")
        config.validation.update(every=150, clips=2)
        config.checkpoint.update(every=100, keep=2, keep_every=0)
    if preset == "overfit":
        config.data.num_scenes = 1
        config.conditions.update(text_drop=0.0, camera_drop=0.0)
        config.samples.guidance_scale = 1.0  # away from what? It knows one text
        config.train.phases = ((5, 2000, 4),)
        config.validation.update(every=1000, clips=1, split="train")
        config.checkpoint.every = 500
    return config
