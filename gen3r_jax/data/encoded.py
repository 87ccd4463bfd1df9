"""Latents and features that were encoded before, in ArrayRecord files.

    header.safetensors         the features of the texts that belong to no sample; in its metadata, what was encoded how
    <split>-00000.array_record one safetensors file a sample, whose metadata has its ``sample_id``; last, a JSON index

Features of a text are kept without the zeros behind its end. What the entries are, the training stage knows.
"""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import grain
import numpy as np
from etils import epath
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from gen3r_jax.data.clip_maker import scene_of
from gen3r_jax.data.loader import ENDLESS, DataOptions, Loader
from gen3r_jax.data.shards import SUFFIX, RecordWriter, list_shards, read_json_index, read_record
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import NewerFormat, parse_json, refuse_newer, replacing
from gen3r_jax.storage.hashes import require_whole, write_hashes

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
FORMAT = f"gen3r_jax.latents/{FORMAT_VERSION}"
HEADER = "header.safetensors"
AGAIN = "encode clips with gen3r encode"


@dataclass(frozen=True)
class Header:
    """What a folder of latents holds.

    Attributes:
      num_frames, side: of the clips.
      joint: whether there are geometry latents.
      dtype: in which latents and features are kept.
      networks: fingerprint of each network that encoded.
      clips: what the samples are of: their number by split, and all that decides which clips and captions they are.
      texts: features [n c] of texts that belong to no sample.
    """

    num_frames: int
    side: int
    joint: bool
    dtype: str
    networks: dict[str, str]
    clips: dict[str, Any]
    texts: dict[str, np.ndarray]

    def write(self, folder: Path) -> None:
        """Writes the header, or makes sure that the one that is there is the same. Raises UserError if it is not."""
        if (folder / HEADER).exists():
            there, here = (json.loads(json.dumps(header._settings())) for header in (read_header(folder), self))
            if "data" in there["clips"]:  # written before there were all of today's options
                defaults = json.loads(json.dumps(asdict(DataOptions())))
                known = {name: defaults[name] for name in here["clips"]["data"]}
                there["clips"]["data"] = known | there["clips"]["data"]
            if others := [name for name in here if here[name] != there[name]]:
                raise UserError(
                    f"{folder} holds latents that were made with other {', '.join(others)}; choose another folder"
                )
            return
        texts = {str(i): np.asarray(features) for i, features in enumerate(self.texts.values())}
        with replacing(folder / HEADER) as temporary:
            temporary.write_bytes(save(texts, metadata={"header": json.dumps(self._settings())}))
        write_hashes(folder)

    def _settings(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {"format": FORMAT, "format_version": FORMAT_VERSION, **values, "texts": list(self.texts)}


def holds_latents(folder: epath.Path) -> bool:
    return (folder / HEADER).exists()


def read_header(folder: Path) -> Header:
    """Raises UserError if the folder has none, a damaged one, or one of a newer format."""
    path = folder / HEADER
    require_whole(folder, HEADER)
    try:
        with safe_open(path, "np") as file:
            settings = parse_json(file.metadata()["header"], "its header")
            refuse_newer(settings, FORMAT_VERSION, str(path))
            settings.pop("format_version", None)
            texts = {text: file.get_tensor(str(i)) for i, text in enumerate(settings.pop("texts"))}
        if settings.pop("format") != FORMAT:
            raise ValueError("it has another format")
        return Header(**settings, texts=texts)
    except NewerFormat:
        raise
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} holds no encoded latents ({error}); {AGAIN}") from None


class SampleWriter(RecordWriter):
    """Writes one file of samples."""

    def __init__(self, folder: Path, split: str, number: int):
        index = {"format": FORMAT, "format_version": FORMAT_VERSION, "count": 0}
        super().__init__(folder / f"{split}-{number:05d}{SUFFIX}", index)

    def add(self, sample_id: str, arrays: Mapping[str, np.ndarray]) -> None:
        arrays = {name: np.asarray(array, order="C") for name, array in arrays.items()}
        text = arrays["text"]
        arrays["text"] = text[: int(np.flatnonzero(text.any(axis=1)).max(initial=0)) + 1]
        self.write(save(arrays, metadata={"sample_id": sample_id, "rows": str(len(text))}))
        self.index["count"] += 1


def make_encoded_loader(
    folder: Path,
    options: DataOptions,
    *,
    batch_size: int,
    num_frames: int,
    side: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    split: str = "train",
) -> Loader:
    """An endless iterator of batches of encoded samples, like that of :func:`gen3r_jax.data.loader.make_loader`.

    Raises UserError when the folder has no samples of the split, or others than are wanted.
    """
    header = read_header(folder)
    for name, wanted in (("num_frames", num_frames), ("side", side)):
        if getattr(header, name) != wanted:
            has = f"{folder} holds clips of {name} {getattr(header, name)}"
            raise UserError(f"{has}, the config wants {wanted}; {AGAIN}")
    counts = {file: read_json_index(file, FORMAT, AGAIN)["count"] for file in list_shards(folder, split)}
    if counts and sum(counts.values()) < header.clips[split]:
        some = f"{sum(counts.values())} of {header.clips[split]} clips of the split {split!r}"
        log.warning("%s holds %s, which will do; the command that encodes goes on with the others", folder, some)
    places = [(file, index) for file, count in counts.items() for index in range(count)]
    if not places:
        raise UserError(f"{folder} holds no samples of the split {split!r}; {AGAIN}")
    samples = grain.MapDataset.range(len(places)).seed(seed)
    samples = samples.shuffle() if split == "train" else samples
    samples = samples.repeat(ENDLESS // len(places)).map(_Read(tuple(places), frozenset(map(scene_of, options.skip))))
    batches = samples[process_index::process_count].batch(batch_size)
    return Loader(batches, [len(places)], options, options.workers if split == "train" else 0)


@dataclass(frozen=True)
class _Read(grain.transforms.Map):
    places: tuple[tuple[Path, int], ...]
    skip: frozenset[str] = frozenset()

    def map(self, index: int) -> dict[str, Any]:
        for replaced in range(len(self.places)):
            sample = read_sample(*self.places[(index + replaced) % len(self.places)])
            if scene_of(sample["sample_id"]) not in self.skip:
                return {**sample, "num_replaced": np.int32(replaced)}
        raise UserError("data.skip leaves no sample")


def read_sample(file: Path, index: int) -> dict[str, Any]:
    """One sample, latents and features in float32, with its ``sample_id``."""
    record = read_record(file, index)
    try:
        arrays = load(record)
    except SafetensorError as error:
        raise UserError(f"{file}: sample {index} is damaged ({error}); delete the file and encode again") from None
    arrays |= {name: array.astype(np.float32) for name, array in arrays.items() if array.dtype.kind == "f"}
    size = int.from_bytes(record[:8], "little")
    metadata = parse_json(record[8 : 8 + size], f"{file}: the header of sample {index}")["__metadata__"]
    missing = int(metadata["rows"]) - len(arrays["text"])
    arrays["text"] = np.pad(arrays["text"], ((0, missing), (0, 0)))
    return {**arrays, "sample_id": metadata["sample_id"], "num_replaced": np.int32(0)}
