"""Data, optimiser and sizes of the nano recipes that stand alone: `wan_vae`, `vggt` and `rgb_head` begin here."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
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
    config.train = dict(seed=42, batch_size=4, side=112, dtype="float32", compile_cache="", profile=(), share=1.0)
    config.validation = dict(every=250, clips=8, split="test")
    config.checkpoint = dict(every=250, keep=2, keep_every=0)
    return config
