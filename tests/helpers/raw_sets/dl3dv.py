"""DL3DV-10K as its archives unpack."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.raw_sets import shared

HASH = "0123456789abcdef" * 4


def write(
    raw: Path,
    *,
    frames: int = shared.FRAMES,
    scene: str = f"1K/{HASH}",
    pictures: str = "images_4",
    shrunk: int = 4,
    k1: float = 0.0,
) -> Path:
    """scene: with "/nerfstudio" for the benchmark. shrunk: how much smaller the files are than the video.

    The last frame named has no picture, the last picture no pose; the list is not in the order of time.
    """
    folder = raw / scene
    named = []
    for i in range(frames + 1):
        if i < frames:
            shared.write_picture(folder / pictures / f"frame_{i + 1:05d}.png", i)
        c2w = [[0, 0, -1, 1 + 0.5 * i], [0, -1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]
        named.append({"file_path": f"images/frame_{i + 1:05d}.png", "transform_matrix": c2w, "colmap_im_id": i + 7})
    shared.write_picture(folder / pictures / f"frame_{frames + 2:05d}.png", 0)
    height, width = shared.SIZE
    transforms = {
        "camera_model": "OPENCV",
        "w": shrunk * width,
        "h": shrunk * height,
        "fl_x": shrunk * shared.FOCAL[0],
        "fl_y": shrunk * shared.FOCAL[1],
        "cx": shrunk * shared.CENTRE[0],
        "cy": shrunk * shared.CENTRE[1],
        "k1": k1,
        "k2": 0.0,
        "p1": 0.0,
        "p2": 0.0,
        "applied_transform": [[0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, -1.0, 0.0]],
        "frames": named[::-1],
    }
    (folder / "transforms.json").write_text(json.dumps(transforms))
    return raw


def draw_line(path: Path, k1: float) -> None:
    """A picture four times as large of a line 60 pixels above the principal point, as a lens with k1 shows it."""
    height, width = 4 * shared.SIZE[0], 4 * shared.SIZE[1]
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    u, v = (x - 4 * shared.CENTRE[0]) / 200, (y - 4 * shared.CENTRE[1]) / 200
    straight_u, straight_v = u, v
    for _ in range(30):  # the rays of the pixels
        factor = 1 + k1 * (straight_u**2 + straight_v**2)
        straight_u, straight_v = u / factor, v / factor
    distance = straight_v * 200 + 60
    light = np.rint(255 * np.exp(-0.5 * (distance / 1.5) ** 2)).astype(np.uint8)
    Image.fromarray(np.repeat(light[..., None], 3, -1)).save(path)
