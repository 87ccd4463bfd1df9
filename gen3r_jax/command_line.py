"""What the commands that take a config have in common."""

import functools
import re
from collections.abc import Sequence

from absl import flags
from ml_collections import config_flags

from gen3r_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with a preset after a colon.",
    lock_config=False,  # what reads a config refuses unknown keys
    accept_new_attributes=True,
)


@functools.cache
def shared_work_flags() -> tuple[flags.FlagHolder[str | None], flags.FlagHolder[str]]:
    """Defines --output and --part for commands whose work several machines may share; returns both."""
    return (
        flags.DEFINE_string("output", None, "Folder for the results; it is made when it is missing."),
        flags.DEFINE_string("part", "0/1", "This machine's part of the work: number/of how many."),
    )


def read_part(text: str) -> tuple[int, int]:
    """``"1/4"`` -> (1, 4): the second of four machines that share the work."""
    number, _, count = text.partition("/")
    if not (number.isdigit() and count.isdigit() and int(number) < int(count)):
        raise UserError(f"--part {text!r} must be number/of how many, such as 0/4 to 3/4")
    return int(number), int(count)


def parse_flags(arguments: Sequence[str]) -> list[str]:
    """Reads the command line. Whatever is wrong with it, or with the config file, becomes a UserError of one line."""
    try:
        rest = flags.FLAGS(arguments)
        if CONFIG.value is not None:
            CONFIG.value.to_dict()  # a config file that cannot be read says so only now
    except (KeyError, AttributeError) as error:
        text = str(error.args[0]).replace("\\n", ". ").replace("\n", ". ")
        raise UserError("unknown config key: " + re.sub(r"[\\'\"]", "", text)) from error
    except Exception as error:  # absl, ml_collections and the config file each raise their own kinds
        last_line = str(error).strip().splitlines()[-1].strip()
        raise UserError(re.sub(r"^\w*Error: ", "", last_line)) from error
    return rest
