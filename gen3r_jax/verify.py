"""Whether files are the ones that were written: ``gen3r verify FOLDER... [--write]``

FOLDER is a network, a folder of networks, the work folder of a training, or a folder of shards or latents. Networks and
what is beside them are hashed and compared with ``hashes.json``, training states with their checksums, and records
with those that are stored among them. The exit status is 1 where something is damaged or has no hashes.
"""

import argparse
from collections.abc import Callable, Iterator

from etils import epath

from gen3r_jax.carried import find_folder
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.storage.hashes import HASHES, all_whole, has_hashes, read_hashes, write_hashes

Check = Callable[[], str]
"""Says what is whole. Raises UserError where something is not."""


def checks_of(folder: epath.PathLike) -> list[Check]:
    """What there is to check in a folder and those in it. Raises UserError where there is nothing."""
    folder = epath.Path(find_folder(folder) or folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    below = [*_folders_in(folder), *(_folders_in(folder / "weights") if (folder / "weights").is_dir() else ())]
    if checks := [check for path in (folder, *below) for check in _checks(path)]:
        return checks
    raise UserError(f"{folder} holds no weights (config.json and params/), no checkpoints and no shards")


def hashed_in(folder: epath.PathLike) -> list[epath.Path]:
    """`folder` and those in it that have hashes, or should. Raises UserError where there are none."""
    folder = epath.Path(find_folder(folder) or folder)
    found = [path for path in (folder, *_folders_in(folder)) if _is_hashed(path)]
    if not found:
        raise UserError(f"{folder} holds no weights: a network's folder has config.json and params/")
    return found


def _folders_in(folder: epath.Path) -> list[epath.Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _is_hashed(folder: epath.Path) -> bool:
    from gen3r_jax.storage.checkpoint import holds_weights  # which takes a second, and --help needs none of it

    return holds_weights(folder) or has_hashes(folder)


def _checks(folder: epath.Path) -> Iterator[Check]:
    from gen3r_jax.data.shards import SUFFIX, require_whole_records
    from gen3r_jax.storage.train_checkpoints import require_whole_state, steps_in

    if _is_hashed(folder):
        yield lambda: _verify_hashes(folder)
    for step in steps_in(folder):
        yield lambda path=folder / str(step): require_whole_state(path)
    for file in sorted(folder.glob(f"*{SUFFIX}")):
        yield lambda file=file: require_whole_records(file)


def _verify_hashes(folder: epath.Path) -> str:
    hashes = read_hashes(folder)
    if hashes is None:
        raise UserError(f"{folder}: no {HASHES}; --write adds it")
    with all_whole(folder):
        return f"{folder}: {len(hashes)} files are as they were written"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="gen3r verify", description="Whether weights, checkpoints and shards are the ones that were written."
    )
    parser.add_argument(
        "folders", nargs="+", metavar="FOLDER", help="weights, the work folder of a training, shards or latents"
    )
    parser.add_argument(
        "--write", action="store_true", help=f"write {HASHES} for the files as they are, for folders without it"
    )
    options = parser.parse_args(arguments)
    if options.write:
        for folder in [folder for given in options.folders for folder in hashed_in(given)]:
            print(f"{folder}: wrote {HASHES} of {write_hashes(folder)} files", flush=True)
        return 0
    whole = True
    for check in [check for folder in options.folders for check in checks_of(folder)]:
        try:
            print(check(), flush=True)
        except UserError as error:
            whole = False
            print(error, flush=True)
    return 0 if whole else 1


if __name__ == "__main__":
    main_guard(main)
