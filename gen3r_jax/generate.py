"""Scenes from images and a prompt: ``gen3r generate --images IMAGE --prompt TEXT --output SCENE``

The flags of the official command mean here what they mean there.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from gen3r_jax.command_line import Size, add_compile_cache, read_part
from gen3r_jax.data.clips import FITS
from gen3r_jax.diffusion.solvers import SOLVERS
from gen3r_jax.diffusion.tasks import TASKS
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.export.folder import FORMATS, describe_formats, require_formats
from gen3r_jax.generation.settings import GEOMETRIES
from gen3r_jax.geometry.trajectories import EASINGS, PRESETS


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    import jax

    from conversion.lora import split_scale
    from conversion.pipeline_folder import locate_weights
    from gen3r_jax.export.video import require_fps
    from gen3r_jax.generation.jobs import generate_all, require_writable
    from gen3r_jax.generation.pipeline import Gen3RPipeline
    from gen3r_jax.generation.request import Request, read_jobs
    from gen3r_jax.generation.settings import read_settings
    from gen3r_jax.sharding import make_mesh, read_mesh
    from gen3r_jax.storage.compile_cache import use_compile_cache

    require_formats(options.format or ())
    use_compile_cache(options.compile_cache)
    if options.fps is not None:
        require_fps(options.fps)
    mesh = read_mesh(options.mesh) if options.mesh else None
    weights = locate_weights(options.weights, fetch=not options.dry_run)
    settings = read_settings(weights)
    flags = given_flags(options)
    if options.dry_run:
        if mesh:
            raise UserError("--dry_run estimates for one device; leave --mesh away, or see gen3r plan")
        if options.fit == "whole" and not options.images:
            raise UserError("--fit whole takes its size from the first picture: give --images, or --size without --fit")
        unsaid = {"images": ("none",), "prompt": "none"}
        return _dry_run(options, Request(**{**vars(settings), **unsaid, **flags}).fitted())
    jobs: list[tuple[str, Request | UserError]]
    if options.jobs:
        index, parts = read_part(options.part)
        jobs = read_jobs(options.jobs, vars(settings) | flags)[index::parts]
    else:
        request = read_request(options, settings)
        if options.part != "0/1":
            raise UserError("--part shares the jobs of a file; give --jobs")
        jobs = [("", request)]
        if options.check_step_cache and not request.step_cache:
            raise UserError("--check_step_cache compares with --step_cache, which is not given")
    require_writable(options.output or options.output_dir)
    pipeline = Gen3RPipeline.from_pretrained(weights, dtype=options.dtype, memory_mode=options.memory_mode)
    for file, scale in map(split_scale, options.lora):
        pipeline.load_lora(file, scale)
    with jax.set_mesh(make_mesh(mesh)) if mesh else nullcontext():
        return generate_all(pipeline, jobs, options)


def read_request(options: argparse.Namespace, settings: Any) -> Any:
    """The scene that the flags ask for; what they leave out is as in `settings`. Raises UserError where they cannot."""
    from gen3r_jax.generation.request import Request

    flags = given_flags(options)
    for name in ("images", "prompt"):
        if name not in flags:
            raise UserError(f"--{name} is needed (or --jobs with a file of scenes)")
    return Request(**{**vars(settings), **flags, "images": tuple(options.images)})


def given_flags(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a request that flags give."""
    from gen3r_jax.generation.request import FIELDS

    flags = {name: getattr(options, name) for name in FIELDS if getattr(options, name, None) is not None}
    return flags | _size(options)


def _size(options: argparse.Namespace) -> dict[str, int]:
    """Height and width, as far as flags say them."""
    from gen3r_jax.generation.inputs import as_size

    sides = {name: getattr(options, name) for name in ("height", "width") if getattr(options, name) is not None}
    if options.size and sides:
        raise UserError(f"--size and --{' and --'.join(sides)} say the same twice; give one of them")
    return dict(zip(("height", "width"), as_size(options.size), strict=True)) if options.size else sides


