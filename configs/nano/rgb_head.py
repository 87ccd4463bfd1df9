"""A head that reads colours from the tokens of the nano model's VGGT, to compare with the video VAE (Gen3R, Table 9).

Needs `weights/vggt` alone. At full size: --config.model.preset=gen3r --config.weights.dir=weights and the data, side,
phases and learning rate that fit. `:tiny` runs in a minute, on the tokens of a tiny random VGGT.
"""

from ml_collections import ConfigDict


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "tiny"):
        raise ValueError(f"configs/nano/rgb_head.py has no preset {preset!r}; it has tiny")
    config = ConfigDict()
    config.stage = "rgb_head"
    config.model = dict(preset="nano", remat="none", frozen_dtype="float32")
    config.weights = dict(dir="runs/nano/weights")
    config.samples = dict(frames=3)  # of each clip are judged in a step; 0: all
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
        learning_rate=4e-3,
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
    config.mesh = dict(data=1, fsdp=-1, seq=1, tensor=1)
    config.train = dict(
        seed=42,
        batch_size=4,
        side=112,
        phases=((9, 1_000, 4),),  # (frames, steps, clips per device)
        dtype="float32",
        compile_cache="",
        profile=(),
    )
    config.validation = dict(every=250, clips=8, split="test")
    config.checkpoint = dict(every=250, keep=2, keep_every=0)

    if preset == "tiny":
        config.model.preset = "tiny"
        config.weights.dir = ""  # a random VGGT
        config.data.update(source="procedural", num_scenes=64)
        config.optim.update(learning_rate=1e-2, warmup_steps=0)
        config.train.update(batch_size=2, phases=((5, 100, 2),))
        config.validation.update(every=50, clips=2)
        config.checkpoint.every = 50
    return config
