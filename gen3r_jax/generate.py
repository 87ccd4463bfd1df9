"""Scenes from images and a prompt: ``python -m gen3r_jax.generate --task 1view --frame_path IMAGE --prompts TEXT``

The flags of the official command mean here what they mean there.
"""

import argparse
import dataclasses
import sys
import tempfile
from collections import deque
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from conversion.pipeline_folder import find_weights
from gen3r_jax.diffusion.conditioning import TASKS
from gen3r_jax.diffusion.solvers import SOLVERS
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.export.camera_plot import plot_cameras
from gen3r_jax.export.folder import FORMATS, scene_folder, unique_folder, write_scene
from gen3r_jax.export.grid import stack_pictures
from gen3r_jax.export.pointcloud import CloudFilter
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.export.video import require_fps
from gen3r_jax.generation.pipeline import Gen3RPipeline, Gen3RPipelineOutput, default_dtype
from gen3r_jax.generation.request import FIELDS, Request, read_jobs
from gen3r_jax.generation.settings import read_settings
from gen3r_jax.geometry.cameras import plucker_map
from gen3r_jax.geometry.trajectories import PRESETS
from gen3r_jax.models.sizes import require_clip_length, require_side
from gen3r_jax.planning.estimate import describe, estimate
from gen3r_jax.sharding import make_mesh, read_mesh
from gen3r_jax.storage.files import writing

MOST_SHEETS = 32


