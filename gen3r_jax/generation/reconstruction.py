"""The work of ``gen3r reconstruct``: VGGT reads a clip, through the adapter's latents if wanted."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conversion.pipeline_folder import find_weights
from gen3r_jax.data.clips import fit_mask, fit_picture, fitted_places, quantize, tell_fit, uncrop_depth
from gen3r_jax.data.colour import Picture
from gen3r_jax.data.images import read_clip, require_choice
from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import scene_folder, write_scene
from gen3r_jax.export.pointcloud import CloudFilter
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.export.video import require_fps
from gen3r_jax.generation import networks
from gen3r_jax.generation.background import require_background, without_background
from gen3r_jax.generation.inputs import as_size
from gen3r_jax.generation.known import require_scale_source, with_known
from gen3r_jax.generation.known_files import read_known
from gen3r_jax.generation.settings import MOST_FRAMES, read_settings
from gen3r_jax.generation.vggt import load_vggt, vggt_folder
from gen3r_jax.generation.weights import default_dtype
from gen3r_jax.generation.windows import SHORTEST_WINDOW, reconstruct_in_windows
from gen3r_jax.geometry.cameras import Size, uncrop_intrinsics
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.models.sizes import SIDE_MULTIPLE, longest_clip, require_side, whole_size
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.scene import Scene
from gen3r_jax.storage.checkpoint import load_network, read_config
from gen3r_jax.storage.hub import read_licence

MOST_ORIGINAL_PIXELS = 200_000_000
"""Of all pictures together: a scene holds 35 bytes a pixel."""


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
        which = {"stride": options.stride, "first": options.first, "at_most": at_most}
        clip = read_clip(options.images, options.num_frames, masks=options.masks, **which)
        pictures = clip.frames
        window = min(options.window or MOST_FRAMES, len(pictures))
        if options.through_adapter and (below := longest_clip(window)) < window:
            more = f"--num_frames {below}" if window == len(pictures) else f"--window {max(below, 5)}"
            raise UserError(f"--through_adapter takes 4k+1 frames, not {window}; add {more}")
        if options.original_size:
            _require_one_size(pictures)
        pad = options.fit == "pad"
        if options.fit == "whole":
            multiple = SIDE_MULTIPLE if options.through_adapter else read_config(vggt_folder(weights), VGGT).patch_size
            size = whole_size(pictures[0].shape[:2], size, multiple)
        tell_fit(pictures[0].shape[:2], size, pad)
        frames = np.stack([quantize(fit_picture(picture, size, pad)) for picture in pictures])
        pairs = zip(clip.masks, pictures, strict=True)
        known = np.stack([fit_mask(mask, picture.shape[:2], size, pad) for mask, picture in pairs])
        given = read_known(
            clip,
            size,
            pad,
            options.cameras,
            options.camera_format,
            options.intrinsics,
            options.depth,
            options.depth_steps,
        )
        fps = report.results["fps"] = options.fps or clip.fps or 12
    with report.stage("Loading weights"):
        dtype = default_dtype(options.dtype)
        vggt = load_vggt(weights, dtype)
        adapter = None
        if options.through_adapter:
            adapter = load_network(weights / "geometry_adapter", GeometryAdapter, dtype=dtype)
    through = " through the adapter" if options.through_adapter else ""
    with report.stage(f"Reconstructing {len(frames)} frames of {size[1]} x {size[0]}{through}"):
        scene, joined = reconstruct_in_windows(frames, window, lambda some: networks.reconstruct(some, vggt, adapter))
        report.results.update(joined)
        if not known.all():
            scene = dataclasses.replace(scene, confidence=np.where(known, scene.confidence, np.float32(0)))
        scene, scaled = with_known(scene, given, options.scale_from)
        report.results.update(scaled)
        scene = without_background(scene, options.min_confidence, options.far_percentile)
    with report.stage(f"Writing {options.output}"):
        keep = CloudFilter.official() if options.points == "official" else CloudFilter()
        write_scene(scene, folder, fps, keep, formats=options.format)
        if options.original_size:
            write_scene(at_original_size(scene, pictures, pad), folder / "original", fps, keep, formats=("maps", "ply"))
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
    require_background(options.min_confidence, options.far_percentile)
    require_scale_source(options.scale_from, options.cameras is not None, bool(options.depth))
    if options.depth and options.fit == "pad":
        raise UserError("--depth goes with --fit crop and --fit whole, not with pad")
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


def at_original_size(scene: Scene, pictures: Sequence[Picture], pad: bool) -> Scene:
    """A scene in the pixels of the pictures that its frames were cropped, or padded, from.

    Intrinsics are those of the whole pictures, exactly; what was cut off has no depth and the confidence 0.
    """
    size = pictures[0].shape[:2]
    rows, columns = fitted_places(size, scene.rgb.shape[1:3], pad)
    (height, width), depth = scene.rgb.shape[1:3], np.stack([uncrop_depth(one, size, pad) for one in scene.depth])
    nearest = np.ix_(*(np.clip(place.astype(int), 0, side - 1) for place, side in ((rows, height), (columns, width))))
    confidence = np.stack([one[nearest] for one in scene.confidence]) * (depth > 0)
    intrinsics = uncrop_intrinsics(scene.intrinsics, size, (height, width), pad=pad).astype(np.float32)
    points = unproject_depth(depth, scene.w2c, intrinsics, offset=0.5)
    return Scene(np.stack(pictures), depth, confidence, scene.w2c, intrinsics, points, scene.prompt)


def _require_one_size(pictures: Sequence[Picture]) -> None:
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        (h, w), (h2, w2), *_ = sorted(sizes)
        raise UserError(f"--original_size needs pictures of one size; here are some of {w} x {h} and of {w2} x {h2}")
    if (pixels := sum(picture.shape[0] * picture.shape[1] for picture in pictures)) > MOST_ORIGINAL_PIXELS:
        raise UserError(
            f"--original_size: {len(pictures)} pictures have {pixels / 1e6:.0f} megapixels together, "
            f"{MOST_ORIGINAL_PIXELS // 10**6} can be held; give fewer (--num_frames) or smaller ones"
        )


def _network_config(folder: Path, name: str, network: type[VGGT] | type[GeometryAdapter]) -> Any:
    if not folder.exists():
        raise UserError(
            f"no weights at {folder}; make them with: "
            f"gen3r convert {name} --source OFFICIAL_FILE_OR_DIR --output {folder}"
        )
    return read_config(folder, network)
