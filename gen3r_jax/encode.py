"""Encodes the clips of a training of the diffusion transformer once, so that it needs none of the frozen networks.

    python -m gen3r_jax.encode --config configs/dit.py[:PRESET] --output DIR [--config.GROUP.KEY=VALUE ...]
    python -m gen3r_jax.train --config configs/dit.py[:PRESET] --config.weights.encoded=DIR --workdir ...

DIR gets the latents and features of the first --clips training clips in the loader's order, and of the clips of a
validation. Crops, strides and captions of a clip are thereby fixed; noise, tasks and what is left out are not.

The same command goes on where it was stopped. To share the work among machines, give each its --part: 0/4, 1/4, ...
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags, logging
from tqdm import tqdm

from gen3r_jax import command_line, module
from gen3r_jax.command_line import CONFIG, parse_flags, read_part, shared_work_flags
from gen3r_jax.data.encoded import Header, SampleWriter
from gen3r_jax.data.loader import make_loader
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.sharding import data_parallel_size, fetch, param_shardings
from gen3r_jax.stages.config import RunOptions, read_config
from gen3r_jax.storage.remote import is_remote
from gen3r_jax.training.stage import SampleEncoder
from gen3r_jax.training.step import make_phases, training_mesh

OUTPUT, PART = shared_work_flags()
flags.adopt_module_key_flags(command_line)
CLIPS = flags.DEFINE_integer("clips", 10_000, "Training clips.", lower_bound=1)
PER_FILE = flags.DEFINE_integer("clips_per_file", 64, "A multiple of --batch.", lower_bound=1)
BATCH = flags.DEFINE_integer(
    "batch",
    0,
    "Clips that are encoded at once; 0: one for every device, or group of devices that share a clip. As many are "
    "written as fill whole batches.",
    lower_bound=0,
)
DTYPE = flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "Of latents and features on the disk.")


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; try --help")
    if CONFIG.value is None or OUTPUT.value is None:
        raise UserError("--config and --output are needed; try --help")
    logging.set_verbosity(logging.WARNING)
    stage, options = read_config(CONFIG.value.to_dict())
    encoder = stage.sample_encoder()
    if is_remote(OUTPUT.value):
        raise UserError(f"--output {OUTPUT.value} must be a folder of this machine; copy what it holds afterwards")
    part = read_part(PART.value)
    phases = make_phases(options.train.phases)
    if len(phases) != 1:
        raise UserError(f"config.train.phases has {len(phases)} phases; encode for one of them at a time")
    mesh = training_mesh(options, phases)
    batch = BATCH.value or data_parallel_size(mesh)
    if PER_FILE.value % batch:
        raise UserError(f"--clips_per_file {PER_FILE.value} is not a multiple of --batch {batch}")
    with jax.set_mesh(mesh):
        frozen = stage.load_frozen()
        frozen = jax.device_put(frozen, param_shardings(frozen, mesh))
        encode(encoder, options, phases[0].num_frames, frozen, Path(OUTPUT.value), batch, part)


def encode(
    encoder: SampleEncoder,
    options: RunOptions,
    num_frames: int,
    frozen: module.Params,
    folder: Path,
    batch: int,
    part: tuple[int, int] = (0, 1),
) -> None:
    """Writes the header and every file of this part that is not there; parts may run side by side."""
    features = np.asarray(fetch(encoder.encode_texts(frozen, encoder.texts)), DTYPE.value)
    header = Header(
        num_frames=num_frames,
        side=options.train.side,
        joint=encoder.joint,
        dtype=DTYPE.value,
        clips={
            "train": CLIPS.value,
            "test": options.validation.clips,
            "batch": batch,
            "per_file": PER_FILE.value,
            "seed": options.train.seed,
            "validation_split": options.validation.split,
            "data": {
                name: value
                for name, value in dataclasses.asdict(options.data).items()
                if name not in ("workers", "prefetch")
            },
        },
        networks={name: module.fingerprint(fetch(frozen[name])) for name in encoder.frozen},
        texts=dict(zip(encoder.texts, features, strict=True)),
    )
    header.write(folder)
    loader = functools.partial(
        make_loader, options.data, num_frames=num_frames, side=options.train.side, seed=options.train.seed
    )
    _write(encoder, frozen, folder, "test", loader, options.validation.clips, batch, part)
    _write(encoder, frozen, folder, "train", loader, CLIPS.value, batch, part)


def _write(
    encoder: SampleEncoder,
    frozen: module.Params,
    folder: Path,
    split: str,
    loader: Any,
    clips: int,
    batch: int,
    part: tuple[int, int],
) -> None:
    size = min(batch, clips)
    data = loader(batch_size=size, split=split)
    per_file = PER_FILE.value // batch
    batches = -(-clips // size)
    with tqdm(total=clips, unit="clip", desc=split) as progress:
        for number, first in enumerate(range(0, batches, per_file)):
            count = min(per_file, batches - first)
            writer = SampleWriter(folder, split, number)
            if number % part[1] == part[0] and not writer.file.exists():
                data.set_state({"next_index": first})
                with writer:
                    for clip in itertools.islice(data, count):
                        for sample_id, arrays in samples(encoder, frozen, clip):
                            writer.add(sample_id, arrays)
                            progress.update()
            else:
                progress.update(count * size)
    data.close()


def samples(
    encoder: SampleEncoder, frozen: module.Params, batch: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Everything that is stored of the samples of a batch, in the dtype of the disk; cameras in float32."""
    prepared = encoder.prepare(batch)
    stored = fetch(encoder.encode_all(frozen, prepared))
    kept = ("c2w", "intrinsics", "has_cameras")
    arrays = {name: x if name in kept else np.asarray(x, DTYPE.value) for name, x in stored.items()}
    bad = [name for name, x in arrays.items() if not np.isfinite(x).all()]
    if bad:
        raise UserError(f"{', '.join(bad)} of {', '.join(batch['sample_id'])} not finite; use --dtype float32")
    for i, sample_id in enumerate(batch["sample_id"]):
        yield str(sample_id), {name: np.asarray(x[i]) for name, x in arrays.items()}


if __name__ == "__main__":
    main_guard(lambda: app.run(main, flags_parser=parse_flags))
