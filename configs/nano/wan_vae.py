"""The video VAE of the nano model, from nothing: 112 x 112, 9 frames, 1.94 million parameters.

The recipe is for an hour on one CPU core: many small steps (a step takes 0.1 s of gradient for two crops) teach more
than few large ones. To go on with whole frames, start another run from its weights:

    --config.weights.wan_vae=WORKDIR/weights/wan_vae --config.crops.side=0 --config.train.phases='((9, 500, 4),)'

`:overfit` trains on 16 rendered clips alone; after ten minutes of a core they come back with 23 dB.
"""

from ml_collections import ConfigDict


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "overfit"):
        raise ValueError(f"configs/nano/wan_vae.py has no preset {preset!r}; it has overfit")
    config = ConfigDict()
    config.stage = "wan_vae"
    config.model = dict(preset="nano", remat="none")
    config.weights = dict(wan_vae="")  # weights to start from; empty: random ones
    config.crops = dict(side=40, per_clip=1)  # random squares of every clip; 0: whole frames
    config.losses = dict(square=1.0, absolute=0.0, gradient=0.0, kl=1e-5)
    config.statistics = dict(clips=64)  # the last training clips, for mean and std of the exported latents
    config.data = dict(
        source="runs/nano/data",
        max_stride=1,
        num_scenes=10_000,  # of procedural scenes
        difficulty="easy",
        workers=0,
        prefetch=2,
    )
    config.optim = dict(
        optimizer="muon",
        learning_rate=5e-3,
        final_fraction=0.01,  # cosine from learning_rate to so much of it
        warmup_steps=100,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=0.0,
        clip_norm=1.0,
        clip_start=1.0,
        clip_decay=0.1,
        ema_decay=0.0,
    )
    config.mesh = dict(data=1, fsdp=-1, seq=0, tensor=1)
    config.train = dict(
        seed=42,
        batch_size=4,
        side=112,
        phases=((9, 9_000, 4),),  # (frames, steps, clips per device)
        dtype="float32",
        compile_cache="",
        profile=(),
    )
    config.validation = dict(every=1000, clips=8, split="test")
    config.checkpoint = dict(every=250, keep=2, keep_every=0)

    if preset == "overfit":
        config.statistics.clips = 16
        config.data.update(source="procedural", num_scenes=16)
        config.crops.per_clip = 2
        config.train.update(batch_size=1, phases=((9, 2_000, 1),))
        config.validation.update(every=500, clips=16, split="train")
    return config
