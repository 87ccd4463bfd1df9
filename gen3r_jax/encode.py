"""Encodes the clips of a training of the diffusion transformer once, so that it needs none of the frozen networks.

    gen3r encode --config configs/dit.py[:PRESET] --output DIR [--config.GROUP.KEY=VALUE ...]
    gen3r train --config configs/dit.py[:PRESET] --config.weights.encoded=DIR --workdir ...

DIR gets the latents and features of the first --clips training clips in the loader's order, and of the clips of a
validation. Crops, strides and captions of a clip are thereby fixed; noise, tasks and what is left out are not.

The same command goes on where it was stopped. To share the work among machines, give each its --part: 0/4, 1/4, ...
"""

import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from gen3r_jax import command_line
from gen3r_jax.command_line import COMPILE_CACHE, CONFIG, parse_flags, read_part, shared_work_flags
from gen3r_jax.errors import UserError, main_guard

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
DTYPE = flags.DEFINE_enum("dtype", "float16", ["float16", "float32"], "Dtype of latents and features on the disk.")


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; try --help")
    if CONFIG.value is None or OUTPUT.value is None:
        raise UserError("--config and --output are needed; try --help")
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    import jax

    from gen3r_jax.progress import COMPILER
    from gen3r_jax.sharding import data_parallel_size, param_shardings
    from gen3r_jax.stages.config import read_config
    from gen3r_jax.stages.encoding import Encoding, encode
    from gen3r_jax.storage.compile_cache import use_compile_cache
    from gen3r_jax.storage.remote import is_remote
    from gen3r_jax.training.step import make_phases, training_mesh

    logging.set_verbosity(logging.WARNING)
    use_compile_cache(COMPILE_CACHE.value)
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
    how = Encoding(clips=CLIPS.value, batch=batch, per_file=PER_FILE.value, dtype=DTYPE.value)
    with jax.set_mesh(mesh):
        frozen = stage.load_frozen()
        frozen = jax.device_put(frozen, param_shardings(frozen, mesh))
        encode(encoder, options, phases[0].num_frames, frozen, Path(OUTPUT.value), how, part)
    print(COMPILER.programs(), file=sys.stderr)


if __name__ == "__main__":
    main_guard(lambda: app.run(main, flags_parser=functools.partial(parse_flags, options_in="gen3r_jax.stages.config")))
