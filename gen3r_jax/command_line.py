"""Flags that several commands share: those of commands that take a config, and pieces of the others' parsers."""

import argparse
import functools
import importlib
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from gen3r_jax.carried import find_config
from gen3r_jax.errors import UserError
from gen3r_jax.options import group_docs

_COMPILE_CACHE = (
    'folder that keeps compiled programs, or "off" (default: what GEN3R_COMPILE_CACHE says, else a folder in the cache '
    "folder of the user; gen3r train: WORKDIR/compile_cache)"
)

CONFIG = config_flags.DEFINE_config_file(
    "config",
    None,
    "Config file, with a preset after a colon: a path, or the name of one that is carried, such as adapter:tiny.",
    lock_config=False,  # what reads a config refuses unknown keys
    accept_new_attributes=True,
)


COMPILE_CACHE = flags.DEFINE_string("compile_cache", None, _COMPILE_CACHE)


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


class Size(argparse.Action):
    """One number, a side, or two: height and width."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option: str | None = None) -> None:
        if len(values) > 2:
            parser.error(f"{option} takes a side, or height and width")
        setattr(namespace, self.dest, values[0] if len(values) == 1 else values)


def add_folders(parser: argparse.ArgumentParser, **folders: str) -> None:
    """Adds folders, with their help texts, that are given in this order or by flags of their names."""
    for name, text in folders.items():
        parser.add_argument(name, nargs="?", type=Path, default=argparse.SUPPRESS, help=text)
        parser.add_argument(f"--{name}", type=Path, metavar="DIR", default=argparse.SUPPRESS, help="the same, by name")


def require_folders(parser: argparse.ArgumentParser, options: argparse.Namespace, *names: str) -> None:
    """Ends the command where a folder of :func:`add_folders` was given neither way."""
    if missing := [name for name in names if name not in options]:
        parser.error(f"{missing[0]} is missing: give it in its place, or as --{missing[0]} DIR")


def add_compile_cache(parser: Any) -> None:
    """Adds --compile_cache to an argparse parser or group."""
    parser.add_argument("--compile_cache", metavar="DIR", help=_COMPILE_CACHE)


def parse_flags(arguments: Sequence[str], options_in: str = "") -> list[str]:
    """Reads the command line. Whatever is wrong with it, or with the config file, becomes a UserError of one line.

    With --help it prints what the command takes, with --config every key of the config, too, and exits with status 0.

    Args:
      options_in: the module whose ``option_classes(config)`` gives the dataclasses that describe the config's groups.
    """
    wants_help = any(argument in ("-h", "--help", "-help", "--helpfull") for argument in arguments[1:])
    arguments = [argument for argument in arguments if argument.lstrip("-") not in ("h", "help", "helpfull")]
    arguments = _find_configs(arguments)
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
    if wants_help:
        print("\n".join(_help(options_in)))
        sys.exit(0)
    return rest


def _find_configs(arguments: Sequence[str]) -> list[str]:
    """The arguments with the value of --config as a path: see :func:`gen3r_jax.carried.find_config`."""
    found = list(arguments)
    for index, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag.lstrip("-") == CONFIG.name and flag != CONFIG.name:
            if equals:
                found[index] = f"{flag}={find_config(value)}"
            elif index + 1 < len(found):
                found[index + 1] = find_config(found[index + 1])
    return found


def _help(options_in: str) -> Iterator[str]:
    yield (sys.modules["__main__"].__doc__ or "").strip()
    yield "\nFlags:"
    for flag in sorted(flags.FLAGS.get_key_flags_for_module(sys.argv[0]), key=lambda flag: flag.name):
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        yield f"  --{flag.name}: {flag.help}{default}"
    if CONFIG.value is None:
        yield "\nWith --config FILE, --help lists every key of the config."
        return
    yield "\nKeys of the config:"
    values = CONFIG.value.to_dict()
    classes = importlib.import_module(options_in).option_classes(values) if options_in else ()
    described = {group: docs for options in classes for group, docs in group_docs(options).items()}
    for group, keys in values.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            doc = described.get(group, {}).get(key, "")
            yield f"  --config.{group}.{key}={value!r}" + (f"\n      {doc}" if doc else "")
