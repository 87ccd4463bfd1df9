"""Virtual KITTI 2 as its archives unpack."""

from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.raw_sets import shared


def write(raw: Path, *, frames: int = shared.FRAMES, condition: str = "Scene01/clone", archives: bool = False) -> Path:
    """archives: rgb, depth and text in a tree of their own each."""
    trees = {kind: raw / f"vkitti_2.0.3_{kind}" if archives else raw for kind in ("rgb", "depth", "textgt")}
    text = trees["textgt"] / condition
    text.mkdir(parents=True, exist_ok=True)
    intrinsics = ["frame cameraID K[0,0] K[1,1] K[0,2] K[1,2]"]
    extrinsics = ["frame cameraID r1,1 r1,2 r1,3 t1 r2,1 r2,2 r2,3 t2 r3,1 r3,2 r3,3 t3 0 0 0 1"]
    for i in range(frames):
        for camera in (0, 1):
            w2c = shared.w2c(i)
            w2c[0, 3] -= 0.5327 * camera
            intrinsics.append(f"{i} {camera} 50 50 32.5 23")
            extrinsics.append(f"{i} {camera} " + " ".join(map(str, w2c.ravel())))
            shared.write_picture(trees["rgb"] / condition / f"frames/rgb/Camera_{camera}/rgb_{i:05d}.jpg", i)
            depth = np.rint(100 * shared.depth(i)).astype(np.uint16)
            depth[0, 0] = 65535
            file = trees["depth"] / condition / f"frames/depth/Camera_{camera}/depth_{i:05d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(depth).save(file)
    (text / "intrinsic.txt").write_text("\n".join(intrinsics) + "\n")
    (text / "extrinsic.txt").write_text("\n".join(extrinsics) + "\n")
    (text / "pose.txt").write_text("frame cameraID trackID\n0 0 0\n")
    return raw
