"""Stage 1: the geometry adapter. `configs/adapter.py` is the paper's recipe; `:tiny` runs on a CPU in minutes."""

from ml_collections import ConfigDict


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "tiny"):
        raise ValueError(f"configs/adapter.py has no preset {preset!r}; it has `tiny`, and none for the full recipe")
    config = ConfigDict()
    config.stage = "adapter"
    config.model = dict(
        preset="gen3r",
        remat="full",  # of the adapter's blocks
        frames_per_group=4,  # decoded tokens (10240 channels) are compared so many frames at a time
        vae_chunk_frames=4,
        frozen_dtype="bfloat16",  # of VGGT's aggregator and the video encoder
    )
    config.weights = dict(
        dir="weights",  # converted official weights: weights/vggt, weights/wan_vae
        adapter="",  # weights to start from; empty: random ones
    )
    config.losses = dict(
        reconstruction=0.5,  # of the sum of the next five
        image_token=1.0,
        camera_token=1.0,
        camera=10.0,
        depth=2.0,
        point=1.0,
        similarity=0.1,
        alignment=2.0,
        kl="align",  # "standard": to N(0, 1); "none": the paper's ablation
        kl_weight_per="sample",  # "batch": of a micro-batch, as the released trainer does
    )
    config.data = dict(
        source="",  # must be given: a video, a folder, a data set root, shards
        sets=(),  # all scenes are equal; configs/data/mixture.py has the weights of stage 2
        max_stride=2,
        cameras=False,
        num_scenes=10_000,  # the rest is of procedural scenes and of the loader
        difficulty="easy",
        workers=8,
        prefetch=2,
    )
    config.optim = dict(
        learning_rate=1e-5,
        final_fraction=0.2,  # cosine from learning_rate to so much of it, in each phase
        warmup_steps=0,
        beta1=0.9,
        beta2=0.999,
        eps=1e-8,
        weight_decay=1e-4,
        clip_norm=0.5,
        clip_start=1.0,  # the threshold starts so many times higher
        clip_decay=0.1,  # and comes down over this part of a phase
        ema_decay=0.0,
        optimizer="adamw",  # or "muon"
    )
    config.mesh = dict(data=1, fsdp=-1, seq=0, tensor=1)  # seq 0: 1, 2 or 4, as the batch divides
    config.train = dict(
        seed=42,
        batch_size=192,
        side=560,
        phases=((25, 15_000, 2), (49, 6_000, 1)),  # (frames, steps, clips per device)
        dtype="bfloat16",
        compile_cache="",
        profile=(),
    )
    config.validation = dict(every=500, clips=1)
    config.checkpoint = dict(every=250, keep=3, keep_every=3000)

    if preset == "tiny":
        config.model.update(preset="tiny", remat="none", vae_chunk_frames=0, frozen_dtype="float32")
        config.weights.dir = ""  # random VGGT and Wan VAE
        config.data.update(source="procedural", num_scenes=64, workers=0)
        config.optim.learning_rate = 2e-3
        config.train.update(batch_size=2, side=112, phases=((5, 300, 2),), dtype="float32")
        config.validation.update(every=100, clips=1)
        config.checkpoint.update(every=50, keep=2, keep_every=0)
    return config
