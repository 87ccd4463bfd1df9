"""Cameras, depth and points from frames: ``python -m gen3r_jax.reconstruct --frames VIDEO --weights DIR --output DIR``

VGGT reconstructs the clip. With ``--through_adapter`` its tokens first go through the latents of the geometry adapter,
the space Gen3R generates in: what is lost on that way is what the adapter costs.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax.data.clips import quantize, resize_crop
from gen3r_jax.data.images import read_frames
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.export.folder import FORMATS, write_scene
from gen3r_jax.export.pointcloud import CloudFilter
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.export.video import require_fps
from gen3r_jax.generation import networks
from gen3r_jax.generation.pipeline import default_dtype
from gen3r_jax.generation.settings import read_settings
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.models.sizes import SIDE_MULTIPLE, require_side
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.storage.checkpoint import load_network, read_config
from gen3r_jax.storage.files import writing

MOST_FRAMES = 49


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    _check(options)
    report = RunReport(vars(options))
    with report.stage("Reading frames"):
        pictures = read_frames(options.frames, options.num_frames, stride=options.stride, at_most=MOST_FRAMES)
        if options.through_adapter and len(pictures) % 4 != 1:
            below = (len(pictures) - 1) // 4 * 4 + 1
            raise UserError(f"--through_adapter takes 4k+1 frames, not {len(pictures)}; add --num_frames {below}")
        frames = np.stack([quantize(resize_crop(picture, (options.side, options.side))) for picture in pictures])
    with report.stage("Loading weights"):
        dtype = default_dtype(options.dtype)
        vggt = load_network(options.weights / "vggt", VGGT, dtype=dtype, exact=networks.EXACT["vggt"])
        adapter = None
        if options.through_adapter:
            adapter = load_network(options.weights / "geometry_adapter", GeometryAdapter, dtype=dtype)
    through = " through the adapter" if options.through_adapter else ""
    with report.stage(f"Reconstructing {len(frames)} frames of {options.side} x {options.side}{through}"):
        scene = networks.reconstruct(frames, vggt, adapter)
    with report.stage(f"Writing {options.output}"):
        keep = CloudFilter.official() if options.points == "official" else CloudFilter()
        write_scene(scene, options.output, options.fps, keep, formats=options.format)
    report.write(options.output / "run.json")
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m gen3r_jax.reconstruct",
        description="Reconstructs cameras, depth and points of a video or of pictures of one still scene with VGGT.",
        epilog="docs/formats.md describes the written files. run.json comes last, so a folder with one is complete.",
    )
    add = parser.add_argument
    add("--frames", nargs="+", type=Path, required=True, metavar="PATH", help="a video, a folder of images, or images")
    add("--weights", type=Path, required=True, metavar="DIR", help="converted weights: DIR/vggt, DIR/geometry_adapter")
    add("--output", type=Path, required=True, metavar="DIR", help="folder for the results, new or empty")
    add("--through_adapter", action="store_true", help="pass VGGT's tokens through the geometry adapter's latents")
    add("--num_frames", type=int, metavar="N", help=f"frames to use (default: all, at most {MOST_FRAMES})")
    add("--stride", type=int, default=1, metavar="N", help="use every N-th frame (default: 1)")
    add(
        "--side",
        type=int,
        metavar="PIXELS",
        help=f"frames are scaled and cropped to this square; a multiple of {SIDE_MULTIPLE} (default: the height in the "
        "weights' generation.json, or 560)",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="of the weights (default: float32 on CPU, else bfloat16)")
    add("--format", nargs="+", choices=FORMATS, metavar="NAME", help=f"write only these of {', '.join(FORMATS)}")
    add("--fps", type=float, default=12, help="speed of the written videos (default: 12)")
    add(
        "--points",
        choices=("clean", "official"),
        default="clean",
        help="points.ply: the 80%% most confident pixels, averaged in voxels, without outliers (default); "
        "or all pixels through the official routine, which takes minutes for 49 frames",
    )
    options = parser.parse_args(arguments)
    if options.side is None:
        options.side = read_settings(options.weights).height
    return options


def _check(options: argparse.Namespace) -> None:
    """Refuses what cannot work before anything slow begins."""
    require_side(options.side)
    for name in ("num_frames", "stride"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} {getattr(options, name)} is not a positive number")
    require_fps(options.fps)
    vggt = _network_config(options.weights, "vggt", VGGT)
    if options.through_adapter:
        adapter = _network_config(options.weights, "geometry_adapter", GeometryAdapter)
        if adapter.input_dim != 10 * vggt.embed_dim:
            raise UserError(
                f"the adapter in {options.weights} takes {adapter.input_dim} channels and the VGGT beside it gives "
                f"{10 * vggt.embed_dim}; put networks there that were made for each other"
            )
    with writing(options.output, "choose another --output"):
        options.output.mkdir(parents=True, exist_ok=True)
        if any(options.output.iterdir()):
            raise UserError(f"{options.output} holds something already; remove it or give another --output")
        tempfile.TemporaryFile(dir=options.output).close()


def _network_config(weights: Path, name: str, network: type[VGGT] | type[GeometryAdapter]) -> Any:
    folder = weights / name
    if not folder.exists():
        raise UserError(
            f"no weights at {folder}; make them with: "
            f"python -m conversion {name} --source OFFICIAL_FILE_OR_DIR --output {folder}"
        )
    return read_config(folder, network)


if __name__ == "__main__":
    main_guard(main)
