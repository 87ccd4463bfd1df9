"""Whether weights are the ones that were written: ``gen3r verify FOLDER... [--write]``

Every file of a network is hashed and compared with ``hashes.json`` beside it. FOLDER is one network, or a folder of
networks. The exit status is 1 where something is damaged or has no hashes.
"""

import argparse

from etils import epath

from gen3r_jax.carried import find_folder
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.storage.hashes import HASHES, all_whole, read_hashes, write_hashes


def networks_in(folder: epath.PathLike) -> list[epath.Path]:
    """`folder` if it is a network's, and the networks' folders in it. Raises UserError where there are none."""
    from gen3r_jax.storage.checkpoint import holds_weights  # which takes a second, and --help needs none of it

    folder = epath.Path(find_folder(folder) or folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    found = [path for path in (folder, *sorted(folder.iterdir())) if holds_weights(path) or (path / HASHES).exists()]
    if not found:
        raise UserError(f"{folder} holds no weights: a network's folder has config.json and params/")
    return found


def verify(folder: epath.Path, write: bool = False) -> tuple[bool, str]:
    """Whether a network's folder is whole, and what to say of it; `write` takes its files as they are."""
    if write:
        return True, f"{folder}: wrote {HASHES} of {write_hashes(folder)} files"
    try:
        hashes = read_hashes(folder)
        if hashes is None:
            return False, f"{folder}: no {HASHES}; --write adds it"
        with all_whole(folder):
            return True, f"{folder}: {len(hashes)} files are as they were written"
    except UserError as error:
        return False, str(error)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gen3r verify", description="Whether weights are the ones that were written.")
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="a network's folder, or one of networks")
    parser.add_argument(
        "--write", action="store_true", help=f"write {HASHES} for the files as they are, for folders without it"
    )
    options = parser.parse_args(arguments)
    found = [network for folder in options.folders for network in networks_in(folder)]
    whole = True
    for network in found:
        good, line = verify(network, options.write)
        whole &= good
        print(line, flush=True)
    return 0 if whole else 1


if __name__ == "__main__":
    main_guard(main)
