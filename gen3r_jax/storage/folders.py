"""Folders that commands write to: a marker says that one is ours and what it holds, and one command at a time uses it.

What was there before is never written over: a folder is ours if it is empty, has the marker, or is such as versions
without markers wrote, which the callers of :func:`claimed` know.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from etils import epath

from gen3r_jax.errors import UserError, notice
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
    share: tuple[int, int] | None = None,
    among: Sequence[str] | None = None,
    advice: str = "give another output",
) -> Iterator[None]:
    """Makes a folder ours, marks it and locks it while the block runs; arguments as in :func:`require_ours`.

    Buckets have no locks: there a line says so.

    Args:
      part: which part of the folder's content is written, where several commands may share it.
      share: number and count of the parts that the work is divided into; parts of another count would do it twice.

    Raises:
      UserError: the folder is not ours, or another process writes to it.
    """
    require_ours(folder, kind, older, among=among, advice=advice)
    if is_remote(str(folder)):
        notice(f"{folder} lies in a bucket, which has no locks: let no other command write there meanwhile")
        mark(folder, kind)
        yield
        return
    with _share(Path(folder), *share) if share else locked(Path(folder, f".gen3r{part}.lock"), str(folder)):
        require_ours(folder, kind, older, among=among, advice=advice)
        mark(folder, kind)
        yield


@contextmanager
def _share(folder: Path, number: int, count: int) -> Iterator[None]:
    """Holds the lock of one of `count` parts. Raises Held where another process has it, or a part of another count."""
    own = folder / f".gen3r-{number}-of-{count}.lock"
    with ExitStack() as held:
        with locked(folder / ".gen3r-parts.lock", str(folder), wait=True):
            for other in folder.glob(".gen3r-*-of-*.lock"):
                if not other.name.endswith(f"-of-{count}.lock"):
                    with locked(other, str(folder)):
                        pass
            held.enter_context(locked(own, str(folder)))
        yield
