"""Preparing a raw fixture, and reading what came out."""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gen3r_jax.data.depth import read_depth
from gen3r_jax.data.images import read_image
from gen3r_jax.data.prepare.frames import Developing
from gen3r_jax.data.prepare.recording import DataSet, ReadOptions
from gen3r_jax.data.prepare.registry import data_set
from gen3r_jax.data.prepare.run import Settings, prepare
from gen3r_jax.data.prepare.scenes import Outcome
from gen3r_jax.geometry.camera_files.transforms import read_transforms
from gen3r_jax.geometry.cameras import Cameras


def short(name: str) -> DataSet:
    """The set `name`, content with scenes as short as the fixtures."""
    return dataclasses.replace(data_set(name), min_frames=2, min_path=0.0)


def run(name: str, raw: Path, root: Path, *, cameras: tuple[str, ...] = (), half_pixel: bool = True, **how) -> Outcome:
    """Prepares in this process; `how` are fields of :class:`Developing`."""
    chosen = short(name)
    reading = ReadOptions(cameras or chosen.cameras[:1], half_pixel)
    return prepare(chosen, raw, root, Settings(reading, Developing(**{"format": "png", **how})), quiet=True)


def prepare_set(name: str, raw: Path, root: Path, **options) -> list[Path]:
    """The scene folders that :func:`run` makes, sorted by name."""
    return sorted(root / name / scene["id"] for scene in run(name, raw, root, **options).scenes)


class PreparedScene(NamedTuple):
    frames: list[np.ndarray]
    cameras: Cameras
    depth: np.ndarray | None
    description: dict


def read_scene_folder(folder: Path) -> PreparedScene:
    names, cameras = read_transforms(folder / "transforms.json")
    frames = [read_image(folder / "images" / name) for name in names]
    depths = [folder / "depth" / f"{Path(name).stem}.png" for name in names]
    depth = np.stack([read_depth(path) for path in depths]) if depths[0].exists() else None
    return PreparedScene(frames, cameras, depth, json.loads((folder / "scene.json").read_text()))
