"""The rows of an evaluation: everything that is asked of the weights about one clip, and what knows nothing.

Names of rows are ``METHOD/TASK`` or ``METHOD/TASK+cameras``:

    gen3r/1view+cameras   generated from the first frame and the cameras, and so on for every task
    vae_only/allview      the clip's own latents, decoded: the best a generation can be ("VAE only", Table 3)
    wvd_vae_only/allview  VGGT's points through the video's VAE, as WVD keeps them ("WVD (VAE only)", Table 3)
    rgb_head/allview      colours that a head reads from VGGT's tokens (Table 9), where there is such a head
    vggt/allview          VGGT on all true frames; vggt/1view, vggt/2view on the given ones alone
    baseline/1view        the first frame repeated, a camera that stands still, one depth everywhere

With `rows.geometry` there are ``gen3r_video/...`` and ``gen3r_both/...``: the same scenes with the geometry that VGGT
reads from the generated video, and with the mix of both. ``gen3r/1view+cameras, euler 8`` is a point of a sweep.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np

from gen3r_jax import module
from gen3r_jax.diffusion.solvers import SOLVERS
from gen3r_jax.diffusion.tasks import TASKS, given_frames
from gen3r_jax.errors import UserError
from gen3r_jax.evaluation.protocol import Prediction, Truth
from gen3r_jax.generation import programs
from gen3r_jax.generation.networks import Network, encode_tokens, encode_video, finite
from gen3r_jax.generation.pipeline import Gen3RPipeline, Gen3RPipelineOutput
from gen3r_jax.generation.settings import GEOMETRIES, GenerationSettings
from gen3r_jax.geometry.cameras import decode_pose, plucker_map
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.models.vggt import SPECIAL_TOKENS
from gen3r_jax.sharding import fetch


@dataclass(frozen=True)
class RowOptions:
    """The config group ``rows``: what is judged beside the truth.

    tasks, cameras: which generations; whether their cameras are given, which reconstruction ("allview") never gets.
    autoencoders: the rows "VAE only". vggt: VGGT, of all frames and of the given ones alone.
    baselines: the first frame repeated, cameras that stand still, one depth everywhere.
    geometry: sources of the geometry of generated scenes, each judged in a row of its own; empty: that of the sampling.
    """

    tasks: tuple[str, ...] = TASKS
    cameras: tuple[bool, ...] = (True, False)
    autoencoders: bool = True
    vggt: bool = True
    baselines: bool = True
    geometry: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if unknown := [str(source) for source in self.geometry if source not in GEOMETRIES]:
            raise UserError(f"rows.geometry: {', '.join(unknown)}; they are some of {', '.join(GEOMETRIES)}")
        if unknown := [str(task) for task in self.tasks if task not in TASKS]:
            raise UserError(f"rows.tasks: {', '.join(unknown)}; they are some of {', '.join(TASKS)}")


@dataclass(frozen=True)
class SweepOptions:
    """The config group ``sweep``: generations once more with every number of steps and every solver.

    steps: numbers of steps; empty: no sweep. solvers: empty: that of the sampling.
    """

    steps: tuple[int, ...] = ()
    solvers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if any(steps < 1 for steps in self.steps):
            raise UserError(f"sweep.steps {self.steps}: numbers of steps must be at least 1")
        if unknown := [str(solver) for solver in self.solvers if solver not in SOLVERS]:
            raise UserError(f"sweep.solvers: {', '.join(unknown)}; they are some of {', '.join(SOLVERS)}")

    def points(self, sampling: GenerationSettings) -> Iterator[tuple[str, GenerationSettings]]:
        """What stands behind the row's name, and how it is sampled."""
        for solver, steps in product(self.solvers or (sampling.solver,), self.steps):
            yield f", {solver} {steps}", sampling.take(solver=solver, num_inference_steps=steps)


def predict(
    pipeline: Gen3RPipeline,
    truth: Truth,
    caption: str,
    rows: RowOptions,
    sampling: GenerationSettings,
    sweep: SweepOptions = SweepOptions(),
    rgb_head: Network | None = None,
) -> Iterator[tuple[str, Prediction]]:
    """All rows of one clip, one after the other; those that need cameras are left out where the truth has none."""
    frames = truth.frames.astype(np.float32) / 255
    count = len(frames)
    reconstruct = cache(lambda given: _vggt(pipeline, frames, given))
    for task in rows.tasks:
        given = given_frames(task, count)
        for cameras in rows.cameras:
            if cameras and (truth.c2w is None or task == "allview"):
                continue
            name = f"{task}{'+cameras' * cameras}"
            output = _generate(pipeline, truth, frames, given, caption, cameras, sampling)
            for source in rows.geometry or (sampling.geometry,):
                yield _judged(pipeline, output, source, name, given, cameras)
            for point, settings in sweep.points(sampling):
                again = _generate(pipeline, truth, frames, given, caption, cameras, settings)
                yield f"gen3r/{name}{point}", _of_output(again, given)
        if rows.vggt:
            yield f"vggt/{task}", reconstruct(given)
    if rows.autoencoders and pipeline.joint:
        yield "vae_only/allview", _of_output(pipeline.decode(_encode(pipeline, frames)), ())
    if rows.autoencoders:
        yield "wvd_vae_only/allview", _points_through_vae(pipeline, reconstruct(given_frames("allview", count)))
    if rows.autoencoders and rgb_head:
        colours = finite("rgb_head", fetch(_colours(pipeline.network("vggt"), rgb_head, frames[None])))
        yield "rgb_head/allview", Prediction(colours[0])
    if rows.baselines:
        yield "baseline/1view", _baseline(truth, frames)


