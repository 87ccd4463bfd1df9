"""Prepares a data set for training: ``gen3r prepare NAME --source RAW --output ROOT``."""

import argparse
from pathlib import Path

from gen3r_jax.data.prepare.registry import NAMES, data_set
from gen3r_jax.errors import UserError, add_most_bad, bad_share_status, main_guard

MOST_REASONS = 10
"""So many reasons of skipped scenes are told one by one."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gen3r prepare",
        description="Turns a data set, as its site hands it out, into scenes that train: ROOT/NAME/<scene>/ with "
        "images, cameras, depth where there is any, and list files. Nothing is downloaded. The same command goes on "
        "where it was stopped. docs/datasets.md says where to get each set.",
    )
    parser.add_argument("name", help=f"the data set: {', '.join(NAMES)}; the sets' own names are understood, too")
    parser.add_argument("--source", type=Path, required=True, help="folder of the set as it was downloaded")
    parser.add_argument("--output", type=Path, required=True, help="ROOT; several sets share it")
    parser.add_argument("--split", choices=("train", "test", "all"), default="all", help="which scenes (default: all)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument(
        "--limit", type=int, default=0, help="this many at most of what is read as one: recordings, categories of co3d"
    )
    parser.add_argument("--cameras", nargs="+", default=(), help="where a set has several: which (default: the first)")
    add_switch(parser, "undistort", "take lens distortion out")
    add_switch(parser, "half_pixel", "move principal points that count from the first pixel's centre to its corner")
    add_switch(parser, "depth", "write depth, where it is known")
    parser.add_argument("--format", choices=("jpg", "png"), default="jpg", help="for frames that are not JPEG already")
    parser.add_argument("--short_side", type=int, default=0, help="scale larger pictures down to this (default: never)")
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="DIR",
        help="capture: weights, as `gen3r reconstruct` takes them, whose VGGT finds the cameras of videos",
    )
    add_most_bad(parser, "scenes")
    arguments = parser.parse_args()
    try:
        from gen3r_jax.data.prepare.frames import Developing
        from gen3r_jax.data.prepare.recording import ReadOptions
        from gen3r_jax.data.prepare.run import Settings, prepare
        from gen3r_jax.data.prepare.scenes import Outcome

        chosen = data_set(arguments.name)
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing; pip install 'gen3r-jax[prepare]'") from None
    for key in ("workers", "limit", "short_side"):
        least = 1 if key == "workers" else 0
        if getattr(arguments, key) < least:
            raise UserError(f"--{key} must be at least {least}, not {getattr(arguments, key)}")
    if unknown := set(arguments.cameras) - set(chosen.cameras):
        known = f"there are {', '.join(chosen.cameras)}" if chosen.cameras else "it has one only"
        raise UserError(f"{chosen.title} has no camera {sorted(unknown)[0]!r}; {known}")
    reading = ReadOptions(tuple(arguments.cameras) or chosen.cameras[:1], arguments.half_pixel, arguments.depth)
    developing = Developing(arguments.undistort, arguments.format, arguments.short_side)
    settings = Settings(reading, developing, arguments.split)
    outcome = Outcome()
    for source in _sources(chosen.name, arguments):
        outcome.add(
            prepare(chosen, source, arguments.output, settings, workers=arguments.workers, limit=arguments.limit)
        )
    print(summary(outcome, arguments.output / chosen.name))
    if not outcome.scenes:
        raise UserError(f"no scene of {arguments.source} could be kept")
    total = len(outcome.scenes) + len(outcome.skipped)
    return bad_share_status(outcome.bad, total, arguments.most_bad, "scenes")


def _sources(name: str, arguments: argparse.Namespace) -> list[Path]:
    """Where the recordings are: the source, and for captures also where the cameras of its videos are found to."""
    from gen3r_jax.data.prepare.capture import find, find_videos
    from gen3r_jax.data.prepare.places import require_apart

    source, found = arguments.source, arguments.output / ".captures"
    if name != "capture" or not source.is_dir() or not (videos := find_videos(source)):
        return [source]
    require_apart(arguments.output, [source])
    if arguments.weights is None:
        raise UserError(f"{videos[0]} is a video: add --weights DIR, whose VGGT finds its cameras")
    # VGGT and JAX take seconds to import, and are for videos alone.
    from gen3r_jax.generation.captures import find_cameras

    find_cameras(videos, source, found, arguments.weights)
    return [found, *([source] if find(source) else [])]


def add_switch(parser: argparse.ArgumentParser, name: str, what: str) -> None:
    """``--name`` (the default) and ``--no_name``."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(f"--{name}", action="store_true", default=True, help=f"{what} (default)")
    group.add_argument(f"--no_{name}", action="store_false", dest=name, help="do not")


def summary(outcome, folder: Path) -> str:
    """What was kept, skipped and dropped, and why, in a few lines."""
    counts = {split: sum(scene["split"] == split for scene in outcome.scenes) for split in ("train", "test")}
    frames = sum(scene["frames"] for scene in outcome.scenes)
    lines = [
        f"{folder}: {len(outcome.scenes)} scenes ({counts['train']} train, {counts['test']} test) with {frames} frames"
    ]
    reasons: dict[str, list[str]] = {}
    for scene_id, reason in outcome.skipped:
        reasons.setdefault(reason, []).append(scene_id)
    frequent = sorted(reasons.items(), key=lambda item: -len(item[1]))
    for reason, ids in frequent[:MOST_REASONS]:
        longest = f"; the longest has {outcome.longest}" if reason.startswith("fewer than") else ""
        lines.append(f"  skipped {len(ids):6d} scenes: {reason}{longest} (first: {ids[0]})")
    if rest := frequent[MOST_REASONS:]:
        lines.append(f"  skipped {sum(len(ids) for _, ids in rest):6d} scenes for {len(rest)} other reasons")
    for reason, count in outcome.dropped.most_common():
        lines.append(f"  dropped {count:6d} frames: {reason} (first: {outcome.examples[reason]})")
    if outcome.scenes:
        lines.append("  no captions yet: gen3r caption ROOT --captions FILE.jsonl")
    return "\n".join(lines)


if __name__ == "__main__":
    main_guard(main)
