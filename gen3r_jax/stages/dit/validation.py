"""What a validation of the diffusion transformer shows: the same clip generated from more and less of it.

For every task (first frame, first and last, all) with cameras and without: a picture and a video ``TASK[_cameras]`` of

* the clip's frames, and the depth that VGGT sees in them;
* frames and depth as far as the autoencoders can carry them: the best that there is to reach;
* frames and depth as they were generated;

and the generated points as PLY.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gen3r_jax.diffusion.conditioning import condition, given_condition
from gen3r_jax.diffusion.solvers import make_schedule
from gen3r_jax.diffusion.tasks import TASKS
from gen3r_jax.export.grid import spread, write_grid
from gen3r_jax.export.pointcloud import scene_cloud, write_ply
from gen3r_jax.export.video import colorize_depth, depth_limits, write_video
from gen3r_jax.generation import programs
from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.pipeline import Gen3RPipeline, Gen3RPipelineOutput
from gen3r_jax.generation.settings import GenerationSettings
from gen3r_jax.geometry.cameras import plucker_map
from gen3r_jax.models.sizes import clip_frames
from gen3r_jax.module import Params
from gen3r_jax.ops.psnr import psnr
from gen3r_jax.sharding import fetch
from gen3r_jax.stages.dit.inputs import Inputs, task_masks
from gen3r_jax.training.stage import Batch, Metrics


def validate(
    options: GenerationSettings,
    inputs: Inputs,
    frozen: Params,
    batch: Mapping[str, Any],
    directory: Path,
    *,
    losses: Callable[[Batch, Array], Metrics],
    network: Callable[[str], Network],
    joint: bool,
    shift: float,
) -> Metrics:
    """The losses on all clips of `batch`, with the same noise each time; pictures of the first clip.

    Args:
      losses: (what is stored of the clips, features of no text) -> their losses.
      network: gives a network by its name.
      joint, shift: as of :class:`gen3r_jax.generation.pipeline.Gen3RPipeline`.

    Returns:
      The losses; for every sample ``TASK[_cameras]/psnr``, of generated frames against those that the autoencoder makes
      of the clip's own latents, in dB, and ``.../latents``, the distance of the generated latents from the clip's own
      as a part of their size.
    """
    stored = inputs.encode_all(frozen, batch)
    no_text, negative = inputs.encode_texts(frozen, ["", options.negative_prompt])
    metrics = losses(stored, no_text)
    if not options.num_inference_steps:
        return fetch(metrics)
    pipeline = Gen3RPipeline(network, tokenize=None, text_length=0, shift=shift, joint=joint)
    first = jax.tree.map(lambda x: x[:1], stored)
    truth = fetch(_latents(first, joint))
    reachable = pipeline.decode(truth)
    frames = np.asarray(batch["frames"][0]) if "frames" in batch else reachable.scene().rgb
    seen = fetch(programs.reconstruct(pipeline.network("vggt"), frames[None].astype(np.float32) / 255).depth[0])
    for task in TASKS:
        for cameras in (True, False) if first["has_cameras"][0] else (False,):
            name = f"{task}{'_cameras' * cameras}"
            output = generate(options, pipeline, first, task, cameras, negative)
            metrics[f"{name}/psnr"] = float(psnr(output.rgbs, reachable.rgbs))
            metrics[f"{name}/latents"] = float(np.linalg.norm(output.latents - truth) / np.linalg.norm(truth))
            if jax.process_index() == 0:
                write(directory, name, frames, seen, reachable, output)
    return fetch(metrics)


def generate(
    options: GenerationSettings, pipeline: Gen3RPipeline, stored: Batch, task: str, cameras: bool, negative: Array
) -> Gen3RPipelineOutput:
    """One clip anew from its features and the frames that a task gives."""
    f, h, w = stored["appearance_mean"].shape[1:4]
    given = stored[f"{'appearance' if task == 'allview' else task}_mean"]
    mask = task_masks(clip_frames(f))[TASKS.index(task)][None]
    given = (condition if pipeline.joint else given_condition)(given, mask)
    intrinsics, c2w = (np.asarray(fetch(stored[name])) for name in ("intrinsics", "c2w"))
    maps = plucker_map(intrinsics, c2w, (8 * h, 8 * w))
    keys = jax.random.split(jax.random.key(0), 1)
    z, _ = pipeline.sample(
        programs.noise(keys, 0, _latents(stored, pipeline.joint).shape),
        jnp.concatenate([negative[None], stored["text"]]) if options.guidance_scale > 1 else stored["text"],
        stored["image"],
        given,
        maps if cameras else None,
        make_schedule("euler", options.num_inference_steps, pipeline.shift),
        guidance_scale=options.guidance_scale,
    )
    return pipeline.decode(z)


def write(
    directory: Path,
    name: str,
    frames: np.ndarray,
    seen: Float[np.ndarray, "t h w"],
    reachable: Gen3RPipelineOutput,
    output: Gen3RPipelineOutput,
) -> None:
    scenes = [reachable.scene(), output.scene()]
    limits = depth_limits(seen)
    rows = {"frames": frames, "depth, VGGT": colorize_depth(seen, limits)}
    for title, scene in zip(("autoencoders", "generated"), scenes, strict=True):
        rows[title] = scene.rgb
        rows[f"depth, {title}"] = colorize_depth(scene.depth, limits)
    times = spread(len(frames))
    write_grid(directory / f"{name}.png", {title: row[times] for title, row in rows.items()})
    pictures = list(rows.values())
    top, bottom = (np.concatenate(pictures[i::2], axis=2) for i in (0, 1))
    write_video(directory / f"{name}.mp4", np.concatenate([top, bottom], axis=1))
    write_ply(directory / f"{name}.ply", *scene_cloud(scenes[1]))


def _latents(stored: Batch, joint: bool) -> Float[Array, "b f h w 16"]:
    """Modes of the posteriors, side by side."""
    names = ("appearance_mean", *(("geometry_mean",) if joint else ()))
    return jnp.concatenate([jnp.asarray(stored[name]) for name in names], axis=3)
