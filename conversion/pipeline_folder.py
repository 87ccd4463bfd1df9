"""The whole official Gen3R folder at once: every network, the tokenizer and the scheduler's settings.

Output: a folder as ``Gen3RPipeline.from_pretrained`` takes it: one weights folder a network, ``tokenizer/`` and
``scheduler.json``.
"""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from conversion.commands import (
    SHARD_BYTES,
    convert_checkpoint,
    invert_weights,
    random_checkpoint,
    require_official_form,
)
from conversion.networks import NETWORKS
from gen3r_jax.carried import find_folder
from gen3r_jax.errors import UserError, notice
from gen3r_jax.generation.settings import read_shift
from gen3r_jax.models.registry import PRESETS
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.models.wan_dit import WanDiTConfig
from gen3r_jax.storage.checkpoint import holds_networks, holds_weights
from gen3r_jax.storage.compile_cache import user_cache
from gen3r_jax.storage.files import read_json, write_json
from gen3r_jax.storage.folders import claimed
from gen3r_jax.storage.hashes import write_hashes
from gen3r_jax.storage.hub import LICENCE, card_licence, download, is_hub_id, read_licence, source_of
from gen3r_jax.storage.locks import lock_beside, locked

# Where the tokenizer stands: in Gen3R's folder, in the Wan release.
TOKENIZERS = ("tokenizer", "google/umt5-xxl")
DEFAULT_SHIFT = 2.0
OFFICIAL = "official weights"
"""Kind of the folder, as its marker says it."""

TINY_GENERATION = {"num_frames": 5, "height": 112, "width": 112, "num_inference_steps": 4}


def convert_pipeline(source: Path, output: Path, *, dtype: Any = None, force: bool = False) -> list[str]:
    """Converts everything in `source`, one network after the other. What `output` already holds whole is kept.

    An interrupted conversion therefore goes on where it was.
    Raises UserError when something is missing. All of it is named.
    """
    missing = [
        network.folder for network in NETWORKS.values() if not any(_places(source, network.folder, network.other_files))
    ]
    tokenizer = next((source / place for place in TOKENIZERS if (source / place / "tokenizer.json").exists()), None)
    if missing or tokenizer is None:
        missing += [] if tokenizer else [f"{TOKENIZERS[0]}/tokenizer.json"]
        raise UserError(f"{source} is not a whole Gen3R folder: it lacks {', '.join(missing)}")
    shift, note = _read_shift(source)
    report = []
    with claimed(output, "weights", lambda folder: force or holds_networks(folder), advice="or add --force"):
        for name in NETWORKS:
            target = output / name
            if not force and (target / "config.json").exists():
                report.append(f"{target} is there already and is kept; --force converts it anew")
            else:
                with locked(lock_beside(target), str(target)):
                    report += convert_checkpoint(name, source, target, dtype=dtype, force=force)
        shutil.copytree(tokenizer, output / "tokenizer", dirs_exist_ok=True)
        write_json(output / "scheduler.json", {"shift": shift})
        if (source / "generation.json").exists():
            shutil.copy(source / "generation.json", output)
        write_hashes(output / "tokenizer")
        write_hashes(output)
    return [*report, f"{tokenizer} -> {output / 'tokenizer'}", f"shift {shift} ({note})"]


def invert_pipeline(
    source: Path, output: Path, *, dtype: Any = None, shard_bytes: int = SHARD_BYTES, force: bool = False
) -> list[str]:
    """Writes a folder of converted weights back as the official folder, which :func:`convert_pipeline` reads again.

    Raises UserError when something is missing. All of it is named.
    """
    source = find_folder(source) or source
    missing = [name for name in (*NETWORKS, "tokenizer", "scheduler.json") if not (source / name).exists()]
    if missing:
        raise UserError(f"{source} is no whole folder of converted weights: it lacks {', '.join(missing)}")
    for name in NETWORKS:
        require_official_form(name, source / name)
    shift = read_shift(source)
    report = []
    with claimed(output, OFFICIAL, lambda folder: force, advice="or add --force"):
        for name, network in NETWORKS.items():
            settings = {"dtype": dtype, "shard_bytes": shard_bytes, "force": force}
            report += invert_weights(name, source / name, output / network.folder, **settings)
        shutil.copytree(source / "tokenizer", output / "tokenizer", dirs_exist_ok=True)
        _write_settings(output, shift)
        if (source / "generation.json").exists():
            shutil.copy(source / "generation.json", output)
    return [*report, f"{source / 'tokenizer'} -> {output / 'tokenizer'}", f"shift {shift}"]


def locate_weights(name: os.PathLike | str, *, fetch: bool = True) -> Path:
    """The folder, converted or official, that `name` means.

    A path that exists wins; otherwise ``pretrained/nano`` is the model that this package carries, and ``owner/name`` or
    ``owner/name@revision`` a repository of the Hugging Face Hub, which is downloaded once.

    Args:
      fetch: whether anything may be downloaded.

    Raises UserError where there is no such folder, or it cannot be downloaded.
    """
    if folder := find_folder(name):
        return folder
    if is_hub_id(os.fspath(name)):
        return download(os.fspath(name), fetch=fetch)
    told = f"{os.fspath(name)} is a file" if Path(name).is_file() else f"no weights at {os.fspath(name)}"
    raise UserError(
        f"{told}: give a folder of converted or official weights, JaceyH919/Gen3R, which are "
        "the official ones and are downloaded, or pretrained/nano, the small model that is part of gen3r_jax"
    )


