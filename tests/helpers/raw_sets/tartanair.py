"""TartanAir as its archives unpack: poses in NED axes, in V1 the folder of a place twice."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.raw_sets import shared


def write(
    raw: Path,
    *,
    frames: int = shared.FRAMES,
    flight: str = "envA/envA/Easy/P000",
    size: tuple[int, int] = (480, 640),
    depth: bool = True,
) -> Path:
    """size: of the files; the pictures of smaller ones are the same, scaled down."""
    folder = raw / flight
    scale = size[0] / 480
    (folder / "depth_left").mkdir(parents=True, exist_ok=True)
    for i in reversed(range(frames)):
        shared.write_picture(
            folder / "image_left" / f"{i:06d}_left.png", i,
            size=size, focal=(320 * scale, 320 * scale), centre=(320 * scale, 240 * scale),
        )  # fmt: skip
        if depth:
            metres = shared.depth(i, size)
            metres[0, :3] = 10000, np.nan, np.inf
            np.save(folder / "depth_left" / f"{i:06d}_left_depth.npy", metres)
    lines = [f"3 {1 + 0.5 * i} 2 0 0 0.70710678 0.70710678" for i in range(frames)]
    (folder / "pose_left.txt").write_text("\n".join(lines) + "\n")
    return raw


def write_v2(raw: Path, *, flight: str = "envB/Data_hard/P001") -> Path:
    """V2: square pictures, and depth as the bytes of its numbers."""
    folder = raw / flight
    (folder / "depth_lcam_front").mkdir(parents=True)
    for i in range(shared.FRAMES):
        picture = folder / "image_lcam_front" / f"{i:06d}_lcam_front.png"
        shared.write_picture(picture, i, size=(640, 640), focal=(320, 320), centre=(320, 320))
        metres = shared.depth(i, (640, 640))
        metres[0, :3] = 10000, np.nan, np.inf
        blue, green, red, alpha = np.moveaxis(metres[..., None].view(np.uint8), -1, 0)
        file = folder / "depth_lcam_front" / f"{i:06d}_lcam_front_depth.png"
        Image.fromarray(np.stack([red, green, blue, alpha], -1)).save(file)
    lines = [f"3 {1 + 0.5 * i} 2 0 0 0.70710678 0.70710678" for i in range(shared.FRAMES)]
    (folder / "pose_lcam_front.txt").write_text("\n".join(lines) + "\n")
    return raw
