"""Folders in buckets (``gs://``): copies on this machine of what is read, and copies there of what a run writes.

Weights and checkpoints do not pass here: Orbax reads and writes buckets itself.
"""

import hashlib
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath
from tqdm import tqdm

from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import is_remote, replacing, writing
from gen3r_jax.storage.locks import lock_beside, locked

MANIFEST = "manifest.ocdbt"
"""Says which files the arrays are in; is copied after them."""

AT_ONCE = 32
"""Questions to a bucket."""


class _Stat(NamedTuple):
    """size: bytes. mtime: seconds."""

    size: int
    mtime: int


def local_copy(path: str) -> Path:
    """`path`, or a copy of that remote folder or file on this machine; what has the size and the time of its copy is
    not copied again, and what is gone there goes here.

    Of several processes on a machine one copies, and the others wait for it.
    Raises UserError when there is nothing at `path`.
    """
    if not is_remote(path):
        return Path(path)
    source = epath.Path(path)
    if not source.exists():
        raise UserError(f"nothing at {path}")
    target = _copies() / hashlib.sha256(path.encode()).hexdigest()[:16] / source.name
    target.parent.mkdir(exist_ok=True)
    with locked(lock_beside(target), path, wait=True):
        files = _files(source)
        with ThreadPoolExecutor(AT_ONCE) as pool:  # every question to a bucket takes its time
            stats = dict(zip(files, pool.map(_stat, files), strict=True))
        there = {file.relative_to(source).as_posix(): (file, stats[file]) for file in files}
        here = {file.relative_to(target).as_posix(): file for file in _files(target)} if target.exists() else {}
        for name in here.keys() - there.keys():
            file = here.pop(name)
            file.unlink()
            for folder in file.relative_to(target).parents:  # an empty folder would pass for a scene or a set
                if not any((target / folder).iterdir()):
                    (target / folder).rmdir()
        missing = [name for name, (_, stat) in there.items() if name not in here or _stat(here[name]) != stat]
        needed, free = sum(there[name][1].size for name in missing), shutil.disk_usage(target.parent).free
        if needed > free:
            raise UserError(
                f"{path} needs {needed / 1e9:.0f} GB on this machine, {target.parent} has {free / 1e9:.0f} GB free; "
                "set XDG_CACHE_HOME to a folder on a larger disk, or mount the bucket as a folder"
            )
        for name in tqdm(missing, desc=f"copying {path}", unit="file", disable=None):
            (file, stat), copy = there[name], target / name
            with replacing(copy) as temporary:
                file.copy(temporary, overwrite=True)
                os.utime(temporary, (stat.mtime, stat.mtime))
    return target


class Workdir:
    """Where a run writes metrics, pictures and weights: `local`. A remote `place` gets copies by :meth:`publish`.

    writes: whether this process writes at all; of several, one does.
    """

    def __init__(self, place: str, writes: bool = True):
        self.place = epath.Path(place)
        self.remote = is_remote(place)
        self.local = Path(tempfile.mkdtemp(prefix="gen3r-run-")) if self.remote else Path(place)
        self._writes = writes
        self._published: dict[Path, float] = {}
        metrics = self.place / "metrics.jsonl"
        if self.remote and writes and metrics.exists():
            metrics.copy(self.local / metrics.name)

    def publish(self) -> None:
        """Copies what is new or has changed since the last time; what networks no longer consist of is removed."""
        if not (self.remote and self._writes):
            return
        here = {file: file.stat().st_mtime for file in _files(self.local)}
        for file, changed in sorted(here.items(), key=lambda item: item[0].name == MANIFEST):
            if self._published.get(file) != changed:
                copy = self._copy_of(file)
                copy.parent.mkdir(parents=True, exist_ok=True)
                epath.Path(file).copy(copy, overwrite=True)
        for network in (self.local / "weights").glob("[!.]*"):  # arrays get new names whenever they are saved
            files = _files(network)
            if all(self._published.get(file) == here[file] for file in files):
                continue
            kept = {self._copy_of(file).as_posix() for file in files}
            for copy in _files(self._copy_of(network)):
                if copy.as_posix() not in kept:
                    copy.unlink(missing_ok=True)
        self._published = here

    def _copy_of(self, file: Path) -> epath.Path:
        return self.place / file.relative_to(self.local).as_posix()

    def close(self) -> None:
        self.publish()
        if self.remote:
            shutil.rmtree(self.local, ignore_errors=True)


def _copies() -> Path:
    """Where copies lie: in the user's own cache, which nobody else can write to or read."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    folder = cache / "gen3r_jax" / "copies"
    with writing(folder, "set XDG_CACHE_HOME to a folder of yours"):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    return folder


def _stat(file: Any) -> _Stat:
    stat = epath.Path(file).stat()
    return _Stat(stat.length, stat.mtime)


def _files(folder: Any) -> list:
    """Files in a folder and its sub-folders, less hidden ones; `folder` itself if it is a file."""
    if not folder.is_dir():
        return [folder]
    visible = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    return [file for path in visible for file in _files(path)]
