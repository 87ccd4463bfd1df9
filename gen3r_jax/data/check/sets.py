"""All scenes of a root, several at once, and the lists that name them."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from gen3r_jax.data.check.checks import Finding, Job, SceneResult, check_scene
from gen3r_jax.data.check.lists import check_catalogue, check_duplicates, check_lists, check_splits
from gen3r_jax.data.workers import worker_pool
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import real_path

DRAWN = 12
"""Scenes of each set that the report shows."""


@dataclass
class SetResult:
    """What was found in one set; of the root as a whole where the name is empty."""

    name: str
    scenes: list[SceneResult] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def all_findings(self) -> list[Finding]:
        return [*self.findings, *(finding for scene in self.scenes for finding in scene.findings)]

    def count(self, level: str) -> int:
        return sum(finding.level == level for finding in self.all_findings)


def check_root(root: Path, *, sample: int = 20, workers: int = 1, quiet: bool = False) -> list[SetResult]:
    """Checks the sets of `root`, or the one set that it is.

    Args:
      sample: so many scenes of each set have all their files decoded and their depth tested; 0: all.

    Returns:
      A result for each set, after one of the root as a whole. Raises UserError where there are no scenes.
    """
    return check_sets(root, find_sets(root), sample=sample, workers=workers, quiet=quiet)


def check_sets(
    root: Path, sets: Mapping[str, Sequence[Path]], *, sample: int, workers: int, quiet: bool = False
) -> list[SetResult]:
    """Checks the scene folders of the sets that :func:`find_sets` found, as :func:`check_root` does."""
    results = {name: SetResult(name) for name in sets}
    jobs = [(name, job) for name, folders in sets.items() for job in _jobs(name, folders, sample)]
    with tqdm(total=len(jobs), unit="scene", disable=True if quiet else None) as progress:
        for (name, _), scene in zip(jobs, _run([job for _, job in jobs], workers), strict=True):
            results[name].scenes.append(scene)
            progress.update()
    whole = SetResult("")
    root_splits, whole.findings = check_lists(root)
    every_scene, every_split = {}, {}
    for name, folders in sets.items():
        result, folder = results[name], folders[0].parent
        set_splits, findings = check_lists(folder) if folder != root else ({}, [])
        scenes = {scene.id: scene for scene in result.scenes}
        paths = {path.name: os.path.abspath(path) for path in folders}
        splits = {key: root_splits.get(path, set()) | set_splits.get(path, set()) for key, path in paths.items()}
        result.findings = findings + check_catalogue(folder, scenes) + check_splits(scenes, splits)
        every_scene |= {f"{name}/{key}": scene for key, scene in scenes.items()}
        every_split |= {f"{name}/{key}": names for key, names in splits.items()}
    whole.findings += check_duplicates(every_scene, every_split)
    return [whole, *results.values()]


def find_sets(root: Path) -> dict[str, list[Path]]:
    """Set -> its scene folders. `root` is a set if there are scenes in it, else its folders are.

    Raises UserError where there are no scenes.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the --output of gen3r prepare")
    folders = _folders(root)
    if scenes := [folder for folder in folders if _is_scene(folder)]:
        return {real_path(root).name: scenes}
    sets = {folder.name: [scene for scene in _folders(folder) if _is_scene(scene)] for folder in folders}
    if not any(sets.values()):
        _, findings = check_lists(root)
        why = f"; {findings[0].reason}: {findings[0].detail}" if findings else ""
        raise UserError(f"{root} holds no scenes: looked for ROOT/<set>/<scene>/images and ROOT/<scene>/images{why}")
    return {name: scenes for name, scenes in sets.items() if scenes}


def _folders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _is_scene(folder: Path) -> bool:
    return (folder / "images").is_dir() or (folder / "transforms.json").is_file()


def _jobs(name: str, folders: Sequence[Path], sample: int) -> list[Job]:
    """The sample is the same in every run, and mostly so when scenes are added: those with the smallest hashes."""
    ranked = sorted(folders, key=lambda folder: hashlib.sha1(f"check/{name}/{folder.name}".encode()).hexdigest())
    sampled, drawn = set(ranked[: sample or None]), set(ranked[: min(sample or DRAWN, DRAWN)])
    return [Job(folder.name, folder, folder in sampled, folder in drawn) for folder in folders]


def _run(jobs: Sequence[Job], workers: int) -> Iterator[SceneResult]:
    if workers <= 1:
        yield from map(check_scene, jobs)
        return
    with worker_pool(workers) as pool:
        yield from pool.map(check_scene, jobs, chunksize=max(1, min(16, len(jobs) // (4 * workers))))
