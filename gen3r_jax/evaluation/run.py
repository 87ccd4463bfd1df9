"""An evaluation: which scenes are judged, and what is written of each."""

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from gen3r_jax import module
from gen3r_jax.data.clip_maker import ClipMaker
from gen3r_jax.data.sources import NoScenes, Source, open_source
from gen3r_jax.errors import UserError
from gen3r_jax.evaluation.appearance import Lpips
from gen3r_jax.evaluation.curves import sweep_points
from gen3r_jax.evaluation.options import DataOptions, EvaluationOptions
from gen3r_jax.evaluation.protocol import Truth, score, score_parts
from gen3r_jax.evaluation.rows import predict
from gen3r_jax.export.grid import spread, write_grid
from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.pipeline import Gen3RPipeline
from gen3r_jax.models.rgb_head import RGBHead
from gen3r_jax.options import merged
from gen3r_jax.progress import COMPILER, Progress
from gen3r_jax.storage.checkpoint import load_network
from gen3r_jax.storage.files import read_json, write_json
from gen3r_jax.storage.folders import claimed
from gen3r_jax.storage.hashes import HASHES

SAMPLE = 1 << 20
"""Bytes of a file that are hashed on both ends."""


def evaluate(
    pipeline: Gen3RPipeline,
    source: Source,
    options: EvaluationOptions,
    output: Path,
    part: tuple[int, int] = (0, 1),
    lpips: Lpips | None = None,
    rgb_head: Network | None = None,
) -> None:
    """Writes ``scenes/*.json`` for the scenes of this part that have none yet. Scenes that cannot be read say so, and
    are tried again the next time."""
    data, (index, parts) = options.data, part
    size = (data.side, data.side)
    maker = ClipMaker((source,), (1,), data.num_frames, size, training=False, normalize=data.normalize)
    numbers = range(index, min(len(source), data.num_scenes), parts)
    records = {number: output / "scenes" / f"{number:06d}.json" for number in numbers}
    todo = {number: record for number, record in records.items() if not _is_judged(record)}
    with Progress("evaluation", len(records), "scene", done=len(records) - len(todo)) as progress:
        for number, record in todo.items():
            result: dict[str, Any] = {"number": number}
            started, compiled = time.perf_counter(), COMPILER.seconds
            try:
                truth, caption, result["scene"] = _read(maker, source, number, options.metrics.farthest)
            except (UserError, OSError) as error:
                result["skipped"] = str(error)
            else:
                pictures = {"truth": truth.frames}
                result["rows"] = {}
                try:
                    rows = predict(pipeline, truth, caption, options.rows, options.sampling, options.sweep, rgb_head)
                    for row, prediction in rows:
                        result["rows"][row] = score(prediction, truth, options.metrics, lpips)._asdict()
                        if sweep_points([row]):
                            continue
                        for pixels, scores in score_parts(prediction, truth).items():
                            result["rows"][f"{row}, {pixels}"] = scores._asdict()
                        if prediction.frames is not None:
                            pictures[row] = np.rint(255 * prediction.frames).astype(np.uint8)
                except module.NotFinite as error:
                    result["skipped"] = str(error)
                if number < options.output.pictures:
                    grid = {name: frames[spread(len(frames))] for name, frames in pictures.items()}
                    write_grid(output / "pictures" / f"{number:06d}.png", grid)
            result["compile_seconds"] = COMPILER.seconds - compiled
            result["seconds"] = time.perf_counter() - started - result["compile_seconds"]
            write_json(record, result)
            progress.advance()


def _is_judged(record: Path) -> bool:
    """Whether a scene need not be looked at again; a damaged record is made anew."""
    try:
        return record.exists() and "skipped" not in read_json(record)
    except UserError:
        return False


def count_skipped(output: Path) -> tuple[int, int]:
    """How many scenes were skipped, and of how many."""
    scenes = [read_json(path) for path in (output / "scenes").glob("*.json")]
    return sum("skipped" in scene for scene in scenes), len(scenes)


def _read(maker: ClipMaker, source: Source, number: int, farthest: float) -> tuple[Truth, str, str]:
    """The truth about a scene, its caption and its name. Raises UserError for scenes shorter than a clip."""
    capture = source.scene(number)
    if capture.length < maker.num_frames:
        raise UserError(f"scene {capture.id} has {capture.length} frames, fewer than {maker.num_frames}")
    known = capture.depth is not None
    clip = replace(maker, depth=known, normalize=known and maker.normalize).clip(source, capture, 1)
    if clip["num_replaced"]:
        raise UserError(f"scene {capture.id} has {clip['num_replaced']} frames that cannot be read")
    c2w = clip["c2w"].astype(np.float64) if clip["has_cameras"] else None
    depth = clip["depth"].astype(np.float32) if "depth" in clip else None
    if depth is not None and farthest:
        depth = np.where(depth <= farthest, depth, 0)
    return Truth(clip["frames"], clip["intrinsics"].astype(np.float64), c2w, depth), clip["caption"], capture.id


def open_data(name: str, data: DataOptions) -> tuple[Source, str]:
    """The scenes, and of which split they are."""
    options = {"num_scenes": data.num_scenes, "num_frames": data.num_frames, "size": (data.side, data.side)}
    options |= {"cameras": data.cameras, "difficulty": data.difficulty, "first_scene": data.first_scene}
    split = "test" if name == "procedural" else data.split
    while True:
        try:
            return open_source(name, split=split, exact=True, **options), split
        except NoScenes as error:
            if split == "train":
                raise
            following = {"eval": "test", "test": "train"}[split]
            print(f"no {split} scenes, so those of the split {following} are looked for: {error}", file=sys.stderr)
            split = following


def load_rgb_head(weights: Path) -> Network | None:
    """Not every folder of weights has one; only the ablation of Table 9 asks for it."""
    return load_network(weights / "rgb_head", RGBHead) if (weights / "rgb_head").exists() else None


def fingerprint(weights: Path) -> str:
    """A hash of the size, the beginning and the end of every file: other weights differ there."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(weights, followlinks=True):
        folders.sort()
        for name in sorted(set(names) - {HASHES}):
            with Path(folder, name).open("rb") as file:
                digest.update(file.read(SAMPLE))
                file.seek(max(0, file.seek(0, os.SEEK_END) - SAMPLE))
                digest.update(file.read() + b"%d" % file.tell())
    return digest.hexdigest()[:16]


@contextmanager
def claim(output: Path, config: Mapping[str, Any], part: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """A folder belongs to one evaluation: numbers of two configs must not mix. Keys that are absent have defaults.

    Holds the lock of a part of it while the block runs.
    Raises UserError where the folder holds something else or an evaluation with another config, or the lock is held.
    """
    file = output / "config.json"

    def filled(config: Mapping[str, Any]) -> dict[str, Any]:
        return module.flatten(merged(asdict(EvaluationOptions()), config))

    def is_evaluation(folder: epath.Path) -> bool:
        return (folder / file.name).exists() and "weights_are" in read_json(folder / file.name)

    with claimed(output, "an evaluation", is_evaluation, share=part):
        if file.exists() and filled(read_json(file)) != filled(json.loads(json.dumps(config))):
            raise UserError(
                f"{output} holds an evaluation with another config, weights or data; delete it or give another --output"
            )
        write_json(file, config)
        yield
