"""Cameras, depth and points from frames: ``gen3r reconstruct --images VIDEO --weights DIR --output DIR``

VGGT reconstructs the clip. With ``--through_adapter`` its tokens first go through the latents of the geometry adapter,
the space Gen3R generates in: what is lost on that way is what the adapter costs.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from gen3r_jax.command_line import Size, add_compile_cache
from gen3r_jax.data.clips import FITS
from gen3r_jax.data.depth_maps import STEPS
from gen3r_jax.errors import main_guard
from gen3r_jax.export.folder import FORMATS, describe_formats, require_formats, scene_folder
from gen3r_jax.generation.settings import MOST_FRAMES
from gen3r_jax.models.sizes import SIDE_MULTIPLE


def main(arguments: list[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    from gen3r_jax.export.video import require_fps
    from gen3r_jax.generation.vggt import VGGT
    from gen3r_jax.storage.compile_cache import use_compile_cache

    require_formats(options.format or ())
    if options.fps is not None:
        require_fps(options.fps)
    use_compile_cache(options.compile_cache)
    programs = reconstruct_one(VGGT.from_pretrained(options.weights, dtype=options.dtype), options)
    shown = options.output / "viewer.html"
    print(programs, f"open {shown if shown.exists() else options.output}", sep="\n", file=sys.stderr)
    return 0


def reconstruct_one(vggt: Any, options: argparse.Namespace) -> Any:
    """Writes the scene that the flags ask for; returns the programs that were compiled for it."""
    from gen3r_jax.export.pointcloud import CloudFilter

    with scene_folder(options.output) as folder:
        found = vggt.reconstruct(options.images, **given_flags(options))
        found.report.options = vars(options)
        cloud = CloudFilter.official() if options.points == "official" else CloudFilter()
        found.write(folder, fps=options.fps, cloud=cloud, formats=options.format)
    return found.report.programs()


def given_flags(options: argparse.Namespace) -> dict[str, Any]:
    """The fields of a reconstruction's options that flags give."""
    from gen3r_jax.generation.reconstruction import ReconstructionOptions

    return {field.name: getattr(options, field.name) for field in dataclasses.fields(ReconstructionOptions)}


def parser() -> argparse.ArgumentParser:
    """The flags of the command."""
    parser = argparse.ArgumentParser(
        prog="gen3r reconstruct",
        description="Reconstructs cameras, depth and points of a video or of pictures of one still scene with VGGT.",
        epilog="docs/formats.md describes the written files. run.json comes last, so a folder with one is complete.",
    )
    add = parser.add_argument
    add("--images", "--frames", nargs="+", type=Path, required=True, metavar="PATH", help="a video, a folder of "
        "images, or images")  # fmt: skip
    add("--masks", nargs="+", type=Path, default=(), metavar="PATH", help="what of the frames is known: a mask each, "
        "white where it is, as a folder, a video or images")  # fmt: skip
    add("--weights", type=Path, required=True, metavar="DIR", help="weights as `gen3r generate` takes them, or of "
        "VGGT alone, such as facebook/VGGT-1B")  # fmt: skip
    add("--output", type=Path, required=True, metavar="DIR", help="folder of the scene, new or empty")
    add("--through_adapter", action="store_true", help="pass VGGT's tokens through the geometry adapter's latents")
    add("--num_frames", type=int, metavar="N", help="frames to use, spread evenly over all there are (default: all, at "
        f"most {MOST_FRAMES})")  # fmt: skip
    add("--window", type=int, metavar="N", help="use all frames, N at a time, joined on frames that windows share: the "
        f"memory of N frames for clips of any length (default: at most {MOST_FRAMES}, fewer if larger than 560 x "
        "560)")  # fmt: skip
    add("--stride", type=int, metavar="N", help="use every N-th frame instead of an even spread")
    add("--first", type=int, metavar="N", help="number of the first frame to use, from 0; without --stride every one")
    add("--size", "--side", nargs="+", type=int, action=Size, metavar="PIXELS", help="side of the frames, or height "
        f"and width; multiples of {SIDE_MULTIPLE} (default: size in the weights' generation.json, or 560)")  # fmt: skip
    add("--fit", choices=FITS, default="crop", help="other aspects: crop cuts them to the size (default), whole takes "
        "a size of about as many pixels that shows most, pad adds white, which is unknown")  # fmt: skip
    add("--original_size", action="store_true", help="also write depth, points and cameras of the whole pictures, in "
        "their pixels, to original/")  # fmt: skip
    add("--cameras", type=Path, metavar="FILE", help="known cameras, one for each frame: exported as they are, with "
        "depth in their unit (docs/cameras.md)")  # fmt: skip
    add("--camera_format", metavar="FORMAT", help="format of a camera file whose form does not tell (docs/cameras.md)")
    add("--intrinsics", nargs="+", metavar="FX FY CX CY | FILE", help="known intrinsics, in pixels of the "
        "pictures, or a camera file that has them")  # fmt: skip
    add("--depth", nargs="+", type=Path, metavar="PATH", help="known depth, a map a frame: a folder, "
        "files or one .npz; .npy, .tif, or 16-bit .png; 0 is unknown")  # fmt: skip
    add("--depth_steps", type=float, default=STEPS, metavar="N", help="steps of a 16-bit .png in one unit of length "
        f"(default: {STEPS:g}: millimetres)")  # fmt: skip
    add("--scale_from", metavar="WHAT", help="the unit of length: of cameras, of depth, or by the distance of the last "
        "camera from the first (default: the first of these that is known)")  # fmt: skip
    add("--min_confidence", type=float, metavar="C", help="leave out pixels below it, such as sky: 1 is no confidence, "
        "and it has no upper end (default: keep all)")  # fmt: skip
    add("--far_percentile", type=float, metavar="P", help="leave out pixels farther away than this percentile of the "
        "clip's (default: keep all)")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16"), help="dtype of the weights (default: bfloat16, on CPUs float32)")
    add("--format", nargs="+", choices=FORMATS, metavar="NAME", help=describe_formats())
    add("--fps", type=float, help="speed of the written videos (default: as the given video shows the frames, or 12)")
    add("--points", choices=("clean", "official"), default="clean", help="points.ply: the 80%% most confident pixels, "
        "averaged in voxels, without outliers (default); or all pixels through the official routine, which takes "
        "minutes for 49 frames")  # fmt: skip
    add_compile_cache(parser)
    return parser


if __name__ == "__main__":
    main_guard(main)
