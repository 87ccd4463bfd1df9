"""Pictures, videos and scenes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gen3r_jax import info
from gen3r_jax.data.depth import encode_depth, read_depth
from gen3r_jax.data.images import read_clip, read_image, read_posed_image
from gen3r_jax.export.read import read_scene
from gen3r_jax.export.video import write_video
from gen3r_jax.geometry.camera_files import official
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.training.metrics import read_metrics
from tests.faults.doors.door import C2W, FRAMES, INTRINSICS, Door, gradient
from tests.helpers import toy_videos


def _image(suffix: str, mode: str = "RGB", sealed: bool = False, **options: Any) -> Door:
    def write(folder: Path) -> None:
        image = Image.fromarray(gradient())
        if mode == "I;16":
            image = Image.fromarray(gradient()[..., 0].astype(np.uint16) * 257)
        else:
            image = image.convert(mode)
        image.save(folder / f"a.{suffix}", **options)

    def read_file(folder: Path) -> Any:
        path = folder / f"a.{suffix}"
        return {"image": read_image(path), "posed": read_posed_image(path, (40, 56))}

    return Door(write, read_file, sealed=sealed)


def _video(codec: str, suffix: str) -> Door:
    def write(folder: Path) -> None:
        toy_videos.write_video(folder / f"a.{suffix}", toy_videos.numbered_frames(12), codec)

    def read_file(folder: Path) -> Any:
        clip = read_clip([folder / f"a.{suffix}"], 6)
        return [(frame.shape, frame.dtype.name) for frame in clip.frames] + [clip.fps]

    return Door(write, read_file)


def _write_scene(folder: Path) -> None:
    write_video(folder / "rgb.mp4", np.stack([gradient()] * FRAMES))
    depth = np.linspace(1, 2, FRAMES * 40 * 56, dtype=np.float32).reshape(FRAMES, 40, 56)
    np.savez_compressed(folder / "depth.npz", depth=depth)
    np.savez_compressed(folder / "confidence.npz", confidence=np.ones((FRAMES, 40, 56), np.float16))
    official.write_cameras(folder / "cameras.json", invert_se3(C2W), INTRINSICS, (40, 56))
    (folder / "prompts.txt").write_text("a room\n")
    report = {"format_version": 1, "stages": [{"stage": "x", "seconds": 1.0}], "device": "cpu"}
    (folder / "run.json").write_text(json.dumps(report))


def _read_scene(folder: Path) -> Any:
    scene = read_scene(folder)
    return {"depth": scene.depth, "confidence": scene.confidence, "shape": scene.rgb.shape, "prompt": scene.prompt}


def _write_metrics(folder: Path) -> None:
    lines = [{"step": step, "loss": 1.0 / step, "data/number": step} for step in range(1, 5)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.json").write_text('{"stage": "adapter", "train": {"seed": 0}}')


PICTURES = {
    "png": _image("png", sealed=True),
    "png with alpha": _image("png", "RGBA", sealed=True),
    "png with a palette": _image("png", "P", sealed=True),
    "png of 16 bits": _image("png", "I;16", sealed=True),
    "jpeg": _image("jpg", quality=90),
    "webp": _image("webp"),
    "lossless webp": _image("webp", lossless=True),
    "bmp": _image("bmp"),
    "tiff": _image("tif"),
    "tiff with LZW": _image("tiff", compression="tiff_lzw"),
    "tiff of 16 bits": _image("tif", "I;16"),
    "depth": Door(
        lambda folder: (folder / "d.png").write_bytes(encode_depth(np.linspace(1, 9, 80, dtype=np.float32)[None])),
        lambda folder: read_depth(folder / "d.png"),
        sealed=True,
    ),
    "mp4": _video("libx264", "mp4"),
    "mkv": _video("libx264", "mkv"),
    "webm": _video("libvpx-vp9", "webm"),
    "avi": _video("mpeg4", "avi"),
    "scene folder": Door(_write_scene, _read_scene, share=4),
    "info of a scene": Door(_write_scene, info.describe),
    "info of a run": Door(_write_metrics, info.describe),
    "metrics.jsonl": Door(_write_metrics, lambda folder: [x["step"] for x in read_metrics(folder / "metrics.jsonl")]),
}
