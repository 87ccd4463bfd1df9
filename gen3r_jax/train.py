"""Trains one stage of Gen3R.

    gen3r train --config configs/adapter.py[:PRESET] --workdir DIR [--config.GROUP.KEY=VALUE ...]

A config is a Python file with `get_config(preset)`; every value can be changed on the command line:

    --config configs/adapter.py:tiny                  a run of minutes on a CPU, on scenes that it renders itself
    --config.data.source=garden.mp4                   other frames: a video, a folder of images, a data set root, shards
    --config.mesh.data=2 --config.mesh.fsdp=-1        another layout of the devices
    --config.train.phases='((25, 100, 1),)'           (frames, steps, clips per device), one after the other

The same command goes on where a stopped or killed run left off; with --restore STEP, given once, from an earlier
checkpoint. DIR gets config.json, checkpoints/, metrics.jsonl,
tensorboard/, loss.png, validation/step_N/ (pictures) and weights/ (the trained networks).
"""

import contextlib
import functools
from collections.abc import Sequence

from absl import app, flags, logging
from etils import epath

from gen3r_jax import command_line
from gen3r_jax.command_line import COMPILE_CACHE, CONFIG, parse_flags
from gen3r_jax.errors import UserError, main_guard

flags.adopt_module_key_flags(command_line)
WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run, also gs://...; made when it is missing.")
RESTORE = flags.DEFINE_integer(
    "restore", None, "Go back to the checkpoint after this step; later ones are moved to WORKDIR/checkpoints-left-N."
)


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; try --help")
    if CONFIG.value is None or WORKDIR.value is None:
        raise UserError("--config and --workdir are needed; try --help")
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    import jax

    from gen3r_jax.stages.config import loader_of, read_config, with_defaults
    from gen3r_jax.storage.compile_cache import use_compile_cache
    from gen3r_jax.storage.folders import claimed
    from gen3r_jax.storage.train_checkpoints import go_back
    from gen3r_jax.training.distributed import initialize, peer_errors, wait_for_all
    from gen3r_jax.training.loop import train
    from gen3r_jax.training.workdir import KIND, claim_workdir, is_run

    initialize()
    logging.set_verbosity(logging.WARNING)  # Orbax tells every move at the level below
    config, workdir = with_defaults(CONFIG.value.to_dict()), WORKDIR.value
    stage, options = read_config(config)
    with contextlib.ExitStack() as held:
        with peer_errors():
            if jax.process_index() == 0:
                held.enter_context(claimed(workdir, KIND, is_run, advice="give another --workdir"))
                claim_workdir(workdir, config, free_keys=stage.free_keys, with_defaults=with_defaults)
                if RESTORE.value is not None:
                    go_back(epath.Path(workdir) / "checkpoints", RESTORE.value)
            wait_for_all("workdir")
        use_compile_cache(COMPILE_CACHE.value or options.train.compile_cache, default=f"{workdir}/compile_cache")
        train(stage, loader_of(stage, options), options, workdir, config)


if __name__ == "__main__":
    main_guard(lambda: app.run(main, flags_parser=functools.partial(parse_flags, options_in="gen3r_jax.stages.config")))
