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

from conversion.checkpoints import convert_checkpoint, random_checkpoint
from conversion.networks import NETWORKS
from gen3r_jax.carried import find_folder
from gen3r_jax.errors import UserError
from gen3r_jax.models.registry import PRESETS
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.models.wan_dit import WanDiTConfig
from gen3r_jax.storage.checkpoint import holds_weights
from gen3r_jax.storage.files import read_json, write_json

# Where the tokenizer stands: in Gen3R's folder, in the Wan release.
TOKENIZERS = ("tokenizer", "google/umt5-xxl")
DEFAULT_SHIFT = 2.0
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
    for name in NETWORKS:
        target = output / name
        if not force and (target / "config.json").exists():
            report.append(f"{target} is there already and is kept; --force converts it anew")
        else:
            report += convert_checkpoint(name, source, target, dtype=dtype, force=force)
    shutil.copytree(tokenizer, output / "tokenizer", dirs_exist_ok=True)
    write_json(output / "scheduler.json", {"shift": shift})
    if (source / "generation.json").exists():
        shutil.copy(source / "generation.json", output)
    return [*report, f"{tokenizer} -> {output / 'tokenizer'}", f"shift {shift} ({note})"]


def locate_weights(name: os.PathLike | str) -> Path:
    """The folder, converted or official, that `name` means: a path, or ``pretrained/nano``, which is carried.

    Raises UserError where there is none.
    """
    if folder := find_folder(name):
        return folder
    raise UserError(
        f"no weights at {os.fspath(name)}: give a folder of converted or official weights (README.md says where to get "
        "them), or pretrained/nano, the small model that is part of gen3r_jax"
    )


def find_weights(name: os.PathLike | str, *, convert: bool = True) -> Path:
    """The folder of converted weights that `name` is or leads to; names as in :func:`locate_weights`.

    An official folder is converted into ``PATH-gen3r_jax`` beside it, network by network; what is there is kept.
    Raises UserError if `name` is neither, or is an official folder that has changed since, or is still to be converted
    though that is not to be done here.
    """
    path = locate_weights(name)
    if holds_weights(path) or any(holds_weights(path / network) for network in NETWORKS):
        return path
    if not (path / NETWORKS["wan_dit"].folder / "config.json").exists():
        raise UserError(f"{path} holds neither converted weights nor the official folder (transformer/, vggt/, ...)")
    cache = path.absolute().with_name(f"{path.absolute().name}-gen3r_jax")
    source, inventory = cache / "source.json", _inventory(path)
    if not source.exists() and not convert:
        raise UserError(f"{path} is not converted yet: gen3r convert gen3r --source {path} --output OUTPUT")
    if not source.exists():  # written last
        print(f"converting {path} to {cache}, once", file=sys.stderr)
        print("\n".join(convert_pipeline(path, cache)), file=sys.stderr)
        write_json(source, inventory)
    elif read_json(source) != inventory:
        raise UserError(f"{path} has changed since it was converted to {cache}; remove that folder, or give it instead")
    return cache


def _inventory(path: Path) -> dict[str, list[int]]:
    """Size and time of change of every file in the sub-folders of an official folder, less hidden ones."""
    files = {file.relative_to(path): file for file in sorted(path.glob("[!.]*/**/[!.]*")) if file.is_file()}
    return {str(name): [file.stat().st_size, int(file.stat().st_mtime)] for name, file in files.items()}


def random_pipeline(output: Path, *, tiny: bool, dtype: Any, seed: int = 0, force: bool = False) -> list[str]:
    """Writes an official folder of random numbers, at full size or tiny, to try the commands with."""
    configs = PRESETS["tiny" if tiny else "gen3r"]
    if tiny:
        configs = configs | {"wan_dit": replace(WanDiTConfig.tiny(), text_len=64)}
    report = []
    for name, network in NETWORKS.items():
        folder = output / network.folder
        report += random_checkpoint(name, folder, config=configs[name], dtype=dtype, seed=seed, force=force)
    Tokenizer.tiny().save(output / "tokenizer")
    if tiny:
        write_json(output / "generation.json", TINY_GENERATION)
    settings = {"shift": DEFAULT_SHIFT, "num_train_timesteps": 1000, "use_dynamic_shifting": False}
    write_json(output / "scheduler" / "scheduler_config.json", settings)
    return report


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
