"""A work folder belongs to one config."""

import json
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import read_json, write_json

# Keys that may change between a run and its continuation: they say where and how often, not what is trained.
# So may the clips per device in train.phases, which have to follow the machine, and how the stage dit draws samples.
FREE_KEYS = (
    "checkpoint.",
    "validation.",
    "mesh.",
    "train.profile",
    "train.compile_cache",
    "data.workers",
    "data.prefetch",
)


def claim_workdir(workdir: epath.PathLike, config: Mapping[str, Any]) -> None:
    """Makes `workdir` and writes its config.json; a workdir that holds checkpoints of another config is refused.

    Raises UserError that lists the keys that differ (``FREE_KEYS`` may), or says that nothing can be written.
    """
    workdir = epath.Path(workdir)
    path = workdir / "config.json"
    if path.exists() and any((workdir / "checkpoints").glob("[0-9]*")):
        old, new = (_identity(document) for document in (read_json(path), json.loads(json.dumps(config))))
        if old.get("stage") != new.get("stage"):
            raise UserError(
                f"{workdir} holds a run of the stage {old.get('stage')}, this config is of the stage "
                f"{new.get('stage')}; give another --workdir"
            )
        differing = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
        if differing:
            changes = "; ".join(f"{key} was {old.get(key)!r}, is {new.get(key)!r}" for key in differing)
            raise UserError(f"{workdir} belongs to a run of another config ({changes}); give another --workdir")
    write_json(path, config)


def _identity(config: Mapping[str, Any]) -> dict[str, Any]:
    flat = {"train.share": 1.0} | module.flatten(config)
    flat = {key: value for key, value in flat.items() if not re.fullmatch(r"train\.phases\.\d+\.2", key)}
    free = (*FREE_KEYS, "samples.") if flat.get("stage") == "dit" else FREE_KEYS
    return {key: value for key, value in flat.items() if not key.startswith(free)}
