"""A small data set in Gen3R's layout, rendered into a temporary folder."""

from pathlib import Path

import numpy as np
from PIL import Image

from gen3r_jax.data.procedural import render_clip
from gen3r_jax.geometry.camera_files.transforms import write_transforms
from gen3r_jax.geometry.cameras import Cameras

SIZE = (40, 56)


def write_scene(folder: Path, seed: int = 0, frames: int = 6, suffix: str = ".png") -> Cameras:
    """images/, transforms.json and captions.txt; the red level of frame i is 20 i, so that frames can be told apart."""
    clip = render_clip(seed, frames, SIZE)
    (folder / "images").mkdir(parents=True)
    names = [f"frame{i:05d}{suffix}" for i in range(frames)]
    for i, name in enumerate(names):
        picture = clip.frames[i].copy()
        picture[..., 0] = 20 * i
        Image.fromarray(picture).save(folder / "images" / name)
    cameras = Cameras(clip.c2w, clip.intrinsics, np.tile(SIZE, (frames, 1)))
    write_transforms(folder / "transforms.json", names, cameras)
    (folder / "captions.txt").write_text("\n".join(clip.captions))
    return cameras


def write_root(root: Path, sets: dict[str, int], *, frames: int = 6, split: str = "train") -> Path:
    """A data set root with `sets` (name -> number of scenes), list files beside the scenes and for all at the top."""
    kinds = {"videos_dirs": "images", "cameras_paths": "transforms.json", "captions_paths": "captions.txt"}
    everything = {kind: [] for kind in kinds}
    for number, (name, count) in enumerate(sets.items()):
        scenes = [root / name / f"scene{i}" for i in range(count)]
        for i, scene in enumerate(scenes):
            write_scene(scene, seed=100 * number + i, frames=frames)
        for kind, part in kinds.items():
            lines = [str(scene / part) for scene in scenes]
            everything[kind] += lines
            (root / name / f"{split}_{kind}.txt").write_text("\n".join(lines) + "\n\n")
    for kind, lines in everything.items():
        (root / f"{split}_{kind}.txt").write_text("\n".join(lines))
    return root


def frame_number(frame: np.ndarray) -> int:
    """Which frame of its scene a crop shows."""
    return round(float(np.median(frame[..., 0])) / 20)
