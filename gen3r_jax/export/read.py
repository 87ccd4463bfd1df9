"""Reads a scene folder back."""

from pathlib import Path

import numpy as np

from gen3r_jax.data.video import Video
from gen3r_jax.errors import UserError, one_line
from gen3r_jax.export.run_report import read_report
from gen3r_jax.geometry.camera_files.official import read_cameras
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import read_text

NEEDED = ("rgb.mp4", "depth.npz", "confidence.npz", "cameras.json")


def read_scene(directory: Path | str) -> Scene:
    """The scene of a folder written by :func:`.folder.write_scene` with videos and maps.

    Colours are those of the video, which is compressed; confidence and agreement have half precision; the rest is
    exact.
    Raises UserError when files are missing, of a newer format, or do not belong together.
    """
    directory = Path(directory)
    if missing := [name for name in NEEDED if not (directory / name).exists()]:
        raise UserError(f"{directory} is no whole scene folder: it lacks {', '.join(missing)}")
    if (directory / "run.json").exists():
        read_report(directory / "run.json")
    cameras = read_cameras(directory / "cameras.json")
    w2c, intrinsics = cameras.w2c.astype(np.float32), cameras.intrinsics.astype(np.float32)
    try:
        depth = np.load(directory / "depth.npz")["depth"]
        confidence = np.load(directory / "confidence.npz")["confidence"].astype(np.float32)
        agreement = None
        if (directory / "agreement.npz").exists():
            agreement = np.load(directory / "agreement.npz")["agreement"].astype(np.float32)
    except Exception as error:  # zip files, zlib and NumPy each raise their own kinds
        reason = one_line(error)
        raise UserError(f"{directory}: depth.npz, confidence.npz or agreement.npz is damaged ({reason})") from None
    video = Video(directory / "rgb.mp4")
    frames = [frame for frame in video.read(range(len(video))) if frame is not None]
    if len(frames) < len(video):
        raise UserError(f"{directory / 'rgb.mp4'} is damaged")
    rgb = np.stack(frames)[:, : depth.shape[1], : depth.shape[2]]  # odd sides were made even
    prompt = directory / "prompts.txt"
    try:
        return Scene(
            rgb=rgb,
            depth=depth,
            confidence=confidence,
            w2c=w2c,
            intrinsics=intrinsics,
            points=unproject_depth(depth, w2c, intrinsics, offset=0.5),
            prompt=read_text(prompt).strip() if prompt.exists() else "",
            agreement=agreement,
        )
    except ValueError as error:
        raise UserError(f"{directory}: its files do not belong together: {error}") from None
