"""TartanAir as its archives unpack: the folder of a place twice, poses in NED axes."""

from pathlib import Path

import numpy as np

from tests.helpers.raw_sets import shared

FOCAL, CENTRE = (320.0, 320.0), (320.0, 240.0)


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
