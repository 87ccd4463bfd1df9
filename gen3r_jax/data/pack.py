"""Packs any source of scenes into ArrayRecord shards: ``gen3r pack SOURCE OUTPUT``.

Image files go in as they are; frames of videos and rendered frames are encoded. Frames that cannot be decoded are left
out together with their cameras, scenes without any good frame altogether. Shards appear only when they are whole, and
running the same command again goes on where it was stopped.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from etils import epath
from tqdm import tqdm

from gen3r_jax.command_line import add_folders, require_folders
from gen3r_jax.data.depth import encode_depth
from gen3r_jax.data.images import Picture, encode_image, read_image
from gen3r_jax.data.procedural import KINDS, Difficulty
from gen3r_jax.data.shards import SUFFIX, ShardWriter, list_shards, read_index, read_settings
from gen3r_jax.data.sources import Capture, Source, open_source
from gen3r_jax.data.workers import worker_pool
from gen3r_jax.errors import UserError, add_most_bad, bad_share_status, main_guard
from gen3r_jax.storage.folders import claimed


def pack(source: Source, output: Path, settings: dict[str, Any], *, workers: int = 1, quiet: bool = False) -> "Summary":
    """Writes the scenes of `source` to shards in `output`, in `workers` processes that make no difference to the bytes.

    settings: ``split``, ``scenes_per_shard``, ``num_frames`` (of each scene at most, 0 for all), ``format`` (jpg or
    png, for frames that are not image files) and ``depth`` (default: False) are read; all are kept in the shards, and a
    folder with shards of other settings is refused.
    """
    with claimed(output, "shards", _has_shards, part=f"-{settings['split']}"):
        per_shard = settings["scenes_per_shard"]
        summary = Summary()
        for file in list_shards(output, settings["split"]):
            if read_settings(file) != settings:
                raise UserError(
                    f"{output} holds shards that were made with other settings or of another number of scenes; choose "
                    "another folder"
                )
        missing = []
        with tqdm(total=len(source), unit="scene", disable=True if quiet else None) as progress:
            for shard, first in enumerate(range(0, len(source), per_shard)):
                file = output / f"{settings['split']}-{shard:05d}{SUFFIX}"
                scenes = range(first, min(first + per_shard, len(source)))
                if file.exists():
                    summary.scenes += len(read_index(file))
                    progress.update(len(scenes))
                else:
                    missing.append((file, scenes))
            for (_, scenes), part in zip(missing, _pack_shards(source, settings, missing, workers), strict=True):
                summary.add(part)
                progress.update(len(scenes))
    if not summary.scenes:
        raise UserError(f"no scene of {source.name} could be packed; the first failed with: {summary.reason}")
    return summary


def _has_shards(folder: epath.Path) -> bool:
    from gen3r_jax.data.encoded import holds_latents  # which takes a second, and --help needs none of it

    return any(folder.glob(f"*{SUFFIX}")) and not holds_latents(folder)


class Summary:
    """What went in and what was left out. reason: why the first scene was."""

    def __init__(self):
        self.scenes = self.frames_left_out = self.scenes_left_out = 0
        self.reason = ""

    def leave_out(self, error: Exception) -> None:
        self.scenes_left_out += 1
        self.reason = self.reason or str(error)

    def add(self, other: "Summary") -> None:
        self.scenes += other.scenes
        self.frames_left_out += other.frames_left_out
        self.scenes_left_out += other.scenes_left_out
        self.reason = self.reason or other.reason

    def __str__(self) -> str:
        text = f"{self.scenes} scenes packed"
        if self.frames_left_out or self.scenes_left_out:
            text += f", {self.scenes_left_out} scenes and {self.frames_left_out} frames left out"
        return text + (f" (first: {self.reason})" if self.reason else "")


def _pack_shards(source: Source, settings: dict, shards: list[tuple[Path, range]], workers: int) -> Iterator["Summary"]:
    """Packs (file, its scenes), in order or in that many processes."""
    if workers == 1 or len(shards) < 2:
        yield from (_pack_shard(source, settings, *shard) for shard in shards)
        return
    with worker_pool(min(workers, len(shards)), _take_job, source, settings) as pool:
        yield from pool.map(_pack_in_worker, shards)


_job: tuple[Source, dict] | None = None
"""What a worker process packs: sent once, not with every shard."""


def _take_job(source: Source, settings: dict) -> None:
    global _job
    _job = source, settings


def _pack_in_worker(shard: tuple[Path, range]) -> "Summary":
    assert _job is not None
    source, settings = _job
    return _pack_shard(source, settings, *shard)


def _pack_shard(source: Source, settings: dict, file: Path, scenes: range) -> "Summary":
    summary = Summary()
    with ShardWriter(file, settings) as writer:
        for index in scenes:
            _pack_scene(source, index, writer, settings, summary)
    return summary


def _pack_scene(source: Source, index: int, writer: ShardWriter, settings: dict, summary: Summary) -> None:
    try:
        capture = source.scene(index)
    except (UserError, OSError) as error:
        summary.leave_out(error)
        return
    length = min(capture.length, settings["num_frames"] or capture.length)
    frames = _encoded_frames(capture, length, f".{settings['format']}")
    try:
        depths = _encoded_depths(capture, length) if settings.get("depth") else None
    except (UserError, OSError) as error:
        summary.leave_out(error)
        return
    packed = writer.add(capture.id, frames, capture.captions, capture.cameras, depths)
    if packed:
        summary.scenes += 1
        summary.frames_left_out += length - packed
    else:
        summary.leave_out(UserError(f"scene {capture.id} has no readable frame"))


def _encoded_frames(capture: Capture, length: int, suffix: str) -> Iterator[bytes | None]:
    if capture.encoded:
        for index in range(length):
            yield _checked_file(capture, index)
        return
    for picture in _pictures(capture, length):
        yield None if picture is None else encode_image(picture, suffix)


def _pictures(capture: Capture, length: int) -> Iterator[Picture | None]:
    if capture.stream is None:
        yield from (capture.read([index])[0] for index in range(length))
        return
    expected = 0
    for index, picture in capture.stream(range(length)):
        yield from [None] * (index - expected)
        yield picture
        expected = index + 1
    yield from [None] * (length - expected)


def _encoded_depths(capture: Capture, length: int) -> list[bytes]:
    if capture.depth is None:
        raise UserError(f"scene {capture.id} has no depth")
    return [encode_depth(capture.depth(index)) for index in range(length)]


def _checked_file(capture: Capture, index: int) -> bytes | None:
    assert capture.encoded is not None
    try:
        encoded = capture.encoded(index)
        read_image(encoded)
    except (UserError, OSError):
        return None
    return encoded


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gen3r pack",
        description="Packs any source of scenes into ArrayRecord shards, which train as they are: "
        "--config.data.source=OUTPUT. The same command goes on where it was stopped.",
    )
    parser.add_argument("source", help="`procedural`, a video, or a folder: images, videos, a data set root, shards")
    add_folders(parser, output="folder for the shards")
    parser.add_argument(
        "--split", choices=("train", "test", "eval"), default="train", help="list files to read; names shards"
    )
    parser.add_argument("--scenes_per_shard", type=int, default=64)
    parser.add_argument("--num_frames", type=int, default=0, help="frames of each scene at most (default: all)")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg", help="for frames that are not image files")
    parser.add_argument("--depth", action="store_true", help="pack depth, too; scenes without it are left out")
    parser.add_argument("--no_cameras", action="store_true", help="leave cameras out; scenes then need none")
    parser.add_argument("--workers", type=int, default=1, help="processes; the shards are the same whatever they are")
    group = parser.add_argument_group("procedural scenes")
    group.add_argument("--num_scenes", type=int, default=256)
    group.add_argument("--first_scene", type=int, default=0, help="number of the first one in the split (default: 0)")
    group.add_argument("--size", type=int, nargs=2, default=(112, 112), metavar=("HEIGHT", "WIDTH"))
    group.add_argument("--difficulty", choices=get_args(Difficulty), default="easy")
    group.add_argument("--kinds", nargs="+", default=KINDS, help=f"some of {' '.join(KINDS)} (default: all)")
    add_most_bad(parser, "scenes")
    arguments = parser.parse_args()
    require_folders(parser, arguments, "output")
    settings = {
        key: value for key, value in sorted(vars(arguments).items()) if key not in ("output", "workers", "most_bad")
    }
    settings |= {"size": list(arguments.size), "kinds": list(arguments.kinds)}
    if not arguments.first_scene:
        del settings["first_scene"]  # as shards that were made before there was a choice
    least_of = {"scenes_per_shard": 1, "num_scenes": 1, "num_frames": 0, "workers": 1, "first_scene": 0}
    for key, least in least_of.items():
        if getattr(arguments, key) < least:
            raise UserError(f"--{key} must be at least {least}, not {getattr(arguments, key)}")
    source = open_source(
        arguments.source,
        split=arguments.split,
        cameras=not arguments.no_cameras,
        num_scenes=arguments.num_scenes,
        num_frames=arguments.num_frames or 49,
        size=tuple(arguments.size),
        difficulty=arguments.difficulty,
        kinds=tuple(arguments.kinds),
        first_scene=arguments.first_scene,
    )
    settings["scenes"] = len(source)  # shards of a source that has grown since would hold scenes twice
    summary = pack(source, arguments.output, settings, workers=arguments.workers)
    print(f"{arguments.output}: {summary}")
    return bad_share_status(summary.scenes_left_out, len(source), arguments.most_bad, "scenes")


if __name__ == "__main__":
    main_guard(main)