def _dry_run(options: argparse.Namespace, request: Any) -> int:
    from conversion.pipeline_folder import find_weights
    from gen3r_jax.generation.weights import default_dtype
    from gen3r_jax.planning.estimate import describe, estimate

    weights = find_weights(options.weights, convert=False)
    print(f"{request.num_frames} frames of {request.width} x {request.height}")
    costs = estimate(weights, request, default_dtype(options.dtype), options.memory_mode)
    print("\n".join(describe(costs, options.memory_mode)))
    return 0


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="gen3r generate",
        description="Generates a 3D scene (video, depth, cameras, points) from one image, two images or a video, and a "
        "prompt.",
        epilog="Defaults of size, frames, steps and guidance are those of the weights' generation.json, else those "
        "named here. run.json is written last, so a folder that has one is complete. docs/formats.md describes the "
        "files, docs/cameras.md the cameras. Names of the official command are accepted: "
        "--pretrained_model_name_or_path, --frame_path, --prompts, --output_dir.",
    )
    inputs = parser.add_argument_group("what to generate")
    add = inputs.add_argument
    add("--images", "--frames", "--frame_path", nargs="+", metavar="PATH",
        help="the image, the two images, or a video or folder of images")  # fmt: skip
    add("--masks", nargs="+", metavar="PATH", help="what of the images is known: a mask each, white where it is, as a "
        "folder, a video or images")  # fmt: skip
    add("--prompt", "--prompts", metavar="TEXT_OR_FILE", help="what the scene shows; of a file, the first line")
    add("--task", choices=TASKS, help="1view: from one image (default); 2view: from the first and the last; allview: "
        "reconstruct a video")  # fmt: skip
    add("--frame_index", nargs="+", type=int, metavar="N", help="which frames the images are, from 0 (default: by "
        "task); of a longer video or folder these are taken")  # fmt: skip
    add("--stride", type=int, metavar="N", help="allview: every N-th frame of a longer video or folder, instead of an "
        "even spread")  # fmt: skip
    add("--first", type=int, metavar="N", help="allview: number of the first frame to use, from 0")
    add("--negative_prompt", metavar="TEXT", help="what it should not be (default: bad detailed)")
    add("--cameras", metavar="PATH_OR_PRESET", help=f"a camera file, or one of {', '.join(PRESETS)} (default: free)")
    add("--camera_format", metavar="FORMAT", help="format of a camera file whose form does not tell (docs/cameras.md)")
    add("--camera_angle", type=float, metavar="DEGREES", help="angle of a preset that turns the camera")
    add("--camera_distance", type=float, metavar="SCALES", help="distance of a preset that moves the camera, in scene "
        "scales")  # fmt: skip
    add("--camera_easing", choices=EASINGS, help="ends: begin and end slowly; keys: slow down at every pose of "
        "a file (default: none)")  # fmt: skip
    add("--camera_scale", type=float, metavar="X", help="multiply the translations of a camera file (default: 1)")
    add("--preview_cameras", action="store_true", help="draw the path of the cameras and stop")
    add("--jobs", type=Path, metavar="FILE.jsonl", help="many scenes: a JSON object a line, with these flags as keys; "
        "several processes may share a file, each makes what no other has or is at")  # fmt: skip
    add("--part", default="0/1", metavar="K/N", help="of the jobs, every N-th from the K-th on (default: 0/1, all)")

    sampling = parser.add_argument_group("how")
    add = sampling.add_argument
    add("--weights", "--pretrained_model_name_or_path", type=Path, default=Path("checkpoints"), metavar="DIR",
        help="converted weights, or the official folder, which is converted once; or pretrained/nano, or a repository "
        "of the Hugging Face Hub such as JaceyH919/Gen3R (default: checkpoints)")  # fmt: skip
    add("--lora", nargs="+", default=(), metavar="FILE[:SCALE]", help="add LoRAs to the transformer: safetensors of "
        "PEFT, diffusers, ComfyUI, kohya, lightx2v or gen3r train, or a folder of PEFT; SCALE says how strong "
        "(default: 1)")  # fmt: skip
    add("--size", nargs="+", type=int, action=Size, metavar="PIXELS", help="side of the frames, or height and width; "
        "multiples of 112 (default: 560)")  # fmt: skip
    add("--height", type=int, metavar="PIXELS", help=argparse.SUPPRESS)
    add("--width", type=int, metavar="PIXELS", help=argparse.SUPPRESS)
    add("--fit", choices=FITS, help="other aspects: crop cuts images to the size (default), whole takes a size of "
        "about as many pixels that shows most, pad adds white, which is unknown")  # fmt: skip
    add("--num_frames", type=int, metavar="N", help="length of the clip, 4k+1 (default: 49)")
    add("--seed", type=int, metavar="N", help="seed of the noise (default: 42)")
    add("--num_inference_steps", type=int, metavar="N", help="steps of the solver (default: 50)")
    add("--guidance_scale", type=float, metavar="X", help="strength of guidance; 1: none (default: 5)")
    add("--guidance_skip", type=float, metavar="RATIO", help="last part of the steps without guidance (default: 0)")
    add("--step_cache", type=float, metavar="X", help="take over velocities that should hardly change: 0.1 is moderate "
        "(default: 0, off)")  # fmt: skip
    add("--check_step_cache", action="store_true", help="generate without the cache too, and tell how far they differ")
    add("--solver", choices=SOLVERS, help="default: euler, as upstream")
    add("--shift", type=float, metavar="X", help="more steps at high noise (default: shift of the weights; 5 if the "
        "solver is not euler)")  # fmt: skip
    add("--geometry", choices=GEOMETRIES, help="depth, cameras and points as generated, as VGGT reads them from the "
        "video, or a mix; with video or both, run.json says how far they agree (default: generated)")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16"), help="dtype of the weights (default: bfloat16, on CPUs float32)")
    add("--memory_mode", choices=("resident", "staged"), default="resident",
        help="staged: load each network, use it, free it")  # fmt: skip
    add("--mesh", metavar="AXIS=N,...", help="split the work over devices: seq (tokens, frames), tensor (heads), fsdp "
        "(weights), data; for example seq=4,tensor=2 (default: one device)")  # fmt: skip
    add_compile_cache(sampling)
    add("--dry_run", action="store_true", help="estimate memory and time for these settings and stop")

    outputs = parser.add_argument_group("output")
    add = outputs.add_argument
    add("--output", type=Path, metavar="DIR", help="folder of the scene, new or empty; with --jobs the parent of all")
    add("--output_dir", type=Path, default=Path("results"), metavar="DIR", help="without --output: the scene goes to "
        "DIR/TASK/DATE-TIME (default: results)")  # fmt: skip
    add("--format", nargs="+", choices=FORMATS, metavar="NAME", help=describe_formats())
    add("--remove_far_points", action="store_true", help="leave the farthest fifth out of the point cloud, as upstream")
    add("--fps", type=float, help="speed of the written videos (default: as a video of allview shows its frames, or "
        "12)")  # fmt: skip
    return parser


if __name__ == "__main__":
    main_guard(main)
