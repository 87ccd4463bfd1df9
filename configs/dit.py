"""Stage 2: the diffusion transformer. `configs/dit.py` is the recipe; `:tiny` runs on a CPU in minutes.

`:overfit` is `:tiny` on a single clip, which it learns by heart: the loss must fall to nearly nothing.
"""

import runpy
from pathlib import Path

from ml_collections import ConfigDict

MIXTURE = runpy.run_path(str(Path(__file__).parent / "data" / "mixture.py"))["MIXTURE"]


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "tiny", "overfit"):
        raise ValueError(f"configs/dit.py has no preset {preset!r}; it has tiny, overfit, and none for the full recipe")
    config = ConfigDict()
    config.stage = "dit"
    config.model = dict(
        preset="gen3r",
        latents="joint",  # "appearance": the ablation that makes video alone
        remat="full",  # of the transformer's blocks
        vae_chunk_frames=8,
        frozen_dtype="bfloat16",  # of the frozen networks
    )
    config.weights = dict(
        dir="weights",  # all converted networks, and the tokenizer
        wan_dit="",  # another transformer to start from, or "random"
        encoded="",  # latents of `python -m gen3r_jax.encode`, instead of frames
    )
    config.tuning = dict(
        mode="full",  # "lora": factors of small rank; "camera": the camera adapter alone
        rank=64,  # the rest is of LoRA
        scale=1.0,
        targets=r"blocks\.(self_attn|cross_attn|text_attn|image_attn|mlp)\..*",
    )
    config.conditions = dict(text_drop=0.2, camera_drop=0.5)
    config.noise = dict(shift=2.0, density="none", weighting="none", strata=8)  # strata must divide the batch
    config.samples = dict(steps=50, guidance_scale=5.0, negative_prompt="bad detailed")  # of a validation
    config.data = dict(
        source="",  # must be given: a root with the sets, one set, shards, a video
        sets=MIXTURE,
        max_stride=1,
        cameras=True,
        num_scenes=10_000,  # the rest is of procedural scenes and of the loader
        difficulty="easy",
        workers=8,
        prefetch=2,
    )
    config.optim = dict(
        learning_rate=1e-5,
        final_fraction=1e-4,  # cosine from learning_rate to so much of it
        warmup_steps=50,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=3e-2,
        clip_norm=0.25,
        clip_start=2.0,  # the threshold starts so many times higher
        clip_decay=0.1,  # and comes down over this part of the training
        ema_decay=0.0,
        optimizer="adamw",  # or "muon"
        slow="",  # a regular expression of weights that learn half as fast
    )
    config.mesh = dict(data=1, fsdp=-1, seq=0, tensor=1)  # seq 0: 1, 2 or 4, as the batch divides
    config.train = dict(
        seed=42,
        batch_size=192,
        side=560,
        phases=((49, 8_000, 1),),  # (frames, steps, clips per device)
        dtype="bfloat16",
        compile_cache="",
        profile=(),
    )
    config.validation = dict(every=200, clips=1, split="test")
    config.checkpoint = dict(every=100, keep=3, keep_every=1000)

    if preset in ("tiny", "overfit"):
        config.model.update(preset="tiny", remat="none", vae_chunk_frames=0, frozen_dtype="float32")
        config.weights.dir = ""  # random networks
        config.tuning.rank = 4
        config.noise.strata = 4
        config.samples.steps = 20
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