def find_weights(name: os.PathLike | str, *, convert: bool = True) -> Path:
    """The folder of converted weights that `name` is or leads to; names as in :func:`locate_weights`.

    An official folder, of Gen3R or of one network, is converted once, network by network: into ``PATH-gen3r_jax``
    beside it, a download into the user's cache folder. What is there is kept.

    Args:
      convert: whether anything may be downloaded or converted.

    Raises UserError if `name` is neither, is an official folder that has changed since, or needs what is not allowed.
    """
    path = locate_weights(name, fetch=convert)
    if holds_weights(path) or any(holds_weights(path / network) for network in NETWORKS):
        return path
    alone = _network_alone(path)
    if not alone and not (path / NETWORKS["wan_dit"].folder / "config.json").exists():
        raise UserError(f"{path} holds neither converted weights nor the official folder (transformer/, vggt/, ...)")
    if pinned := source_of(path):
        cache, inventory = user_cache() / "converted" / pinned.replace("/", "--"), {}
    else:
        cache, inventory = path.absolute().with_name(f"{path.absolute().name}-gen3r_jax"), _inventory(path, alone)
    source = cache / "source.json"
    if not source.exists() and not convert:
        raise UserError(
            f"{path} is not converted yet: gen3r convert {alone or 'gen3r'} --source {path} --output OUTPUT"
        )
    if not source.exists():
        with locked(lock_beside(cache), str(cache), wait=True):
            if not source.exists():  # another process may have made it
                print(f"converting {path} to {cache}, once", file=sys.stderr)
                if alone:
                    report = convert_checkpoint(alone, path, cache / alone, force=True)
                else:
                    report = convert_pipeline(path, cache)
                print("\n".join(report), file=sys.stderr)
                if licence := card_licence(path):
                    write_json(cache / LICENCE, licence)
                write_json(source, inventory)  # written last
    elif read_json(source) != inventory:
        raise UserError(f"{path} has changed since it was converted to {cache}; remove that folder, or give it instead")
    if licence := read_licence(cache):
        notice(f"licence of the weights: {licence}")
    return cache


def _network_alone(path: Path) -> str | None:
    """The network whose official ``config.json`` lies in the folder itself, as in ``facebook/VGGT-1B``."""
    fields = read_json(path / "config.json").keys() if (path / "config.json").exists() else ()
    return next((name for name, network in NETWORKS.items() if network.fields <= set(fields)), None)


def _inventory(path: Path, alone: str | None) -> dict[str, list[int]]:
    """Size and time of change of every file in an official folder that may be read, less hidden ones.

    These are in its sub-folders, those of a network `alone` in the folder itself.
    """
    pattern = "[!.]*" if alone else "[!.]*/**/[!.]*"
    files = {file.relative_to(path): file for file in sorted(path.glob(pattern)) if file.is_file()}
    return {str(name): [file.stat().st_size, int(file.stat().st_mtime)] for name, file in files.items()}


def random_pipeline(output: Path, *, tiny: bool, dtype: Any, seed: int = 0, force: bool = False) -> list[str]:
    """Writes an official folder of random numbers, at full size or tiny, to try the commands with."""
    configs = PRESETS["tiny" if tiny else "gen3r"]
    if tiny:
        configs = configs | {"wan_dit": replace(WanDiTConfig.tiny(), text_len=64)}
    report = []
    with claimed(output, OFFICIAL, lambda folder: force, advice="or add --force"):
        for name, network in NETWORKS.items():
            folder = output / network.folder
            report += random_checkpoint(name, folder, config=configs[name], dtype=dtype, seed=seed, force=force)
        Tokenizer.tiny().save(output / "tokenizer")
        if tiny:
            write_json(output / "generation.json", TINY_GENERATION)
        _write_settings(output, DEFAULT_SHIFT)
    return report


def _write_settings(output: Path, shift: float) -> None:
    """What an official folder says of its noise schedule."""
    settings = {"shift": shift, "num_train_timesteps": 1000, "use_dynamic_shifting": False}
    write_json(output / "scheduler" / "scheduler_config.json", settings)


def _places(source: Path, folder: str, other_files: tuple[str, ...]) -> list[Path]:
    return [place for place in (source / name for name in (folder, *other_files)) if place.exists()]


def _read_shift(source: Path) -> tuple[float, str]:
    path = source / "scheduler" / "scheduler_config.json"
    if not path.exists():
        return DEFAULT_SHIFT, f"the usual one: there is no {path}"
    fields = read_json(path)
    try:
        shift = float(fields["shift"])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} has no number called shift") from None
    if fields.get("use_dynamic_shifting") or fields.get("num_train_timesteps", 1000) != 1000:
        raise UserError(f"{path}: only 1000 training steps without dynamic shifting are supported")
    return shift, f"from {path}"
