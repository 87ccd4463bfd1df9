"""The work of ``gen3r reconstruct``: VGGT reads a clip, through the adapter's latents if wanted."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np

from conversion.pipeline_folder import find_weights
from gen3r_jax.data.clips import quantize, resize_crop, tell_fit
from gen3r_jax.data.images import read_clip, require_choice
from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import scene_folder, write_scene
from gen3r_jax.export.pointcloud import CloudFilter
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.export.video import require_fps
from gen3r_jax.generation import networks
from gen3r_jax.generation.inputs import as_size, fit_mask
from gen3r_jax.generation.settings import MOST_FRAMES, read_settings
from gen3r_jax.generation.vggt import vggt_folder
from gen3r_jax.generation.weights import default_dtype
from gen3r_jax.generation.windows import SHORTEST_WINDOW, reconstruct_in_windows
from gen3r_jax.geometry.cameras import Size
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.models.registry import EXACT
from gen3r_jax.models.sizes import longest_clip, require_side
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.storage.checkpoint import load_network, read_config
from gen3r_jax.storage.hub import read_licence


def reconstruct_clip(options: argparse.Namespace) -> None:
    """Reads the frames, reconstructs them and writes the scene; `options` are the flags of the command.

    Raises UserError for frames, weights and settings that do not fit, and where the output is not free.
    """
    weights = find_weights(options.weights)
    size = as_size(read_settings(weights).size if options.size is None else options.size)
    _check(options, size, weights)
    with scene_folder(options.output) as folder:
        _reconstruct(options, weights, size, folder)
    shown = options.output / "viewer.html"
    print(f"open {shown if shown.exists() else options.output}", file=sys.stderr)


def _reconstruct(options: argparse.Namespace, weights: Path, size: Size, folder: Path) -> None:
    report = RunReport(vars(options))
    if licence := read_licence(weights):
        report.results["licence"] = licence
    with report.stage("Reading frames"):
        at_most = None if options.window else MOST_FRAMES
        clip = read_clip(
            options.images, options.num_frames, stride=options.stride, first=options.first, at_most=at_most
        )
        pictures = clip.frames
        window = min(options.window or MOST_FRAMES, len(pictures))
        if options.through_adapter and (below := longest_clip(window)) < window:
            more = f"--num_frames {below}" if window == len(pictures) else f"--window {max(below, 5)}"
            raise UserError(f"--through_adapter takes 4k+1 frames, not {window}; add {more}")
        tell_fit(pictures[0].shape[:2], size)
        frames = np.stack([quantize(resize_crop(picture, size)) for picture in pictures])
        known = np.stack([fit_mask(mask, size) for mask in clip.masks])
        fps = report.results["fps"] = options.fps or clip.fps or 12
    with report.stage("Loading weights"):
        dtype = default_dtype(options.dtype)
        vggt = load_network(vggt_folder(weights), VGGT, dtype=dtype, exact=EXACT["vggt"])
        adapter = None
        if options.through_adapter:
            adapter = load_network(weights / "geometry_adapter", GeometryAdapter, dtype=dtype)
    through = " through the adapter" if options.through_adapter else ""
    with report.stage(f"Reconstructing {len(frames)} frames of {size[1]} x {size[0]}{through}"):
        scene, joined = reconstruct_in_windows(frames, window, lambda some: networks.reconstruct(some, vggt, adapter))
        report.results.update(joined)
        if not known.all():
            scene = dataclasses.replace(scene, confidence=np.where(known, scene.confidence, np.float32(0)))
    with report.stage(f"Writing {options.output}"):
        keep = CloudFilter.official() if options.points == "official" else CloudFilter()
        write_scene(scene, folder, fps, keep, formats=options.format)
    report.write(folder / "run.json")
    print(report.programs(), file=sys.stderr)


def _check(options: argparse.Namespace, size: Size, weights: Path) -> None:
    """Refuses what cannot work before anything slow begins."""
    for side in size:
        require_side(side)
    if options.num_frames is not None and options.num_frames < 1:
        raise UserError(f"--num_frames {options.num_frames} is not a positive number")
    if options.window is not None and options.window < SHORTEST_WINDOW:
        raise UserError(f"--window {options.window} is too short to share frames; give at least {SHORTEST_WINDOW}")
    require_choice(options.stride, options.first)
    if options.fps is not None:
        require_fps(options.fps)
    vggt = _network_config(vggt_folder(weights), "vggt", VGGT)
    if options.through_adapter:
        adapter = _network_config(weights / "geometry_adapter", "geometry_adapter", GeometryAdapter)
        if adapter.input_dim != 10 * vggt.embed_dim:
            raise UserError(
                f"the adapter in {weights} takes {adapter.input_dim} channels and the VGGT beside it gives "
                f"{10 * vggt.embed_dim}; put networks there that were made for each other"
            )


def _network_config(folder: Path, name: str, network: type[VGGT] | type[GeometryAdapter]) -> Any:
    if not folder.exists():
        raise UserError(
            f"no weights at {folder}; make them with: "
            f"gen3r convert {name} --source OFFICIAL_FILE_OR_DIR --output {folder}"
        )
    return read_config(folder, network)
