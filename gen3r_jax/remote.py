"""Folders in buckets (``gs://``): copies on this machine of what is read, and copies there of what a run writes.

Weights and checkpoints do not pass here: Orbax reads and writes buckets itself.
"""

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any

from etils import epath
from tqdm import tqdm

from gen3r_jax.errors import UserError
from gen3r_jax.locks import locked


def is_remote(path: str) -> bool:
    return "://" in path


def local_copy(path: str) -> Path:
    """`path`, or a copy of that remote folder or file on this machine; what was copied before is not copied again.

    Of several processes on a machine one copies, and the others wait for it.
    Raises UserError when there is nothing at `path`.
    """
    if not is_remote(path):
        return Path(path)
    source = epath.Path(path)
    if not source.exists():
        raise UserError(f"nothing at {path}")
    target = Path(tempfile.gettempdir(), "gen3r_jax", hashlib.sha256(path.encode()).hexdigest()[:16], source.name)
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.with_name(f".{target.name}.lock")):
        for file in tqdm(_files(source), desc=f"copying {path}", unit="file", disable=None):
            copy = target / file.relative_to(source) if source.is_dir() else target
            if not copy.exists() or copy.stat().st_size != file.stat().length:
                copy.parent.mkdir(parents=True, exist_ok=True)
                partial = copy.with_name(f".{copy.name}.partial")
                file.copy(partial, overwrite=True)
                partial.replace(copy)
    return target


class Workdir:
    """Where a run writes metrics, pictures and weights: `local`. A remote `place` gets copies by :meth:`publish`."""

    def __init__(self, place: str):
        self.place = epath.Path(place)
        self.remote = is_remote(place)
        self.local = Path(tempfile.mkdtemp(prefix="gen3r-run-")) if self.remote else Path(place)
        self._published: dict[Path, float] = {}
        metrics = self.place / "metrics.jsonl"
        if self.remote and metrics.exists():
            metrics.copy(self.local / metrics.name)

    def publish(self) -> None:
        """Copies what is new or has changed since the last time."""
        if not self.remote:
            return
        for file in _files(self.local):
            changed = file.stat().st_mtime
            if self._published.get(file) != changed:
                copy = self.place / file.relative_to(self.local).as_posix()
                copy.parent.mkdir(parents=True, exist_ok=True)
                epath.Path(file).copy(copy, overwrite=True)
                self._published[file] = changed

    def close(self) -> None:
        self.publish()
        if self.remote:
            shutil.rmtree(self.local, ignore_errors=True)


def _files(folder: Any) -> list:
    """Files in a folder and its sub-folders, less hidden ones; `folder` itself if it is a file."""
    if not folder.is_dir():
        return [folder]
    visible = (path for path in sorted(folder.iterdir()) if not path.name.startswith("."))
    return [file for path in visible for file in _files(path)]