def main(arguments: list[str] | None = None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    parser.set_defaults(**vars(read_settings(options.pretrained_model_name_or_path)))
    options = parser.parse_args(arguments)
    require_clip_length(options.num_frames)
    require_fps(options.fps)
    require_side(options.height)
    require_side(options.width)
    defaults = {name: getattr(options, name) for name in FIELDS if getattr(options, name, None) is not None}
    if options.dry_run:
        jobs = []
    elif options.jobs:
        jobs = read_jobs(options.jobs, defaults)
    else:
        for name in ("frame_path", "prompts"):
            if name not in defaults:
                raise UserError(f"--{name} is needed (or --jobs with a file of scenes)")
        jobs = [("", Request(**defaults | {"frame_path": tuple(options.frame_path)}))]
    if options.check_step_cache and not (options.step_cache or options.jobs):
        raise UserError("--check_step_cache compares with --step_cache, which is not given")
    mesh = read_mesh(options.mesh) if options.mesh else None
    if options.dry_run:
        if mesh:
            raise UserError("--dry_run estimates for one device; leave --mesh away, or see python -m gen3r_jax.plan")
        weights = find_weights(options.pretrained_model_name_or_path, convert=False)
        size = (options.height, options.width)
        guided, mode = options.guidance_scale > 1, options.memory_mode
        dtype = default_dtype(options.dtype)
        costs = estimate(weights, size, options.num_frames, options.num_inference_steps, guided, dtype, mode)
        print("\n".join(describe(costs, mode)))
        return 0
    _require_writable(options.output_dir)
    weights = find_weights(options.pretrained_model_name_or_path)
    pipeline = Gen3RPipeline.from_pretrained(weights, dtype=options.dtype, memory_mode=options.memory_mode)
    with jax.set_mesh(make_mesh(mesh)) if mesh else nullcontext():
        return _generate_all(pipeline, jobs, options)


def _generate_all(
    pipeline: Gen3RPipeline, jobs: list[tuple[str, Request | UserError]], options: argparse.Namespace
) -> int:
    """Makes one scene after the other; returns the exit status. Of many, one that fails does not stop the others.

    The sheets of the first MOST_SHEETS go into one picture, ``sheet.png``.
    """
    failed = 0
    for name, request in jobs:
        if name and (options.output_dir / name / "run.json").exists():
            print(f"{name}: done before", file=sys.stderr)
            continue
        try:
            if isinstance(request, UserError):
                raise request
            folder = _generate(pipeline, request, options)
            print(folder)
        except UserError as error:
            if not options.jobs:
                raise
            failed += 1
            print(f"{name}: error: {error}", file=sys.stderr)
    sheets = {name: options.output_dir / name / "sheet.png" for name, _ in jobs[:MOST_SHEETS] if name}
    if sheets := {name: file for name, file in sheets.items() if file.exists()}:
        stack_pictures(options.output_dir / "sheet.png", sheets)
    if failed:
        print(f"{failed} of {len(jobs)} jobs failed", file=sys.stderr)
    return 1 if failed else 0


def _generate(pipeline: Gen3RPipeline, request: Request, options: argparse.Namespace) -> Path:
    """Makes one scene; returns the folder it was written to."""
    report = RunReport({**vars(options), **dataclasses.asdict(request)})
    pipeline.stage = report.stage
    size = (options.height, options.width)
    images = request.images(options.num_frames, size)
    cameras = None
    if request.has_cameras:
        c2w, intrinsics = request.camera_path(pipeline, images, options.num_frames)
        if options.preview_cameras:
            picture = options.output_dir / f"{request.name or request.task}-cameras.png"
            plot_cameras(picture, c2w, intrinsics, size)
            return picture
        cameras = plucker_map(intrinsics, c2w, size)[None].astype(np.float32)
    elif options.preview_cameras:
        advice = "allview finds the cameras itself" if request.task == "allview" else "give --cameras"
        raise UserError(f"--preview_cameras: the cameras are free, there is no path to draw; {advice}")
    elif request.cameras != "free":
        print("allview finds the cameras itself; --cameras is not used", file=sys.stderr)
    folder = _output_folder(request, options.output_dir)
    settings = {
        "control_frames": request.given(options.num_frames),
        "negative_prompt": request.negative_prompt,
        "num_frames": options.num_frames,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "cfg_skip_ratio": request.guidance_skip,
        "solver": request.solver,
        "shift": request.shift,
        "seed": request.seed,
    }
    with scene_folder(folder) as partial:
        with tqdm(total=request.num_inference_steps, desc="Sampling", unit="step", leave=False, disable=None) as bar:
            result = pipeline(
                request.text(),
                images[None],
                cameras,
                step_cache=request.step_cache,
                callback_on_step_end=_Progress(bar),
                **settings,
            )
        if request.step_cache:
            report.results["evaluated_steps"] = result.evaluations
            print(f"{result.evaluations} of {request.num_inference_steps} steps ran the transformer", file=sys.stderr)
            if options.check_step_cache:
                exact = pipeline(request.text(), images[None], cameras, **settings)
                report.results |= _deviation(result, exact)
                print(f"against every step: {report.results}", file=sys.stderr)
        with report.stage("Writing files"):
            cloud = CloudFilter.official(remove_far_points=True) if options.remove_far_points else CloudFilter()
            scene = result.scene(prompt=request.text())
            write_scene(scene, partial, options.fps, cloud, formats=options.format)
        report.write(partial / "run.json")
    return folder


def _deviation(result: Gen3RPipelineOutput, exact: Gen3RPipelineOutput) -> dict[str, float]:
    """How far a result with step cache is from the one without."""
    latents = np.linalg.norm(result.latents - exact.latents) / np.linalg.norm(exact.latents)
    psnr = -10 * np.log10(max(np.mean((result.rgbs - exact.rgbs) ** 2), 1e-12))
    depth = np.mean(np.abs(result.depth_maps / exact.depth_maps - 1))
    return {"relative_latents": float(latents), "psnr_db": float(psnr), "relative_depth": float(depth)}


class _Progress:
    """Advances a bar when a step is done, without ever leaving the device idle: it waits for the step before."""

    def __init__(self, bar: tqdm):
        self._bar, self._running = bar, deque()

    def __call__(self, i: int, timestep: float, latents: jax.Array) -> None:
        self._running.append(latents)
        if len(self._running) > 1:
            self._running.popleft().block_until_ready()
            self._bar.update()


def _output_folder(request: Request, parent: Path) -> Path:
    if request.name:
        return parent / request.name
    return unique_folder(parent / request.task, datetime.now().strftime("%Y-%m-%d-%H-%M-%S"))


def _require_writable(folder: Path) -> None:
    with writing(folder, "choose another --output_dir"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m gen3r_jax.generate",
        description="Generates a 3D scene (video, depth, cameras, points) from one image, two images or a video, and a "
        "prompt.",
        epilog="A scene is written to OUTPUT_DIR/TASK/DATE-TIME; its run.json is written last, so a folder with one is "
        "complete. docs/formats.md describes the files, docs/cameras.md the cameras.",
    )
    inputs = parser.add_argument_group("what to generate")
    add = inputs.add_argument
    add("--task", choices=TASKS, default="1view", help="1view: from one image (default); 2view: from the first and "
        "the last; allview: reconstruct a video")  # fmt: skip
    add("--frame_path", nargs="+", metavar="PATH", help="the image, the two images, or a video or folder of images")
    add(
        "--frame_index",
        nargs="+",
        type=int,
        metavar="N",
        help="which frames the images are, from 0 (default: by task); of a longer video or folder these are taken",
    )
    add("--prompts", metavar="TEXT_OR_FILE", help="what the scene shows; of a file, the first line")
    add(
        "--negative_prompt", default="bad detailed", metavar="TEXT", help="what it should not be (default: %(default)s)"
    )
    add("--cameras", default="free", metavar="PATH_OR_PRESET", help=f"a camera file, or one of {', '.join(PRESETS)}")
    add("--camera_format", metavar="FORMAT", help="of a camera file whose form does not tell (docs/cameras.md)")
    add("--camera_angle", type=float, metavar="DEGREES", help="of a preset that turns")
    add("--camera_distance", type=float, metavar="SCALES", help="of a preset that moves, in scene scales")
    add("--preview_cameras", action="store_true", help="draw the path of the cameras and stop")
    add("--jobs", type=Path, metavar="FILE.jsonl", help="many scenes: a JSON object a line, with these flags as keys")

    sampling = parser.add_argument_group("how")
    add = sampling.add_argument
    add("--pretrained_model_name_or_path", type=Path, default=Path("checkpoints"), metavar="DIR",
        help="converted weights, whose generation.json may change the defaults below, or the official folder, which is "
        "converted once (default: checkpoints)")  # fmt: skip
    add("--seed", type=int, default=42, help="default: 42")
    add("--num_inference_steps", type=int, default=50, metavar="N", help="default: 50")
    add("--guidance_scale", type=float, default=5.0, metavar="X", help="1: no guidance (default: 5)")
    add("--guidance_skip", type=float, default=0.0, metavar="RATIO", help="last part of the steps without guidance")
    add("--step_cache", type=float, default=0.0, metavar="X", help="take over velocities that should hardly "
        "change: 0.1 is moderate (default: 0, off)")  # fmt: skip
    add("--check_step_cache", action="store_true", help="generate without the cache too, and tell how far they differ")
    add("--solver", choices=SOLVERS, default="euler", help="default: euler, as upstream")
    add("--shift", type=float, metavar="X", help="more steps at high noise (default: of the weights; 5 if not euler)")
    add("--num_frames", type=int, default=49, metavar="N", help="4k+1 (default: 49)")
    add("--height", type=int, default=560, metavar="PIXELS", help="a multiple of 112 (default: 560)")
    add("--width", type=int, default=560, metavar="PIXELS", help="a multiple of 112 (default: 560)")
    add("--dtype", choices=("float32", "bfloat16"), help="of the weights (default: bfloat16, on CPUs float32)")
    add("--memory_mode", choices=("resident", "staged"), default="resident",
        help="staged: load each network, use it, free it")  # fmt: skip

    add("--dry_run", action="store_true", help="estimate memory and time for these settings and stop")
    add("--mesh", metavar="AXIS=N,...", help="split the work over devices: seq (tokens, frames), tensor (heads), fsdp "
        "(weights), data; for example seq=4,tensor=2 (default: one device)")  # fmt: skip

    outputs = parser.add_argument_group("output")
    add = outputs.add_argument
    add("--output_dir", type=Path, default=Path("results"), metavar="DIR", help="default: results")
    add("--format", nargs="+", choices=FORMATS, metavar="NAME", help=f"write only these of {', '.join(FORMATS)}")
    add("--remove_far_points", action="store_true", help="leave the farthest fifth out of the point cloud, as upstream")
    add("--fps", type=float, default=12, help="speed of the written videos (default: 12)")
    return parser


if __name__ == "__main__":
    main_guard(main)
