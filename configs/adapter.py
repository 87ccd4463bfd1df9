"""Stage 1: the geometry adapter. `configs/adapter.py` is the paper's recipe; `:tiny` runs on a CPU in minutes."""

from ml_collections import ConfigDict

from gen3r_jax.stages.config import default_config


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "tiny"):
        raise ValueError(f"configs/adapter.py has no preset {preset!r}; it has `tiny`, and none for the full recipe")
    config = default_config("adapter")
    # Cosine from learning_rate to final_fraction of it, in each phase. The threshold of the gradient starts clip_start
    # times higher and comes down over clip_decay of a phase.
    config.optim.update(final_fraction=0.2, weight_decay=1e-4, clip_norm=0.5)
    config.train.phases = ((25, 15_000, 2), (49, 6_000, 1))  # (frames, steps, clips per device)
    config.checkpoint.keep_every = 3000

    if preset == "tiny":
        config.model.update(preset="tiny", remat="none", vae_chunk_frames=0, frozen_dtype="float32")
        config.weights.dir = ""  # random VGGT and Wan VAE
        config.data.update(source="procedural", num_scenes=64, workers=0)
        config.optim.learning_rate = 2e-3
        config.train.update(batch_size=2, side=112, phases=((5, 300, 2),), dtype="float32")
        config.validation.update(every=100, clips=1)
        config.checkpoint.update(every=50, keep=2, keep_every=0)
    return config
