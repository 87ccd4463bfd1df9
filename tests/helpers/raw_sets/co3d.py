"""Co3Dv2 as its archives unpack: annotations of a category, pictures and depth of its sequences."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.raw_sets import shared

ISOTROPIC = {
    "focal_length": [50 / 24, 50 / 24],
    "principal_point": [-1 / 24, 0.5 / 24],
    "intrinsics_format": "ndc_isotropic",
}
LEGACY = {"focal_length": [50 / 32, 50 / 24], "principal_point": [-1 / 32, 0.5 / 24]}


def write(
    raw: Path,
    *,
    frames: int = shared.FRAMES,
    sequence: str = "1_2_3",
    score: float | None = 0.9,
    camera: dict = ISOTROPIC,
    scale_adjustment: float = 1.0,
    positions: Sequence[float] = (),
) -> Path:
    """Adds a sequence to the category "apple".

    positions: which of the shared camera's frames are taken, if not the first ones.
    """
    category, annotations = raw / "apple", []
    for number, i in enumerate(positions or range(frames)):
        files = frame_files(sequence, number)
        shared.write_picture(raw / files["image"], i)
        depth = np.full(shared.SIZE, (2 - 0.5 * i) / scale_adjustment, np.float16)
        depth[0, 0], depth[0, 1], depth[0, 2] = 0, np.inf, 7
        mask = np.ones(shared.SIZE, np.uint8)
        mask[0, 2] = 0
        for kind, pixels in (("depth", depth.view(np.uint16)), ("mask", mask)):
            (raw / files[kind]).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(raw / files[kind])
        annotations.append(annotation(sequence, number, i, camera, scale_adjustment))
    add(category / "frame_annotations.jgz", annotations[::-1])
    add(
        category / "sequence_annotations.jgz",
        [{"sequence_name": sequence, "category": "apple", "viewpoint_quality_score": score}],
    )
    return raw


def frame_files(sequence: str, number: int) -> dict[str, str]:
    """The names of a frame's files count differently from its number."""
    name = f"frame{5 * (number + 1):06d}"
    return {
        "image": f"apple/{sequence}/images/{name}.jpg",
        "depth": f"apple/{sequence}/depths/{name}.jpg.geometric.png",
        "mask": f"apple/{sequence}/depth_masks/{name}.png",
    }


def annotation(
    sequence: str, number: int, position: float, camera: dict = ISOTROPIC, scale_adjustment: float = 1.0
) -> dict:
    files = frame_files(sequence, number)
    return {
        "sequence_name": sequence,
        "frame_number": number,
        "frame_timestamp": number / 10,
        "image": {"path": files["image"], "size": list(shared.SIZE)},
        "depth": {"path": files["depth"], "scale_adjustment": scale_adjustment, "mask_path": files["mask"]},
        "mask": None,
        "viewpoint": {
            "R": [[0, 0, 1], [0, -1, 0], [1, 0, 0]],
            "T": [-3, 2, -1 - 0.5 * position],
            **camera,
        },
        "meta": {"frame_type": "train_known", "frame_splits": []},
    }


def read(path: Path) -> list[dict]:
    return json.loads(gzip.decompress(path.read_bytes()))


def add(path: Path, entries: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [*(read(path) if path.exists() else []), *entries]
    path.write_bytes(gzip.compress(json.dumps(entries).encode()))
