"""Judges weights by the paper's protocol.

    python -m gen3r_jax.evaluate --config configs/eval.py[:nano] --weights DIR --data ROOT|procedural --output DIR

Every scene is generated from one view, from two and from all, with its cameras and without, and compared with the
truth: frames (PSNR, SSIM, LPIPS), points (accuracy, completeness, Chamfer distance), depth and cameras. Rows of the
autoencoders alone, of VGGT alone and of baselines that know nothing say what the numbers mean. What the data cannot
tell is n/a, with the reason.

DIR gets scenes/*.json, one a scene, and from them report.md, report.csv, report.json and sheet.jpg. The same command
goes on where it was stopped. To share the work among machines, give each its --part (0/4, 1/4, ...) and the same DIR.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from gen3r_jax import command_line
from gen3r_jax.command_line import CONFIG, parse_flags, read_part, shared_work_flags
from gen3r_jax.data.clip_maker import ClipMaker
from gen3r_jax.data.sources import NoScenes, Source, open_source
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.evaluation.appearance import Lpips, load_lpips
from gen3r_jax.evaluation.protocol import MetricOptions, Truth, score
from gen3r_jax.evaluation.report import write_report
from gen3r_jax.evaluation.rows import RowOptions, SamplingOptions, predict
from gen3r_jax.export.grid import spread, write_grid
from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.pipeline import Gen3RPipeline, default_dtype
from gen3r_jax.models.rgb_head import RGBHead
from gen3r_jax.models.sizes import require_clip_length, require_side
from gen3r_jax.options import read_options
from gen3r_jax.storage.checkpoint import load_network
from gen3r_jax.storage.files import read_json, write_json
from gen3r_jax.storage.remote import is_remote

OUTPUT, PART = shared_work_flags()
flags.adopt_module_key_flags(command_line)
WEIGHTS = flags.DEFINE_string("weights", None, "Folder of converted or trained weights.")
DATA = flags.DEFINE_string("data", None, "A prepared root or set, shards, or `procedural`.")

SAMPLE = 1 << 20
"""Bytes of a file that are hashed on both ends."""


@dataclass(frozen=True)
class DataOptions:
    """The config group ``data``.

    split: "eval" or "test"; where there is none, what comes next of eval, test and train is taken, with a notice.
    num_scenes: at most. cameras: whether they are read; then each scene must have them. normalize: whether the unit of
    lengths is VGGT's instead of the data's own (where there is depth), as it was when the weights were trained.
    difficulty: of procedural scenes.
    """

    split: Literal["eval", "test"]
    num_frames: int
    side: int
    num_scenes: int
    cameras: bool
    normalize: bool
    difficulty: str

    def __post_init__(self) -> None:
        require_side(self.side)
        require_clip_length(self.num_frames)
        if self.num_frames < 5 or self.num_scenes < 1:
            raise UserError("data.num_frames must be at least 5, data.num_scenes at least 1")


@dataclass(frozen=True)
class OutputOptions:
    """pictures: scenes on the contact sheet. dtype: of the weights, "" by the device."""

    pictures: int
    dtype: Literal["", "bfloat16", "float16", "float32"]


@dataclass(frozen=True)
class EvaluationOptions:
    data: DataOptions
    rows: RowOptions
    sampling: SamplingOptions
    metrics: MetricOptions
    output: OutputOptions


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; try --help")
    needed = {"config": CONFIG, "weights": WEIGHTS, "data": DATA, "output": OUTPUT}
    if missing := [name for name, flag in needed.items() if not flag.value]:
        raise UserError(f"--{missing[0]} is needed; try --help")
    for name in ("weights", "output"):
        if is_remote(needed[name].value):
            raise UserError(f"--{name} {needed[name].value}: a folder on a disk is needed; mount the bucket or copy it")
    logging.set_verbosity(logging.WARNING)
    config = CONFIG.value.to_dict()
    options = read_options(EvaluationOptions, config)
    output = Path(OUTPUT.value)
    part = read_part(PART.value)
    source, split = _open(DATA.value, options.data)
    pipeline = Gen3RPipeline.from_pretrained(WEIGHTS.value, dtype=options.output.dtype or None)
    lpips = load_lpips(options.metrics.lpips) if options.metrics.lpips else None
    place = {
        "weights": WEIGHTS.value,
        "weights_are": _fingerprint(Path(WEIGHTS.value)),
        "weights_dtype": default_dtype(options.output.dtype).name,
        "lpips_backbone": lpips.backbone if lpips else "",
        "data_source": DATA.value,
        "split": split,
        "scenes": len(source),
    }
    _claim(output, config | place)
    evaluate(pipeline, source, options, output, part, lpips, _rgb_head(Path(WEIGHTS.value)))
    if part[0] >= min(len(source), options.data.num_scenes) and not any((output / "scenes").glob("*.json")):
        print(f"part {PART.value}: there are fewer scenes than parts, and none for this one")
        return
    print(write_report(output))


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
    for number in tqdm(numbers, unit="scene", disable=None):
        record = output / "scenes" / f"{number:06d}.json"
        if _is_judged(record):
            continue
        result: dict[str, Any] = {"number": number}
        started = time.perf_counter()
        try:
            truth, caption, result["scene"] = _read(maker, source, number, options.metrics.farthest)
        except (UserError, OSError) as error:
            result["skipped"] = str(error)
        else:
            pictures = {"truth": truth.frames}
            result["rows"] = {}
            for row, prediction in predict(pipeline, truth, caption, options.rows, options.sampling, rgb_head):
                result["rows"][row] = score(prediction, truth, options.metrics, lpips)._asdict()
                if prediction.frames is not None:
                    pictures[row] = np.rint(255 * np.nan_to_num(prediction.frames)).astype(np.uint8)
            if number < options.output.pictures:
                grid = {name: frames[spread(len(frames))] for name, frames in pictures.items()}
                write_grid(output / "pictures" / f"{number:06d}.png", grid)
        result["seconds"] = time.perf_counter() - started
        write_json(record, result)


def _is_judged(record: Path) -> bool:
    """Whether a scene need not be looked at again; a damaged record is made anew."""
    try:
        return record.exists() and "skipped" not in read_json(record)
    except UserError:
        return False


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


def _open(name: str, data: DataOptions) -> tuple[Source, str]:
    """The scenes, and of which split they are."""
    options = {"num_scenes": data.num_scenes, "num_frames": data.num_frames, "size": (data.side, data.side)}
    options |= {"cameras": data.cameras, "difficulty": data.difficulty}
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


def _rgb_head(weights: Path) -> Network | None:
    """Not every folder of weights has one; only the ablation of Table 9 asks for it."""
    return load_network(weights / "rgb_head", RGBHead) if (weights / "rgb_head").exists() else None


def _fingerprint(weights: Path) -> str:
    """A hash of the size, the beginning and the end of every file: other weights differ there."""
    digest = hashlib.sha256()
    for folder, folders, names in os.walk(weights, followlinks=True):
        folders.sort()
        for name in sorted(names):
            with Path(folder, name).open("rb") as file:
                digest.update(file.read(SAMPLE))
                file.seek(max(0, file.seek(0, os.SEEK_END) - SAMPLE))
                digest.update(file.read() + b"%d" % file.tell())
    return digest.hexdigest()[:16]


def _claim(output: Path, config: Mapping[str, Any]) -> None:
    """A folder belongs to one evaluation: numbers of two configs must not mix."""
    file = output / "config.json"
    if file.exists() and read_json(file) != json.loads(json.dumps(config)):
        raise UserError(
            f"{output} holds an evaluation with another config, weights or data; delete it or give another --output"
        )
    write_json(file, config)


if __name__ == "__main__":
    main_guard(lambda: app.run(main, flags_parser=parse_flags))
