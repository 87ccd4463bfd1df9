"""Evaluation by the paper's protocol (section 4.2): `configs/eval.py` at full size, `:nano` for the nano model."""

from dataclasses import asdict

from ml_collections import ConfigDict

from gen3r_jax.evaluation.options import EvaluationOptions


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "nano"):
        raise ValueError(f"configs/eval.py has no preset {preset!r}; it has `nano`, and none for the paper's protocol")
    config = ConfigDict(asdict(EvaluationOptions()))
    if preset == "nano":
        config.data.update(split="test", num_frames=9, side=112, num_scenes=64, normalize=True)
        config.sampling.update(steps=4, guidance_scale=1.0, negative_prompt="")
        config.metrics.update(voxel_size=0.02, num_points=4000, farthest=0.0)
    return config
