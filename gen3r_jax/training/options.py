"""The groups of a config that are the same for every stage."""

import dataclasses
from typing import Annotated, Literal

from gen3r_jax.errors import UserError
from gen3r_jax.options import Count, Natural, NonNegative, Range
from gen3r_jax.sharding import MeshOptions
from gen3r_jax.training.optim import OptimOptions


@dataclasses.dataclass(frozen=True)
class TrainOptions:
    """How long and on what a run trains.

    Attributes:
      seed: the number that all randomness of the run follows from.
      batch_size: samples of an update, over all devices.
      side: side of the square frames in pixels.
      phases: ((num_frames, steps, clips_per_device), ...), one after the other.
      dtype: dtype of the arithmetic; weights and moments are kept in float32.
      compile_cache: folder that keeps compiled programs between runs; empty: WORKDIR/compile_cache. The flag
        --compile_cache comes before it.
      profile: (first, last) step of a trace that is written to WORKDIR/profile; () for none.
      on_nan: what follows an update whose loss or gradient is not finite: it is never made, and its samples are named.
        "stop" then ends the run; "skip" goes on with the next batch (the optimizer has made one update less).
      most_nan: number of such updates in a row that ends the run in any case.
      share: part of the steps of every phase that is made, above 0 and at most 1; the schedule of the learning rate
        shrinks with them, so that a recipe can be tried in a part of its time.
    """

    seed: Natural = 42
    batch_size: Count = 192
    side: Count = 560
    phases: tuple[tuple[int, int, int], ...] = ()
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    compile_cache: str = ""
    profile: tuple[int, ...] = ()
    on_nan: Literal["stop", "skip"] = "stop"
    most_nan: Count = 10
    share: Annotated[float, Range(above=0, at_most=1)] = 1.0

    def __post_init__(self) -> None:
        if self.profile and (len(self.profile) != 2 or not 0 <= self.profile[0] < self.profile[1]):
            raise UserError(f"train.profile must be (first, last) with first < last, or (), not {self.profile}")


@dataclasses.dataclass(frozen=True)
class ValidationOptions:
    """Validation takes place before the first step, at the end of a phase, and between.

    Attributes:
      every: steps between two validations; 0: there is none at all, and no data for it are opened.
      clips: number of clips that are judged.
      split: "test" or "train", which the clips come from.
    """

    every: Natural = 500
    clips: Count = 1
    split: Literal["test", "train"] = "test"


@dataclasses.dataclass(frozen=True)
class CheckpointOptions:
    """Checkpoints are also written at the end of a phase and at a stop, each with the weights in WORKDIR/weights.

    Attributes:
      every: steps between two checkpoints, unless `minutes` asks for one earlier.
      minutes: the longest time between two checkpoints, which is about what a lost machine costs; 0: any.
      keep: how many of the last ones stay.
      keep_every: checkpoints after multiples of so many steps stay, too; 0: none.
    """

    every: Count = 250
    minutes: NonNegative = 10.0
    keep: Count = 3
    keep_every: Natural = 0


@dataclasses.dataclass(frozen=True)
class LoopOptions:
    """mesh: here `seq` is as small as lets the batch divide."""

    train: TrainOptions = TrainOptions()
    optim: OptimOptions = OptimOptions()
    mesh: MeshOptions = MeshOptions(seq=0)
    validation: ValidationOptions = ValidationOptions()
    checkpoint: CheckpointOptions = CheckpointOptions()
