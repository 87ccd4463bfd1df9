"""Scenes packed into ArrayRecord files: few large files, any frame read by itself.

A shard ``<split>-00000.array_record`` is a list of records:

    scene 0: one record a frame, the bytes of its image file (JPEG, PNG, ...)
             one record, JSON: {"id", "captions": [...], "cameras": null or {"c2w", "intrinsics", "sizes"}, "depth"}
             if "depth" is true: one record a frame, the bytes of its depth's file (see ``depth.py``)
    scene 1: ...
    last:    one record, JSON: {"format": "gen3r_jax.scenes/1", "format_version": 1,
             "scenes": [[id, first record, frames], ...], "settings"}

Records are stored one by one and uncompressed, for images are compressed already. The numbers of ``cameras`` are lists
over the frames, with the meaning of :class:`gen3r_jax.geometry.cameras.Cameras`.
"""

import functools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from etils import epath

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import Cameras
from gen3r_jax.storage.files import parse_json, refuse_newer
from gen3r_jax.storage.locks import lock_beside, locked

FORMAT_VERSION = 1
FORMAT = f"gen3r_jax.scenes/{FORMAT_VERSION}"
SUFFIX = ".array_record"


@dataclass(frozen=True)
class ShardScene:
    """Where a scene is: record `first` of `file` is its first frame, record ``first + length`` describes it."""

    file: Path
    id: str
    first: int
    length: int


def list_shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*{SUFFIX}"))


def read_index(file: Path) -> list[ShardScene]:
    """The scenes of a shard. Raises UserError when the file is not a whole shard."""
    return [ShardScene(file, *scene) for scene in _read_index(file)["scenes"]]


def read_settings(file: Path) -> dict[str, Any]:
    """What the shard was made with."""
    return _read_index(file)["settings"]


def read_frame(scene: ShardScene, index: int) -> bytes:
    """The image file of one frame."""
    return read_record(scene.file, scene.first + index)


def read_depth_file(scene: ShardScene, index: int) -> bytes:
    """The depth file of one frame, of a scene that has depth."""
    return read_record(scene.file, scene.first + scene.length + 1 + index)


def read_description(scene: ShardScene) -> tuple[tuple[str, ...], Cameras | None, bool]:
    """Captions and cameras of a scene, and whether it has depth."""
    try:
        description = parse_json(read_record(scene.file, scene.first + scene.length), "it", nan=True)
        cameras = description["cameras"]
        if cameras is not None:
            cameras = Cameras(*(np.array(cameras[key]) for key in ("c2w", "intrinsics", "sizes")))
        return tuple(description["captions"]), cameras, description.get("depth", False)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{scene.file}: the description of scene {scene.id} is damaged: {error}") from None


class RecordWriter:
    """Writes one file of records, the last of which is its `index` in JSON; it appears only when it is whole.

    Use as a context manager; an exception inside leaves nothing behind. Raises UserError when the disk is full or
    cannot be written to, or when another process writes the same file.
    """

    def __init__(self, file: Path, index: dict[str, Any]):
        self.file, self.index = file, index
        self._partial = file.with_name(f".{file.name}.partial")
        self._records = 0

    def __enter__(self) -> Self:
        # The writer itself is silent about a folder that it cannot write to, and about others.
        self._lock = locked(lock_beside(self.file), str(self.file))
        self._lock.__enter__()
        self._writer = ArrayRecordWriter(str(self._partial), "group_size:1,uncompressed")
        return self

    def write(self, record: bytes) -> None:
        try:
            self._writer.write(record)
        except RuntimeError:
            raise self._failure() from None
        self._records += 1

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                self.write(json.dumps(self.index).encode())
            self._close()
            if kind is None:
                self._read_back()
                os.replace(self._partial, self.file)
        finally:
            self._partial.unlink(missing_ok=True)
            self._lock.__exit__(None, None, None)
            _reader.cache_clear()

    def _close(self) -> None:
        try:
            self._writer.close()
        except RuntimeError:
            raise self._failure() from None

    def _read_back(self) -> None:
        """A full disk goes unnoticed otherwise."""
        try:
            whole = read_json_index(self._partial, self.index["format"], "") == json.loads(json.dumps(self.index))
        except UserError:
            whole = False
        if not whole:
            raise self._failure()

    def _failure(self) -> UserError:
        return UserError(f"could not write {self.file}; is the disk full?")


class ShardWriter(RecordWriter):
    """Writes one shard of scenes."""

    def __init__(self, file: Path, settings: dict[str, Any]):
        index = {"format": FORMAT, "format_version": FORMAT_VERSION, "scenes": [], "settings": settings}
        super().__init__(file, index)

    def add(
        self,
        scene_id: str,
        frames: Iterable[bytes | None],
        captions: Iterable[str],
        cameras: Cameras | None,
        depths: Sequence[bytes] | None = None,
    ) -> int:
        """Adds a scene: its image files in order, its captions, and cameras and depth files of all frames if known.

        A frame that is None is left out together with its camera, and a scene without any other altogether.

        Returns:
          How many frames went in.
        """
        first, good = self._records, []
        for index, frame in enumerate(frames):
            if frame is not None:
                self.write(frame)
                good.append(index)
        if good:
            numbers = None
            if cameras is not None:
                kept = cameras.take(good)
                numbers = {key: getattr(kept, key).tolist() for key in ("c2w", "intrinsics", "sizes")}
            description = {"id": scene_id, "captions": list(captions), "cameras": numbers, "depth": depths is not None}
            self.write(json.dumps(description).encode())
            if depths is not None:
                for index in good:
                    self.write(depths[index])
            self.index["scenes"].append((scene_id, first, len(good)))
        return len(good)


@functools.lru_cache(maxsize=64)
def _reader(file: Path) -> ArrayRecordReader:
    return ArrayRecordReader(str(file))


def read_record(file: Path, index: int) -> bytes:
    try:
        return _reader(file).read([index])[0]
    except (RuntimeError, IndexError) as error:
        raise UserError(f"{file}: record {index} cannot be read: {' '.join(str(error).split())[:150]}") from None


def require_whole_records(file: Path | epath.Path) -> str:
    """Reads all records of a file, whose hashes stand among them; says that it is whole. Raises UserError where not."""
    file = Path(file)
    records = _reader(file).num_records()
    if not records:
        raise UserError(f"{file} is damaged: it has no records")
    for index in range(records):
        read_record(file, index)
    return f"{file}: {records} records are as they were written"


def _read_index(file: Path) -> dict[str, Any]:
    return read_json_index(file, FORMAT, "pack it again with gen3r pack")


def read_json_index(file: Path, wanted: str, advice: str) -> dict[str, Any]:
    """The last record of a file of the format `wanted`, ``NAME/VERSION``.

    Raises UserError when the format is a newer one, and with `advice` when the file is not whole.
    """
    records = _reader(file).num_records()  # 0 for a file that is missing or cut short
    try:
        index = parse_json(read_record(file, records - 1), "it") if records else {}
    except UserError:
        index = {}
    kind, version = wanted.split("/")
    if str(index.get("format")).startswith(f"{kind}/"):
        refuse_newer(index, int(version), str(file))
    if index.get("format") != wanted:
        raise UserError(f"{file} is not a whole shard of the format {wanted}; {advice}")
    return index
