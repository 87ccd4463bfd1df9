"""A config of a training: which stage it is of, and the options of the stage and of the run.

The defaults of all keys are those of the option dataclasses; a config file says what differs (:func:`default_config`).
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, cast

from ml_collections import ConfigDict

from gen3r_jax.data.encoded import make_encoded_loader
from gen3r_jax.data.loader import DataOptions, make_loader
from gen3r_jax.errors import UserError
from gen3r_jax.options import merged, read_options, to_config
from gen3r_jax.stages.adapter.stage import AdapterStage
from gen3r_jax.stages.dit.stage import DiTStage
from gen3r_jax.stages.rgb_head import RGBHeadStage
from gen3r_jax.stages.vggt.stage import VGGTStage
from gen3r_jax.stages.wan_vae import WanVAEStage
from gen3r_jax.storage.remote import local_copy
from gen3r_jax.training.loop import MakeLoader
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.stage import Stage

STAGES: dict[str, type[Stage]] = {
    "adapter": AdapterStage,
    "dit": DiTStage,
    "rgb_head": RGBHeadStage,
    "vggt": VGGTStage,
    "wan_vae": WanVAEStage,
}


@dataclasses.dataclass(frozen=True)
class RunOptions(LoopOptions):
    """All groups of a config that are the same for every stage. data: `source` must be given."""

    data: DataOptions = DataOptions(source="", workers=8)


def default_config(stage: str) -> ConfigDict:
    """Every key of a config of the stage, with its default, for a config file to change."""
    config = to_config(STAGES[stage]())
    config.update(to_config(RunOptions()))
    config.stage = stage
    return config


def with_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with the defaults of its stage where it has no key. Raises UserError where there is no such stage."""
    if (name := config.get("stage")) not in STAGES:
        raise UserError(f"config.stage is {name!r}; it must be one of {', '.join(STAGES)}")
    return merged(dataclasses.asdict(cast(Any, STAGES[name]())) | dataclasses.asdict(RunOptions()), config)


def option_classes(config: Mapping[str, Any]) -> tuple[type, ...]:
    """The dataclasses that the groups of a config are read by."""
    return RunOptions, STAGES[config["stage"]]


def read_config(config: Mapping[str, Any]) -> tuple[Stage, RunOptions]:
    """Turns a config into the stage, which reads its own groups, and the options of the run, which are all the others.

    Raises UserError that lists unknown keys, names a value that does not fit, or asks for data.
    """
    groups = with_defaults(config)
    stage_class = STAGES[groups.pop("stage")]
    own = {field.name for field in dataclasses.fields(cast(Any, stage_class))}
    stage = read_options(stage_class, {group: groups[group] for group in groups if group in own})
    options = read_options(RunOptions, {group: groups[group] for group in groups if group not in own})
    if not options.data.source and not stage.encoded:
        raise UserError("no data: give --config.data.source=PATH (a video, a folder, a data set root) or =procedural")
    stage.check(options)
    return stage, options


def loader_of(stage: Stage, options: RunOptions) -> MakeLoader:
    """What makes the data: frames of the sources, or latents that were encoded before."""
    if stage.encoded:
        return functools.partial(make_encoded_loader, local_copy(stage.encoded), options.data, side=options.train.side)
    return functools.partial(make_loader, options.data, side=options.train.side)