def _generate(pipeline, truth, frames, given, caption, cameras, sampling) -> Gen3RPipelineOutput:
    maps = None
    if cameras:
        maps = plucker_map(truth.intrinsics, truth.c2w, frames.shape[1:3])[None].astype(np.float32)
    return pipeline(
        caption,
        frames[list(given)][None],
        maps,
        control_frames=given,
        negative_prompt=sampling.negative_prompt,
        num_frames=len(frames),
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance_scale,
        cfg_skip_ratio=sampling.guidance_skip,
        step_cache=sampling.step_cache,
        solver=sampling.solver,
        shift=sampling.shift,
        seed=sampling.seed,
        geometry="generated",
        progress=False,
    )


def _judged(
    pipeline: Gen3RPipeline, output: Gen3RPipelineOutput, source: str, name: str, given: tuple[int, ...], cameras: bool
) -> tuple[str, Prediction]:
    """A row of a generated scene with one source of its geometry; its frames are judged with the generated one."""
    if source == "generated":
        return f"gen3r/{name}", _of_output(output, given)
    output = pipeline.reread(output, source, free_cameras=not cameras)
    assert output.agreement is not None
    prediction = replace(_of_output(output, given), frames=None, agreement=output.agreement[0])
    return f"gen3r_{source}/{name}", prediction


def _of_output(output: Gen3RPipelineOutput, given: tuple[int, ...]) -> Prediction:
    w2c, intrinsics = (x[0] for x in output.cameras)
    frames = output.rgbs[0]
    return Prediction(frames, given, range(len(frames)), output.depth_maps[0, ..., 0], w2c, intrinsics)


def _vggt(pipeline: Gen3RPipeline, frames: np.ndarray, given: tuple[int, ...]) -> Prediction:
    geometry = finite("vggt", fetch(programs.reconstruct(pipeline.network("vggt"), frames[list(given)][None])))
    w2c, intrinsics = decode_pose(geometry.pose_encs[-1, 0], frames.shape[1:3])
    return Prediction(None, (), given, geometry.depth[0], np.asarray(w2c), np.asarray(intrinsics))


def _points_through_vae(pipeline: Gen3RPipeline, vggt: Prediction) -> Prediction:
    """The points of VGGT's depth and cameras as a video, through the VAE that was trained for colours.

    Points are in the first camera's coordinates. The middle of their bounding box goes to the middle of the colours and
    the longest side of the box to their whole range, so that x, y and z keep their proportions; both are of the whole
    clip, and undone behind the VAE. The paper does not say how it maps points to [-1, 1].
    """
    points = unproject_depth(*vggt.views)
    low, high = points.min(axis=(0, 1, 2)), points.max(axis=(0, 1, 2))
    side = (high - low).max()
    corner = (low + high - side) / 2
    wan_vae = pipeline.network("wan_vae")
    appearance = finite("wan_vae", _appearance(wan_vae, ((points - corner) / side)[None]))
    decoded = finite("wan_vae", fetch(programs.decode_video(wan_vae, appearance)))[0]
    return Prediction(seen=vggt.seen, points=corner + side * decoded)


def _encode(pipeline: Gen3RPipeline, frames: np.ndarray) -> np.ndarray:
    appearance = finite("wan_vae", _appearance(pipeline.network("wan_vae"), frames[None]))
    adapter = pipeline.network("geometry_adapter")
    geometry = finite("geometry_adapter", _geometry(pipeline.network("vggt"), adapter, frames[None]))
    return fetch(jnp.concatenate([appearance, geometry], axis=3))


@jax.jit
def _appearance(wan_vae: Network, frames: jax.Array) -> jax.Array:
    return encode_video(module.merge(*wan_vae), frames, chunk_frames=4).mode()


@jax.jit
def _geometry(vggt: Network, adapter: Network, frames: jax.Array) -> jax.Array:
    return module.merge(*adapter).encode(encode_tokens(module.merge(*vggt), frames), chunk_frames=4).mode()


@jax.jit
def _colours(vggt: Network, rgb_head: Network, frames: jax.Array) -> jax.Array:
    patch_tokens = module.merge(*vggt).aggregate(frames)[..., SPECIAL_TOKENS:, :]
    return module.merge(*rgb_head)(patch_tokens, frames.shape[2:4])


def _baseline(truth: Truth, frames: np.ndarray) -> Prediction:
    count, height, width = frames.shape[:3]
    return Prediction(
        np.repeat(frames[:1], count, axis=0),
        (0,),
        range(count),
        np.ones((count, height, width), np.float32),
        np.tile(np.eye(4), (count, 1, 1)),
        truth.intrinsics,
    )
