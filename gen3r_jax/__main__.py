"""The ``gen3r`` command: ``gen3r COMMAND --help`` says what each takes."""

import difflib
import runpy
import sys

from gen3r_jax import __version__
from gen3r_jax.errors import UserError, main_guard, require_platform

# Command -> the module that is it, and what it does.
COMMANDS = {
    "generate": ("gen3r_jax.generate", "a 3D scene from one image, two images or a video, and a prompt"),
    "reconstruct": ("gen3r_jax.reconstruct", "cameras, depth and points of a video or of images"),
    "serve": ("gen3r_jax.serve.__main__", "make scenes in the browser, or by HTTP, and keep them"),
    "view": ("gen3r_jax.view", "look at a scene in the browser"),
    "info": ("gen3r_jax.info", "what a folder holds: a scene, weights, a training run"),
    "verify": ("gen3r_jax.verify", "whether weights are the ones that were written"),
    "convert": ("conversion", "official checkpoints to weights folders, and back"),
    "compact": ("gen3r_jax.compact", "trained weights made small enough to hand around"),
    "prepare": ("gen3r_jax.data.prepare.__main__", "a data set, as its site hands it out, to scenes that train"),
    "check": ("gen3r_jax.data.check.__main__", "whether prepared scenes are sound; a report with pictures"),
    "caption": ("gen3r_jax.data.caption", "captions from a file into prepared scenes"),
    "pack": ("gen3r_jax.data.pack", "scenes of any source into shards"),
    "train": ("gen3r_jax.train", "train by a config file"),
    "encode": ("gen3r_jax.encode", "the clips of a training, encoded once"),
    "evaluate": ("gen3r_jax.evaluate", "judge weights by the protocol of the paper"),
    "plan": ("gen3r_jax.plan", "memory and time of a training step on chips that are not here"),
    "replay": ("conversion.verify", "tensors recorded from the official implementation, computed again"),
}


def main() -> int:
    require_platform()
    if len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help"):
        width = max(map(len, COMMANDS))
        lines = (f"  {name:{width}}  {summary}" for name, (_, summary) in COMMANDS.items())
        print("usage: gen3r COMMAND [options]", "", *lines, "", "gen3r COMMAND --help says more.", sep="\n")
        return 0 if len(sys.argv) > 1 else 2
    name = sys.argv.pop(1)
    if name == "--version":
        print(f"gen3r {__version__}")
        return 0
    if name not in COMMANDS:
        hint = "".join(f"; did you mean {found}?" for found in difflib.get_close_matches(name, COMMANDS, n=1))
        raise UserError(f"no command {name!r}{hint or '; there are ' + ', '.join(COMMANDS)}")
    runpy.run_module(COMMANDS[name][0], run_name="__main__", alter_sys=True)
    return 0


def command() -> None:
    """Entry point of the installed ``gen3r``."""
    main_guard(main)


if __name__ == "__main__":
    command()
