"""Folders that commands write to: a marker says that one is ours and what it holds, and one command at a time uses it.

What was there before is never written over: a folder is ours if it is empty, has the marker, or is such as versions
without markers wrote, which the callers of :func:`claimed` know.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from etils import epath

from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import is_remote, read_json, write_json
from gen3r_jax.storage.locks import locked

MARKER = ".gen3r.json"
VERSION = 1


def require_ours(
    folder: epath.PathLike,
    kind: str,
    older: Callable[[epath.Path], bool],
    *,
    among: Sequence[str] | None = None,
    advice: str = "give another output",
) -> None:
    """Raises UserError where a folder holds something else than what this project wrote of `kind`.

    Args:
      kind: in words, such as "a training run".
      older: whether a folder without marker is one that an earlier version wrote.
      among: names that will be written, where others may lie beside them; by default nothing else may.
    """
    folder = epath.Path(folder)
    if not folder.is_dir():
        return
    if (folder / MARKER).exists():
        marker = read_json(folder / MARKER)
        if not isinstance(version := marker.get("version"), int) or version > VERSION:
            raise UserError(f"{folder / MARKER} has version {version!r}, this gen3r-jax knows {VERSION}; update it")
        if marker.get("kind") != kind:
            raise UserError(f"{folder} holds {str(marker.get('kind'))[:60]}, not {kind}; {advice}")
        return
    if older(folder):
        return
    there = [path.name for path in folder.iterdir() if not path.name.startswith(".") and path.name != "lost+found"]
    if taken := sorted(there if among is None else set(there) & set(among)):
        others = f" and {len(taken) - 1} others" if len(taken) > 1 else ""
        raise UserError(f"{folder} holds what gen3r did not write ({taken[0][:60]}{others}); {advice}")


def mark(folder: epath.PathLike, kind: str) -> None:
    """Says in a folder, which is made where it is missing, that it is ours."""
    if not (epath.Path(folder) / MARKER).exists():
        write_json(epath.Path(folder) / MARKER, {"kind": kind, "version": VERSION})


@contextmanager
def claimed(
    folder: epath.PathLike,
    kind: str,
    older: Callable[[epath.Path], bool] = lambda folder: False,
    *,
    part: str = "",
    among: Sequence[str] | None = None,
    advice: str = "give another output",
) -> Iterator[None]:
    """Makes a folder ours, marks it and locks it while the block runs; arguments as in :func:`require_ours`.

    Folders in buckets are not locked.

    Args:
      part: which part of the folder's content is written, where several commands may share it.

    Raises:
      UserError: the folder is not ours, or another process writes to it.
    """
    require_ours(folder, kind, older, among=among, advice=advice)
    if is_remote(str(folder)):
        mark(folder, kind)
        yield
        return
    folder = epath.Path(folder)
    with locked(folder / f".gen3r{part}.lock", str(folder)):
        require_ours(folder, kind, older, among=among, advice=advice)
        mark(folder, kind)
        yield
