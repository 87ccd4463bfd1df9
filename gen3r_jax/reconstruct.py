"""Cameras, depth and points from frames: ``python -m gen3r_jax.reconstruct --frames VIDEO --weights DIR --output DIR``

VGGT reconstructs the clip. With ``--through_adapter`` its tokens first go through the latents of the geometry adapter,
the space Gen3R generates in: what is lost on that way is what the adapter costs.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax.data.clips import quantize, resize_crop, tell_fit
from gen3r_jax.data.images import Mask, read_clip, require_choice
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.export.folder import FORMATS, write_scene
from gen3r_jax.export.pointcloud import CloudFilter
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.export.video import require_fps
from gen3r_jax.generation import networks
from gen3r_jax.generation.pipeline import default_dtype
from gen3r_jax.generation.settings import read_settings
from gen3r_jax.geometry.cameras import Size
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.models.registry import EXACT
from gen3r_jax.models.sizes import SIDE_MULTIPLE, longest_clip, require_side
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.storage.checkpoint import load_network, read_config
from gen3r_jax.storage.files import writing

MOST_FRAMES = 49


def main(arguments: list[str] | None = None) -> int:
    options = _parse(arguments)
    _check(options)
    report = RunReport(vars(options))
    with report.stage("Reading frames"):
        clip = read_clip(
            options.frames, options.num_frames, stride=options.stride, first=options.first, at_most=MOST_FRAMES
        )
        pictures, size = clip.frames, (options.side, options.side)
        if options.through_adapter and (below := longest_clip(len(pictures))) < len(pictures):
            raise UserError(f"--through_adapter takes 4k+1 frames, not {len(pictures)}; add --num_frames {below}")
        tell_fit(pictures[0].shape[:2], size)
        frames = np.stack([quantize(resize_crop(picture, size)) for picture in pictures])
        known = np.stack([_crop_mask(mask, size) for mask in clip.masks])
        fps = report.results["fps"] = options.fps or clip.fps or 12
    with report.stage("Loading weights"):
        dtype = default_dtype(options.dtype)
        vggt = load_network(options.weights / "vggt", VGGT, dtype=dtype, exact=EXACT["vggt"])
        adapter = None
        if options.through_adapter:
            adapter = load_network(options.weights / "geometry_adapter", GeometryAdapter, dtype=dtype)
    through = " through the adapter" if options.through_adapter else ""
    with report.stage(f"Reconstructing {len(frames)} frames of {options.side} x {options.side}{through}"):
        scene = networks.reconstruct(frames, vggt, adapter)
        if not known.all():
            scene = dataclasses.replace(scene, confidence=np.where(known, scene.confidence, np.float32(0)))
    with report.stage(f"Writing {options.output}"):
        keep = CloudFilter.official() if options.points == "official" else CloudFilter()
        write_scene(scene, options.output, fps, keep, formats=options.format)
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
    add(
        "--num_frames",
        type=int,
        metavar="N",
        help=f"frames to use, spread evenly over all there are (default: all, at most {MOST_FRAMES})",
    )
    add("--stride", type=int, metavar="N", help="use every N-th frame instead of an even spread")
    add("--first", type=int, metavar="N", help="number of the first frame to use, from 0; without --stride every one")
    add(
        "--side",
        type=int,
        metavar="PIXELS",
        help=f"frames are scaled and cropped to this square; a multiple of {SIDE_MULTIPLE} (default: the height in the "
        "weights' generation.json, or 560)",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="of the weights (default: float32 on CPU, else bfloat16)")
    add("--format", nargs="+", choices=FORMATS, metavar="NAME", help=f"write only these of {', '.join(FORMATS)}")
    add("--fps", type=float, help="speed of the written videos (default: as the given video shows the frames, or 12)")
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
    if options.num_frames is not None and options.num_frames < 1:
        raise UserError(f"--num_frames {options.num_frames} is not a positive number")
    require_choice(options.stride, options.first)
    if options.fps is not None:
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


def _crop_mask(mask: Mask | None, size: Size) -> Mask:
    """Where a cropped picture is known."""
    return np.ones(size, bool) if mask is None else resize_crop(mask[..., None] * np.uint8(255), size)[..., 0] >= 128


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
