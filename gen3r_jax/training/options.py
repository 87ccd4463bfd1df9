"""The groups of a config that are the same for every stage."""

import dataclasses
from typing import Literal

from gen3r_jax.errors import UserError
from gen3r_jax.sharding import MeshOptions
from gen3r_jax.training.optim import OptimOptions


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """phases: ((num_frames, steps, clips_per_device), ...). batch_size: samples an update, over all devices.
    side: of the square frames, in pixels. dtype: of the arithmetic; weights and moments are kept in fp32.
    compile_cache: folder that keeps compiled programs between runs, empty for none.
    profile: (first, last) step of a trace written to WORKDIR/profile, () for none.
    share: of the steps of every phase, above 0 and at most 1; the schedule of the learning rate shrinks with them, so
    that a recipe can be tried in a part of its time.
    """

    seed: int
    batch_size: int
    side: int
    phases: tuple[tuple[int, int, int], ...]
    dtype: Literal["float32", "bfloat16"]
    compile_cache: str
    profile: tuple[int, ...]
    share: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise UserError(f"train.share must be above 0 and at most 1, not {self.share}")


@dataclasses.dataclass(frozen=True)
class ValidationOptions:
    """Before the first step and after every `every` steps, on `clips` clips of the `split`, "test" or "train"."""

    every: int
    clips: int
    split: Literal["test", "train"] = "test"


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """After every `every` steps and at the end; the last `keep` stay, and the multiples of `keep_every` (0: none)."""

    every: int
    keep: int
    keep_every: int


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    train: TrainOptions
    optim: OptimOptions
    mesh: MeshOptions
    validation: ValidationOptions
    checkpoint: CheckpointOptions

    def __post_init__(self) -> None:
        train, validation, checkpoint = self.train, self.validation, self.checkpoint
        positive = {
            "train.batch_size": train.batch_size,
            "validation.every": validation.every,
            "validation.clips": validation.clips,
            "checkpoint.every": checkpoint.every,
            "checkpoint.keep": checkpoint.keep,
        }
        for name, value in positive.items():
            if value < 1:
                raise UserError(f"{name} must be at least 1, not {value}")
        if train.profile and (len(train.profile) != 2 or not 0 <= train.profile[0] < train.profile[1]):
            raise UserError(f"train.profile must be (first, last) with first < last, or (), not {train.profile}")
