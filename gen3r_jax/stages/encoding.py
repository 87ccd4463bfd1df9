"""The work of ``gen3r encode``: latents and features of a training's clips, written once."""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax import module
from gen3r_jax.data.encoded import Header, SampleWriter, holds_latents
from gen3r_jax.data.loader import make_loader
from gen3r_jax.errors import UserError
from gen3r_jax.progress import Progress
from gen3r_jax.sharding import fetch
from gen3r_jax.stages.config import RunOptions
from gen3r_jax.storage.folders import claimed
from gen3r_jax.training.stage import SampleEncoder


@dataclasses.dataclass(frozen=True)
class Encoding:
    """How clips are encoded.

    Attributes:
      clips: training clips.
      batch: clips that are encoded at once.
      per_file: clips in a file, a multiple of `batch`.
      dtype: dtype of latents and features on the disk.
    """

    clips: int = 10_000
    batch: int = 1
    per_file: int = 64
    dtype: str = "float16"


def encode(
    encoder: SampleEncoder,
    options: RunOptions,
    num_frames: int,
    frozen: module.Params,
    folder: Path,
    how: Encoding,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Writes the header and every file of this part that is not there; parts may run side by side."""
    features = np.asarray(fetch(encoder.encode_texts(frozen, encoder.texts)), how.dtype)
    header = Header(
        num_frames=num_frames,
        side=options.train.side,
        joint=encoder.joint,
        dtype=how.dtype,
        clips={
            "train": how.clips,
            "test": options.validation.clips,
            "batch": how.batch,
            "per_file": how.per_file,
            "seed": options.train.seed,
            "validation_split": options.validation.split,
            "data": {
                name: value
                for name, value in dataclasses.asdict(options.data).items()
                if name not in ("workers", "prefetch", "worker_timeout", "changed") and (name != "skip" or value)
            },
        },
        networks={name: module.fingerprint(fetch(frozen[name])) for name in encoder.frozen},
        texts=dict(zip(encoder.texts, features, strict=True)),
    )
    loader = functools.partial(
        make_loader, options.data, num_frames=num_frames, side=options.train.side, seed=options.train.seed
    )
    with claimed(folder, "latents", holds_latents, share=part):
        header.write(folder)
        _write(encoder, frozen, folder, "test", loader, options.validation.clips, how, part)
        _write(encoder, frozen, folder, "train", loader, how.clips, how, part)


def _write(
    encoder: SampleEncoder,
    frozen: module.Params,
    folder: Path,
    split: str,
    loader: Any,
    clips: int,
    how: Encoding,
    part: tuple[int, int],
) -> None:
    size = min(how.batch, clips)
    data = loader(batch_size=size, split=split)
    per_file = how.per_file // how.batch
    batches = range(-(-clips // size))
    todo: list[tuple[SampleWriter, range]] = []
    for number, first in enumerate(batches[::per_file]):
        writer = SampleWriter(folder, split, number)
        if number % part[1] == part[0] and not writer.file.exists():
            todo.append((writer, batches[first : first + per_file]))
    with Progress(f"encoding {split} clips", size * sum(len(some) for _, some in todo), "clip") as progress:
        for writer, some in todo:
            data.set_state({"next_index": some.start})
            with writer:
                for clip in itertools.islice(data, len(some)):
                    for sample_id, arrays in samples(encoder, frozen, clip, how.dtype):
                        writer.add(sample_id, arrays)
                        progress.advance()
    data.close()


def samples(
    encoder: SampleEncoder, frozen: module.Params, batch: Mapping[str, Any], dtype: str
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Everything that is stored of the samples of a batch, in the dtype of the disk; cameras in float32."""
    prepared = encoder.prepare(batch)
    stored = fetch(encoder.encode_all(frozen, prepared))
    kept = ("c2w", "intrinsics", "has_cameras")
    arrays = {name: x if name in kept else np.asarray(x, dtype) for name, x in stored.items()}
    bad = [name for name, x in arrays.items() if not np.isfinite(x).all()]
    if bad:
        raise UserError(f"{', '.join(bad)} of {', '.join(batch['sample_id'])} not finite; use --dtype float32")
    for i, sample_id in enumerate(batch["sample_id"]):
        yield str(sample_id), {name: np.asarray(x[i]) for name, x in arrays.items()}
