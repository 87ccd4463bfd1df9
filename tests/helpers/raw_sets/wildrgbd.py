"""WildRGB-D as its archives unpack."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.raw_sets import shared


def write(
    raw: Path,
    *,
    frames: int = shared.FRAMES,
    scene: str = "apple/scenes/scene_000",
    intrinsics: tuple[float, ...] = (50, 0, 0, 0, 50, 0, 32.5, 23, 1),
) -> Path:
    folder = raw / scene
    for i in range(frames):
        shared.write_picture(folder / "rgb" / f"{i:05d}.png", i)
        depth = np.rint(1000 * np.maximum(shared.depth(i), 0)).astype(np.uint16)
        depth[0, :2] = 0, 6000
        for kind, pixels in (("depth", depth), ("masks", np.full(shared.SIZE, 255, np.uint8))):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(folder / kind / f"{i:05d}.png")
    (folder / "metadata").write_text(json.dumps({"w": 64, "h": 48, "K": list(intrinsics)}))
    rows = [f"{i} " + " ".join(map(str, shared.c2w(i).ravel())) for i in reversed(range(frames))]
    (folder / "cam_poses.txt").write_text("\n".join(rows) + "\n")
    (raw / "apple" / "types.json").parent.mkdir(exist_ok=True)
    (raw / "apple" / "types.json").write_text("{}")
    return raw
