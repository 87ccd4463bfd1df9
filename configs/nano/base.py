"""Data, optimiser and sizes of the nano recipes that stand alone: `wan_vae`, `vggt` and `rgb_head` begin here."""

from ml_collections import ConfigDict

from gen3r_jax.stages.config import default_config


def get_config(stage: str) -> ConfigDict:
    config = default_config(stage)
    config.model.update(preset="nano", remat="none")
    config.data.update(source="runs/nano/data", max_stride=1, workers=0)
    config.optim.update(optimizer="muon", learning_rate=4e-3, final_fraction=0.01, warmup_steps=100)
    config.mesh.seq = 1
    config.train.update(batch_size=4, side=112, dtype="float32")
    config.validation.update(every=250, clips=8)
    config.checkpoint.update(every=250, keep=2)
    return config
