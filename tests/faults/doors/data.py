"""Data sets: scenes, shards, latents, raw sets."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gen3r_jax.data.check.sets import check_root
from gen3r_jax.data.depth import encode_depth
from gen3r_jax.data.encoded import Header, SampleWriter, make_encoded_loader, read_header, read_sample
from gen3r_jax.data.loader import DataOptions
from gen3r_jax.data.shards import ShardWriter, list_shards, read_json_index
from gen3r_jax.data.sources import open_source
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import Cameras
from tests.faults.doors.door import (
    C2W,
    FRAMES,
    INTRINSICS,
    Door,
    gradient,
    numbers,
    require_one_line,
    write_copyable_root,
)
from tests.helpers.raw_sets import prepared
from tests.helpers.toy_scenes import write_scene


def _read_source(folder: Path) -> Any:
    source = open_source(folder, cameras=True)
    found = {}
    for index in range(len(source)):
        scene = source.scene(index)
        frames = scene.read(range(scene.length))
        found[scene.id] = [asdict(scene.cameras) if scene.cameras else None, scene.captions, frames]
        if scene.depth is not None:
            found[scene.id].append([scene.depth(number) for number in range(scene.length)])
    return found


def _write_shard(folder: Path) -> None:
    picture = Path(folder, "p.png")
    Image.fromarray(gradient()).save(picture)
    depth = encode_depth(np.ones((40, 56), np.float32))
    cameras = Cameras(C2W, INTRINSICS, np.tile((40, 56), (FRAMES, 1)))
    with ShardWriter(folder / "train-00000.array_record", {}) as writer:
        for name in "ab":
            writer.add(name, [picture.read_bytes()] * FRAMES, ["a room"], cameras, [depth] * FRAMES)
    picture.unlink()


def _write_latents(folder: Path) -> None:
    rng = numbers()
    data = json.loads(json.dumps(asdict(DataOptions(source="procedural"))))
    clips = {"train": 2, "test": 0, "data": data}
    texts = {"": rng.standard_normal((3, 8), np.float32), "bad": rng.standard_normal((2, 8), np.float32)}
    Header(5, 112, True, "float32", {"wan_vae": "a1b2"}, clips, texts).write(folder)
    with SampleWriter(folder, "train", 0) as writer:
        for number in range(2):
            text = np.zeros((16, 8), np.float32)
            text[:4] = rng.standard_normal((4, 8), np.float32)
            writer.add(f"procedural/{number}[0]", {"text": text, "rgb": rng.standard_normal((2, 4, 4, 16), np.float32)})


def _read_latents(folder: Path) -> Any:
    found = asdict(read_header(folder))
    make_encoded_loader(folder, DataOptions(workers=0), batch_size=1, num_frames=5, side=112, seed=0).close()
    for file in list_shards(folder, "train"):
        for index in range(read_json_index(file, "gen3r_jax.latents/2", "")["count"]):
            found[f"{file.name}[{index}]"] = read_sample(file, index)
    return found


def _raw(name: str, module_name: str = "") -> Door:
    """A raw data set, prepared; what is left of it must be cameras that can be meant and pictures with their sizes."""
    writer = importlib.import_module(f"tests.helpers.raw_sets.{module_name or name}")

    def read_set(folder: Path) -> Any:
        outcome = prepared.run(name, folder / "raw", folder / "root")
        for _, reason in outcome.skipped:
            require_one_line(UserError(reason))
        found = [prepared.read_scene_folder(folder / "root" / name / scene["id"]) for scene in outcome.scenes]
        return [[scene.cameras.c2w, scene.cameras.intrinsics, scene.depth] for scene in found]

    return Door(lambda folder: writer.write(folder / "raw"), read_set, "raw/**/*")


DATA = {
    "scene for training": Door(
        lambda folder: write_scene(folder / "scene", frames=3), _read_source, "scene/**/*", share=3
    ),
    "prepared root": Door(lambda folder: write_copyable_root(folder, 2), _read_source, "**/*", share=3),
    "shards": Door(_write_shard, _read_source, sealed=True),
    "latents": Door(_write_latents, _read_latents, sealed=True),
    "check": Door(
        lambda folder: write_copyable_root(folder, 3),
        lambda folder: [len(check_root(folder, sample=1, workers=1))],
        "**/*",
    ),
    "re10k": _raw("re10k", "realestate10k"),
    **{name: _raw(name) for name in ("vkitti", "co3d", "dl3dv", "wildrgbd", "tartanair", "kitti360", "waymo")},
}  # fmt: skip
