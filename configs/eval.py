"""Evaluation by the paper's protocol (section 4.2): `configs/eval.py` at full size, `:nano` for the nano model."""

from ml_collections import ConfigDict


def get_config(preset: str = "") -> ConfigDict:
    if preset not in ("", "nano"):
        raise ValueError(f"configs/eval.py has no preset {preset!r}; it has `nano`, and none for the paper's protocol")
    config = ConfigDict()
    config.data = dict(
        split="eval",  # the lists of `gen3r prepare`; test scenes where there are none
        num_frames=49,
        side=560,
        num_scenes=300,  # at most: as many as the longest list of a set has
        cameras=True,  # whether they are read; without them scenes of images can be judged that have none
        normalize=False,  # lengths in VGGT's unit (the mean distance of the points) instead of the data's own
        difficulty="easy",  # of procedural scenes
    )
    config.rows = dict(
        tasks=("1view", "2view", "allview"),
        cameras=(True, False),  # whether they are given; reconstruction (allview) never gets them
        autoencoders=True,  # the rows "VAE only"
        vggt=True,  # of all frames, and of the given ones alone
        baselines=True,  # the first frame repeated, cameras that stand still, one depth everywhere
    )
    config.sampling = dict(
        steps=50,
        guidance_scale=5.0,
        negative_prompt="bad detailed",
        solver="euler",
        seed=42,
    )
    config.metrics = dict(
        lpips="",  # folder of converted LPIPS weights; empty: n/a
        scale="variance",  # of the alignment: as the released code; "least_squares" as Umeyama
        voxel_size=0.005,  # in units of the true points; clouds are thinned to one point a voxel, then to
        num_points=20_000,
        farthest=80.0,  # true depth beyond is unknown; TartanAir's reaches 1000 m, and far points would say all
    )
    config.output = dict(pictures=12, dtype="")  # scenes on the contact sheet; dtype of the weights, "" by device

    if preset == "nano":
        config.data.update(split="test", num_frames=9, side=112, num_scenes=64, normalize=True)
        config.sampling.update(steps=4, guidance_scale=1.0, negative_prompt="")
        config.metrics.update(voxel_size=0.02, num_points=4000, farthest=0.0)
    return config
