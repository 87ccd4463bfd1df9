"""Captures of one's own, as the tools that find cameras leave them."""

import json
from pathlib import Path

import numpy as np

from gen3r_jax.geometry.camera_files.colmap import write_colmap_cameras
from gen3r_jax.geometry.camera_files.transforms import OPENGL, write_transforms
from gen3r_jax.geometry.cameras import OPENGL_AXES, Cameras
from tests.helpers.raw_sets import shared


def write(raw: Path, *, frames: int = shared.FRAMES, capture: str = "hall", form: str = "nerfstudio") -> Path:
    """form: "nerfstudio", "colmap", or "scene", which is one that `gen3r reconstruct` wrote."""
    folder = raw / capture
    names = [f"frame_{i:05d}.png" for i in range(frames)]
    for i, name in enumerate(names):
        shared.write_picture(folder / "images" / name, i)
    c2w, intrinsics = np.stack([shared.c2w(i) for i in range(frames)]), np.tile(shared.intrinsics(), (frames, 1, 1))
    if form == "colmap":
        w2c = np.stack([np.vstack([shared.w2c(i)[:3], [0, 0, 0, 1]]) for i in range(frames)])
        write_colmap_cameras(folder / "sparse/0", names, w2c, intrinsics, shared.SIZE)
    elif form == "scene":
        sizes = np.tile(shared.SIZE, (frames, 1))
        write_transforms(folder / "transforms.json", names, Cameras(c2w, intrinsics, sizes), OPENGL)
        (folder / "run.json").write_text("{}")
    else:
        (height, width), (fx, fy), (cx, cy) = shared.SIZE, shared.FOCAL, shared.CENTRE
        document = {"camera_model": "OPENCV", "w": width, "h": height, "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}
        poses = (c2w @ OPENGL_AXES).tolist()
        named = [
            {"file_path": f"images/{name}", "transform_matrix": pose} for name, pose in zip(names, poses, strict=True)
        ]
        (folder / "transforms.json").write_text(json.dumps(document | {"frames": named[::-1]}))
    return raw
