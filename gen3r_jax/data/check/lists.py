"""The lists that name scenes, and what may not be on both sides of a split."""

import os
from collections.abc import Mapping
from pathlib import Path

from gen3r_jax.data.check.checks import Finding, SceneResult
from gen3r_jax.data.format import CATALOGUE, read_catalogue, read_list
from gen3r_jax.errors import UserError

KINDS = ("videos_dirs", "cameras_paths", "captions_paths")

Splits = dict[str, set[str]]
"""Scene folder (absolute) -> the lists that name it: train, test, eval."""


def check_lists(folder: Path) -> tuple[Splits, list[Finding]]:
    """Whether the lists of a folder are parallel, and all that they name is there."""
    splits: Splits = {}
    findings: list[Finding] = []
    for file in sorted(folder.glob(f"*_{KINDS[0]}.txt")):
        name = file.name.removesuffix(f"_{KINDS[0]}.txt")
        files = [folder / f"{name}_{kind}.txt" for kind in KINDS]
        try:
            lists = {file.name: read_list(file) for file in files if file.is_file()}
        except UserError as error:
            findings.append(Finding("error", "a list cannot be read", str(file), str(error)))
            continue
        if len({len(lines) for lines in lists.values()}) > 1:
            detail = ", ".join(f"{len(lines)} in {name}" for name, lines in lists.items())
            findings.append(Finding("error", "lists are not parallel", str(file), detail))
            continue
        for number, named in enumerate(zip(*lists.values(), strict=True)):
            videos = named[0]
            scene = videos.parent if videos.name == "images" else videos
            splits.setdefault(os.path.abspath(scene), set()).add(name)
            where = f"{file}, line {number + 1}"
            if missing := [path for path in named if not path.exists()]:
                findings.append(Finding("error", "a list names what is not there", where, str(missing[0])))
            elif ".partial" in scene.parts:
                findings.append(Finding("error", "a list names a scene that is not whole", where, str(scene)))
            elif others := [path for path in named[1:] if path.parent != scene]:
                findings.append(Finding("error", "a line is not the same scene in all lists", where, str(others[0])))
    return splits, findings


def check_catalogue(folder: Path, scenes: Mapping[str, SceneResult]) -> list[Finding]:
    """Whether ``scenes.jsonl`` tells of the scenes that are there."""
    file = folder / CATALOGUE
    if not file.is_file():
        return []
    try:
        frames = read_catalogue(file)
    except UserError as error:
        return [Finding("error", f"{CATALOGUE} cannot be read", str(file), str(error))]
    findings = [
        Finding("error", f"{CATALOGUE} names a scene that is not there", scene_id)
        for scene_id in frames if scene_id not in scenes
    ]  # fmt: skip
    for scene_id, scene in scenes.items():
        if scene_id not in frames:
            findings.append(Finding("warning", f"{CATALOGUE} does not name the scene", scene_id))
        elif scene.frames and frames[scene_id] != scene.frames:
            detail = f"{frames[scene_id]}, but there are {scene.frames}"
            findings.append(Finding("error", f"{CATALOGUE} has another number of frames", scene_id, detail))
    return findings


def check_splits(scenes: Mapping[str, SceneResult], splits: Mapping[str, set[str]]) -> list[Finding]:
    """Scenes, groups and first frames that are both in train and in test (or eval), and scenes that are in none.

    Args:
      splits: scene -> names of the lists that it is in.
    """
    findings = []
    listed = any(splits.values())
    groups: dict[str, dict[str, str]] = {}  # group -> side -> a scene of it
    for scene_id, scene in scenes.items():
        names = splits.get(scene_id, set()) | ({scene.split} if scene.split else set())
        sides = {"train" if name == "train" else "test" for name in names}
        if len(sides) > 1:
            findings.append(
                Finding("error", "a scene is both in train and in test", scene_id, ", ".join(sorted(names)))
            )
        elif scene.group:
            for side in sides:
                groups.setdefault(scene.group, {}).setdefault(side, scene_id)
        if listed and not splits.get(scene_id):
            findings.append(Finding("warning", "a scene is in no list", scene_id))
    for group, found in groups.items():
        if len(found) > 1:
            detail = f"{found['train']} and {found['test']}"
            findings.append(Finding("error", "a group is both in train and in test", group, detail))
    return findings


def check_duplicates(scenes: Mapping[str, SceneResult], splits: Mapping[str, set[str]]) -> list[Finding]:
    """Scenes that begin with the same file: an error where one is for training and one for tests."""
    findings = []
    first: dict[str, str] = {}
    for scene_id, scene in scenes.items():
        if not scene.first_frame:
            continue
        other = first.setdefault(scene.first_frame, scene_id)
        if other == scene_id:
            continue
        both = [bool(splits.get(name, set()) & {"train"}) for name in (scene_id, other)]
        apart = splits.get(scene_id) and splits.get(other) and both[0] != both[1]
        reason = "two scenes begin with the same picture" + (", one in train and one in test" if apart else "")
        findings.append(Finding("error" if apart else "warning", reason, scene_id, other))
    return findings
