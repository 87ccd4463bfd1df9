"""Virtual KITTI 2: five drives of KITTI rendered anew, each under ten conditions and with two cameras.

    Scene01/clone/frames/{rgb,depth}/Camera_0/{rgb_00000.jpg,depth_00000.png}
    Scene01/clone/{intrinsic.txt,extrinsic.txt}

in one tree, or in three as the archives unpack (``vkitti_2.0.3_rgb``, ``_depth``, ``_textgt``). Poses are world to
camera in OpenCV axes and metres, principal points count from the first pixel's centre, depth is in centimetres (65535:
sky). All conditions of a drive show the same places, so parts of the drive, not of a condition, are held out for tests.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from gen3r_jax.data.depth import read_depth_bits
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit, successive
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.storage.files import read_table

SKY = 65535


def find(raw: Path) -> list[Unit]:
    """One unit for each drive under each condition: its folders with poses, pictures and depth."""
    trees = [raw, *sorted(raw.glob("vkitti_2*"))]
    units = []
    for poses in sorted(file for tree in trees for file in tree.glob("Scene*/*/extrinsic.txt")):
        condition = Path(*poses.parent.parts[-2:])
        parts = {kind: _first(trees, condition / "frames" / kind) for kind in ("rgb", "depth")}
        units.append(Unit(condition.as_posix(), (poses.parent, parts["rgb"], parts["depth"])))
    return units


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    text, pictures, depths = unit.paths
    scene, condition = unit.key.split("/")
    intrinsics = {tuple(row[:2].astype(int)): row[2:] for row in read_table(text / "intrinsic.txt", 6, header=1)}
    extrinsics = read_table(text / "extrinsic.txt", 18, header=1)
    for camera in options.cameras:
        number = int(camera)
        frames, missing = [], 0
        for row in extrinsics[extrinsics[:, 1] == number]:
            index = int(row[0])
            picture = pictures / f"Camera_{number}" / f"rgb_{index:05d}.jpg"
            if (index, number) not in intrinsics or not picture.exists():
                missing += 1
                continue
            fx, fy, cx, cy = intrinsics[index, number]
            shift = 0.5 if options.half_pixel else 0.0
            depth = depths / f"Camera_{number}" / f"depth_{index:05d}.png"
            frames.append(
                RawFrame(
                    picture.name,
                    index,
                    picture,
                    invert_se3(row[2:].reshape(4, 4)),
                    (fx, fy),
                    (cx + shift, cy + shift),
                    depth=partial(_read_depth, depth) if options.depth and depth.exists() else None,
                )
            )
        dropped = {"no picture or no intrinsics": missing} if missing else {}
        ahead = "deg" not in condition  # the others are turned by 15 or 30 degrees
        recording_id = f"{scene}_{condition}_cam{number}"
        yield Recording(recording_id, scene, frames, dropped=dropped, continues=successive, looks_ahead=ahead)


def _first(trees: list[Path], part: Path) -> Path:
    return next((tree / part for tree in trees if (tree / part).is_dir()), trees[0] / part)


def _read_depth(path: Path) -> Float32[np.ndarray, "h w"]:
    centimetres = read_depth_bits(path)
    return np.where(centimetres < SKY, centimetres, 0).astype(np.float32) / 100


DATA_SET = DataSet(
    name="vkitti",
    title="Virtual KITTI 2",
    site="https://europe.naverlabs.com/proxy-virtual-worlds-vkitti-2/",
    licence="CC BY-NC-SA 3.0",
    scale="metric",
    layout="Scene*/<condition>/extrinsic.txt, here or in vkitti_2*/",
    find=find,
    read=read,
    cameras=("0", "1"),
    chunk_frames=100,
    split_by_chunk=True,
    split_salt="6",  # one part of Scene18 and one of Scene20; without it, a third of all
)
