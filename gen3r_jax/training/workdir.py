"""A work folder belongs to one config."""

import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from gen3r_jax import module
from gen3r_jax.errors import UserError

# Keys that may change between a run and its continuation: they say where and how often, not what is trained.
# So may the clips per device in train.phases, which have to follow the machine, and what a stage adds.
FREE_KEYS = (
    "checkpoint.",
    "validation.",
    "mesh.",
    "train.profile",
    "train.compile_cache",
    "data.workers",
    "data.prefetch",
)


def claim_workdir(workdir: epath.PathLike, config: Mapping[str, Any], free_keys: tuple[str, ...] = ()) -> None:
    """Makes `workdir` and writes its config.json; a workdir that holds checkpoints of another config is refused.

    Raises UserError that lists the keys that differ (``FREE_KEYS`` and the stage's `free_keys` may), or says that
    nothing can be written.
    """
    workdir = epath.Path(workdir)
    path = workdir / "config.json"
    try:
        if path.exists() and any((workdir / "checkpoints").glob("[0-9]*")):
            old, new = (_identity(json.loads(text), free_keys) for text in (path.read_text(), json.dumps(config)))
            if old.get("stage") != new.get("stage"):
                raise UserError(
                    f"{workdir} holds a run of the stage {old.get('stage')}, this config is of the stage "
                    f"{new.get('stage')}; give another --workdir"
                )
            differing = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
            if differing:
                changes = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in differing)
                raise UserError(f"{workdir} belongs to a run of another config ({changes}); give another --workdir")
        workdir.mkdir(parents=True, exist_ok=True)
        partial = workdir / "config.json.partial"
        partial.write_text(json.dumps(config, indent=2) + "\n")
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write to {workdir}: {error.strerror}") from error


def _identity(config: Mapping[str, Any], free_keys: tuple[str, ...]) -> dict[str, Any]:
    flat = {"train.share": 1.0} | module.flatten(config)
    flat = {key: value for key, value in flat.items() if not re.fullmatch(r"train\.phases\.\d+\.2", key)}
    return {key: value for key, value in flat.items() if not key.startswith((*FREE_KEYS, *free_keys))}
