"""Hashes of files: what was damaged since it was written is never taken for weights, or for what is beside them.

``hashes.json`` holds ``{"xxh3_128": {name of a file: hash}}`` for those files of its folder that are known here. Other
files may lie beside them. Folders of earlier versions have no hashes; those of networks are read with a notice.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import xxhash
from etils import epath

from gen3r_jax.errors import UserError, notice
from gen3r_jax.storage.files import is_remote, read_json, write_json

HASHES = "hashes.json"
PARTS = ("config.json", "params", "params.safetensors")
"""What a network's folder consists of, each where it is there."""

BESIDE = ("scheduler.json", "generation.json", "tokenizer.json", "header.safetensors")
"""What folders of networks, of a tokenizer and of latents have, each where it is there."""

ALGORITHM = "xxh3_128"
CHUNK = 1 << 20
AT_ONCE = 2
"""Files: more do not make a disk faster."""


def write_hashes(folder: epath.PathLike) -> int:
    """Writes ``hashes.json`` for the files of a folder as they are now; gives their number."""
    folder = epath.Path(folder)
    names = [name for part in (*PARTS, *BESIDE) if (folder / part).exists() for name in _files(folder, part)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        hashes = dict(zip(names, pool.map(lambda name: _hash(folder / name), names), strict=True))
    write_json(folder / HASHES, {ALGORITHM: hashes})
    return len(names)


def read_hashes(folder: epath.PathLike) -> dict[str, str] | None:
    """The hashes that the files of a folder should have, by name; None where it tells none.

    Raises UserError where ``hashes.json`` is damaged or does not cover what would be read.
    """
    folder = epath.Path(folder)
    path = folder / HASHES
    if not path.exists():
        return None
    hashes = read_json(path).get(ALGORITHM)
    if not isinstance(hashes, dict) or not all(isinstance(value, str) for value in hashes.values()):
        raise UserError(f'{path} must hold {{"{ALGORITHM}": {{file: hash}}}}; gen3r verify --write {folder} makes it')
    told = {name.partition("/")[0] for name in hashes}
    for part in PARTS:
        if part not in told and (folder / part).exists():
            raise UserError(f"{path} does not tell of {folder / part}; {_advice(folder)}")
    return hashes


def require_whole(folder: epath.PathLike, name: str) -> None:
    """Raises UserError where one file of a folder is not the one that was written, if that is known."""
    hashes = read_hashes(folder) or {}
    if name in hashes:
        _compare(epath.Path(folder), name, hashes[name])


def has_hashes(folder: epath.PathLike) -> bool:
    """Whether a folder has hashes, or something beside networks that should have them."""
    return any((epath.Path(folder) / name).exists() for name in (HASHES, *BESIDE))


@contextmanager
def all_whole(folder: epath.PathLike) -> Iterator[None]:
    """Hashes the files of a network's folder while the block reads them.

    Several processes share the work where the folder lies in a bucket, and each does all of it elsewhere: their disks
    may differ.
    Raises UserError, also in place of the block's error, which damage explains, where a file is not the one that was
    written.
    """
    folder = epath.Path(folder)
    hashes = read_hashes(folder)
    if hashes is None:
        notice(f"{folder} has no {HASHES}: damage would not be seen; gen3r verify --write {folder} adds it", "hashes")
        yield
        return
    mine = sorted(hashes.items())
    if is_remote(os.fspath(folder)):
        import jax

        mine = mine[jax.process_index() :: jax.process_count()]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        checks = [pool.submit(_compare, folder, name, wanted) for name, wanted in mine]
        try:
            yield
        finally:
            for check in checks:
                check.result()


def _files(folder: epath.Path, name: str) -> list[str]:
    """Names, relative to `folder`, of the files that the entry `name` is or holds."""
    if not (folder / name).is_dir():
        return [name]
    return [file for path in sorted((folder / name).iterdir()) for file in _files(folder, f"{name}/{path.name}")]


def _compare(folder: epath.Path, name: str, wanted: str) -> None:
    path = folder / name
    try:
        found = _hash(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing; {_advice(folder)}") from None
    if found != wanted:
        raise UserError(f"{path} is damaged: it is not what was written ({HASHES}); {_advice(folder)}")


def _advice(folder: epath.Path) -> str:
    return f"make or copy the folder again, or, if the change was meant, run gen3r verify --write {folder}"


def _hash(path: epath.Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
