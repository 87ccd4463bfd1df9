"""The ``gen3r`` command: ``gen3r COMMAND --help`` says what each takes."""

import runpy
import sys

from gen3r_jax.errors import UserError, main_guard

# Command -> the module that is it, and what it does.
COMMANDS = {
    "generate": ("gen3r_jax.generate", "a 3D scene from one image, two images or a video, and a prompt"),
    "reconstruct": ("gen3r_jax.reconstruct", "cameras, depth and points of a video or of images"),
    "view": ("gen3r_jax.view", "look at a scene in the browser"),
    "info": ("gen3r_jax.info", "what a folder holds: a scene, weights, a training run"),
    "verify": ("gen3r_jax.verify", "whether weights are the ones that were written"),
    "prepare": ("gen3r_jax.data.prepare.__main__", "a data set, as its site hands it out, to scenes that train"),
    "check": ("gen3r_jax.data.check.__main__", "whether prepared scenes are sound; a report with pictures"),
    "caption": ("gen3r_jax.data.caption", "captions from a file into prepared scenes"),
    "pack": ("gen3r_jax.data.pack", "scenes of any source into shards"),
    "train": ("gen3r_jax.train", "train by a config file"),
    "evaluate": ("gen3r_jax.evaluate", "judge weights by the protocol of the paper"),
    "convert": ("conversion", "official checkpoints to weights folders, and back"),
}


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = (f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
        print("usage: gen3r COMMAND [options]", "", *lines, "", "gen3r COMMAND --help says more.", sep="\n")
        return 0 if len(sys.argv) > 1 else 2
    name = sys.argv.pop(1)
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}; there are {', '.join(COMMANDS)}")
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return 0


def command() -> None:
    """Entry point of the installed ``gen3r``."""
    main_guard(main)


if __name__ == "__main__":
    command()
