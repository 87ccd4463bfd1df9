"""Evaluation by the paper's protocol (section 4.2): `configs/eval.py` at full size, `:nano` for the nano model.

What a config does not say is as in the option dataclasses of `gen3r_jax/evaluation/options.py`; sizes and sampling are
as the weights' generation.json says. Every key can be changed on the command line.
"""

from ml_collections import ConfigDict

from gen3r_jax.evaluation.options import default_config


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "nano"):
        raise ValueError(f"configs/eval.py has no preset {preset!r}; it has `nano`, and none for the paper's protocol")
    config = default_config()
    if preset == "nano":
        config.data.update(split="test", num_scenes=64, normalize=True)
        config.metrics.update(voxel_size=0.02, num_points=4000, farthest=0.0)
    return config
