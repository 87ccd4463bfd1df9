"""A work folder belongs to one config."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from gen3r_jax import module
from gen3r_jax.errors import UserError, notice
from gen3r_jax.storage.files import read_json, write_json
from gen3r_jax.storage.folders import mark, require_ours

# Keys that may change between a run and its continuation: they say where and how often, not what is trained.
# So may the clips per device in train.phases, which have to follow the machine, and what a stage adds. The last phase
# may get more steps.
FREE_KEYS = (
    "checkpoint.",
    "validation.",
    "mesh.",
    "train.profile",
    "train.compile_cache",
    "train.on_nan",
    "train.most_nan",
    "data.workers",
    "data.prefetch",
    "data.changed",
    "data.skip",
    "data.worker_timeout",
)
KIND = "a training run"
"""Kind of a work folder, as its marker says it."""

STEPS = re.compile(r"train\.phases\.\d+\.1")
CLIPS_PER_DEVICE = re.compile(r"train\.phases\.\d+\.2")


def claim_workdir(
    workdir: epath.PathLike,
    config: Mapping[str, Any],
    *,
    free_keys: tuple[str, ...] = (),
    with_defaults: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
) -> None:
    """Makes `workdir` and writes its config.json; a workdir that holds checkpoints of another config is refused.

    Args:
      config: with all its keys.
      free_keys: the stage's own, beside ``FREE_KEYS``.
      with_defaults: adds the keys that a config lacks because it was written before there were such.

    Raises:
      UserError: `workdir` holds something else than a run; keys differ that may not, all of which are listed; or
        nothing can be written.
    """
    workdir = epath.Path(workdir)
    require_ours(workdir, KIND, is_run, advice="give another --workdir")
    path = workdir / "config.json"
    if path.exists() and any((workdir / "checkpoints").glob("[0-9]*")):
        old, new = read_json(path), json.loads(json.dumps(config))
        if old.get("stage") != new.get("stage"):
            raise UserError(
                f"{workdir} holds a run of the stage {old.get('stage')}, this config is of the stage "
                f"{new.get('stage')}; give another --workdir"
            )
        old, new = (_identity(settings, free_keys) for settings in (with_defaults(old), new))
        growth = _take_growth(old, new)
        if changes := [_change(key, old, new) for key in sorted(old | new) if old.get(key) != new.get(key)]:
            raise UserError(
                f"{workdir} belongs to a run of another config ({'; '.join(changes)}); give another --workdir"
            )
        if growth:
            notice(f"{workdir}: {growth}; its learning rate goes on along the longer schedule")
    mark(workdir, KIND)
    write_json(path, config)


def is_run(folder: epath.Path) -> bool:
    """Whether a folder without marker is the workdir of a run."""
    return (folder / "config.json").exists() and "stage" in read_json(folder / "config.json", nan=True)


def _identity(config: Mapping[str, Any], free_keys: tuple[str, ...]) -> dict[str, Any]:
    flat = {key: value for key, value in module.flatten(dict(config)).items() if not CLIPS_PER_DEVICE.fullmatch(key)}
    return {key: value for key, value in flat.items() if not key.startswith((*FREE_KEYS, *free_keys))}


def _take_growth(old: dict[str, Any], new: Mapping[str, Any]) -> str:
    """Gives `old` the steps of the last phase in `new` where these are more, and says so; else returns ""."""
    last = max((key for key in {**old, **new} if STEPS.fullmatch(key)), key=_phase, default="")
    was, now = old.get(last), new.get(last)
    if not (isinstance(was, int) and isinstance(now, int) and now > was):
        return ""
    old[last] = now
    return f"the last phase grows from {was} to {now} steps"


def _phase(key: str) -> int:
    return int(key.split(".")[2])


def _change(key: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    was, now = (repr(config[key]) if key in config else "not there" for config in (old, new))
    return f"{key} was {was}, is {now}"
