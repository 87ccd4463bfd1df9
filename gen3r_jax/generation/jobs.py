"""The work of ``gen3r generate``: one scene after the other, each in a folder of its own."""

import argparse
import dataclasses
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import numpy as np
from etils import epath

from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import scene_folder, unique_folder
from gen3r_jax.export.grid import stack_pictures
from gen3r_jax.export.pointcloud import CloudFilter
from gen3r_jax.generation.output import Gen3RPipelineOutput
from gen3r_jax.generation.pipeline import Gen3RPipeline
from gen3r_jax.generation.request import Request
from gen3r_jax.generation.sampling import Callback
from gen3r_jax.ops.psnr import psnr
from gen3r_jax.progress import Progress
from gen3r_jax.storage.files import writing
from gen3r_jax.storage.folders import mark, require_ours
from gen3r_jax.storage.locks import Held

SCENES = "scenes of jobs"
"""Kind of the folder, as its marker says it."""

MOST_SHEETS = 32
SHOWN = ("viewer.html", "scene.glb", "rgb.mp4", "sheet.png")
"""Files that a user opens first, the best one first."""


def generate_all(
    pipeline: Gen3RPipeline, jobs: list[tuple[str, Request | UserError]], options: argparse.Namespace
) -> int:
    """Makes one scene after the other; returns the exit status. Of many, one that fails does not stop the others.

    The sheets of the first MOST_SHEETS go into one picture, ``sheet.png``.
    """
    parent, failed, taken, shown = options.output or options.output_dir, 0, 0, None
    if options.jobs:
        require_ours(parent, SCENES, _holds_scenes, among=("sheet.png",), advice="give another --output")
        mark(parent, SCENES)
    before = sum(_is_done(parent, name) for name, _ in jobs)
    progress = Progress("jobs", len(jobs), "scene", done=before, quiet=not options.jobs, bar=False)
    for number, (name, request) in enumerate(jobs, 1):
        if _is_done(parent, name):
            print(f"{name}: done before", file=sys.stderr)
            continue
        if name:
            print(f"{name}: scene {number} of {len(jobs)}", file=sys.stderr)
        try:
            if isinstance(request, UserError):
                raise request
            made = generate_one(pipeline, request, options)
            print(made, flush=True)
            shown = next((made / file for file in SHOWN if (made / file).exists()), None)
        except Held as held:
            if not options.jobs:
                raise
            taken += 1
            print(f"{name}: left to another process: {held}", file=sys.stderr)
        except UserError as error:
            if not options.jobs:
                raise
            if _is_done(parent, name):  # another process was faster
                continue
            failed += 1
            print(f"{name}: error: {error}", file=sys.stderr)
        finally:
            progress.advance()
    sheets = {name: parent / name / "sheet.png" for name, _ in jobs[:MOST_SHEETS] if name}
    if sheets := {name: file for name, file in sheets.items() if file.exists()}:
        shown = parent / "sheet.png"
        stack_pictures(shown, sheets)
    if taken:
        print(f"{taken} of {len(jobs)} jobs were left to other processes", file=sys.stderr)
    if failed:
        print(f"{failed} of {len(jobs)} jobs failed", file=sys.stderr)
    if shown:
        print(f"open {shown}", file=sys.stderr)
    return 1 if failed else 0


def _is_done(parent: Path, name: str) -> bool:
    return bool(name) and (parent / name / "run.json").exists()


def _holds_scenes(folder: epath.Path) -> bool:
    return any(folder.glob("*/run.json"))


def generate_one(
    pipeline: Gen3RPipeline, request: Request, options: argparse.Namespace, callback: Callback | None = None
) -> Path:
    """Makes one scene; returns the folder it was written to, or the picture of its cameras.

    Args:
      options: the flags of the command, which say where and how the scene is written.
      callback: called after every step of the solver.
    """
    cameras = request.cameras
    if request.task == "allview" and cameras != "free":
        print("allview finds the cameras itself; --cameras is not used", file=sys.stderr)
        cameras = "free"
    if options.preview_cameras:
        return _preview(pipeline, request, cameras, options)
    clip = request.pictures()
    fps = options.fps or clip.fps or 12
    arguments = {
        "images": clip,
        "cameras": cameras,
        "control_frames": request.given,
        "size": request.size,
        "fit": request.fit,
        "num_frames": request.num_frames,
        "negative_prompt": request.negative_prompt,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "cfg_skip_ratio": request.guidance_skip,
        "solver": request.solver,
        "shift": request.shift,
        "seed": request.seed,
        "geometry": request.geometry,
        "callback_on_step_end": callback,
        **(request.camera_options if cameras != "free" else {}),
    }
    folder = _scene_folder(request, options)
    with scene_folder(folder) as partial:
        result = pipeline(request.text(), step_cache=request.step_cache, **arguments)
        report = result.report
        assert report is not None
        report.options = {**vars(options), **dataclasses.asdict(request)}
        if request.step_cache:
            report.results["evaluated_steps"] = result.evaluations
            print(f"{result.evaluations} of {request.num_inference_steps} steps ran the transformer", file=sys.stderr)
        if request.step_cache and options.check_step_cache:
            report.results |= _deviation(result, pipeline(request.text(), step_cache=0.0, **arguments))
            print(f"against every step: {report.results}", file=sys.stderr)
        cloud = CloudFilter.official(remove_far_points=True) if options.remove_far_points else CloudFilter()
        result.write(partial, fps=fps, cloud=cloud, formats=options.format)
    print(report.programs(), file=sys.stderr)
    return folder


def _preview(pipeline: Gen3RPipeline, request: Request, cameras: str, options: argparse.Namespace) -> Path:
    from gen3r_jax.export.camera_plot import plot_cameras  # half a second of matplotlib, for previews alone

    if cameras == "free":
        advice = "allview finds the cameras itself" if request.task == "allview" else "give --cameras"
        raise UserError(f"--preview_cameras: the cameras are free, there is no path to draw; {advice}")
    inputs = pipeline.prepare(
        [request.text()],
        request.pictures(),
        cameras,
        request.num_frames,
        request.size,
        control_frames=request.given,
        fit=request.fit,
        **request.camera_options,
    )
    picture = (options.output or options.output_dir) / f"{request.name or request.task}-cameras.png"
    plot_cameras(picture, *inputs.poses[0], inputs.images.shape[2:4])
    return picture


def _scene_folder(request: Request, options: argparse.Namespace) -> Path:
    if request.name:
        return (options.output or options.output_dir) / request.name
    if options.output:
        return options.output
    return unique_folder(options.output_dir / request.task, datetime.now().strftime("%Y-%m-%d-%H-%M-%S"))


def _deviation(result: Gen3RPipelineOutput, exact: Gen3RPipelineOutput) -> dict[str, float]:
    """How far a result with step cache is from the one without."""
    latents = np.linalg.norm(result.latents - exact.latents) / np.linalg.norm(exact.latents)
    depth = np.mean(np.abs(result.depth_maps / exact.depth_maps - 1))
    return {
        "relative_latents": float(latents),
        "psnr_db": float(psnr(result.rgbs, exact.rgbs)),
        "relative_depth": float(depth),
    }


def require_writable(folder: Path) -> None:
    """Raises UserError where nothing can be written into a folder, which is made when it is missing."""
    with writing(folder, "choose another --output"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
