"""The config of an evaluation, whose defaults are the paper's protocol (section 4.2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from gen3r_jax.data.procedural import Difficulty
from gen3r_jax.evaluation.protocol import MetricOptions
from gen3r_jax.evaluation.rows import RowOptions, SweepOptions
from gen3r_jax.generation.settings import GenerationSettings, SamplingOptions
from gen3r_jax.models.sizes import require_clip_length, require_side
from gen3r_jax.options import Count, Natural, Range, read_options, to_config


@dataclass(frozen=True)
class DataOptions:
    """The config group ``data``.

    split: "eval" (the lists of ``gen3r prepare``) or "test"; where there is none, what comes next of eval, test and
    train is taken, with a notice.
    num_frames, side: length and size of the clips. num_scenes: at most; by default as many as the longest list of a
    set has. cameras: whether they are read; then each scene must have them. normalize: whether the unit of lengths is
    VGGT's (the mean distance of the points) instead of the data's own (where there is depth), as it was when the
    weights were trained. difficulty: of procedural scenes. first_scene: number of the first of these, so that settings
    can be chosen on other scenes than those of a report.
    """

    split: Literal["eval", "test"] = "eval"
    num_frames: Annotated[int, Range(at_least=5)] = 49
    side: int = 560
    num_scenes: Count = 300
    cameras: bool = True
    normalize: bool = False
    difficulty: Difficulty = "easy"
    first_scene: Natural = 0

    def __post_init__(self) -> None:
        require_side(self.side)
        require_clip_length(self.num_frames)


@dataclass(frozen=True)
class OutputOptions:
    """pictures: number of scenes on the contact sheet. dtype: dtype of the weights; "": as fits the device."""

    pictures: Natural = 12
    dtype: Literal["", "bfloat16", "float16", "float32"] = ""


@dataclass(frozen=True)
class EvaluationOptions:
    data: DataOptions = DataOptions()
    rows: RowOptions = RowOptions()
    sampling: GenerationSettings = GenerationSettings()
    sweep: SweepOptions = SweepOptions()
    metrics: MetricOptions = MetricOptions()
    output: OutputOptions = OutputOptions()


def default_config() -> ConfigDict:
    """Every key of a config of an evaluation, with its default; None is as the weights' folder says."""
    config = to_config(EvaluationOptions())
    data: Any = config.data
    data.update(num_frames=placeholder(int), side=placeholder(int))
    config.sampling = to_config(SamplingOptions())
    return config


def read_evaluation(config: Mapping[str, Any], settings: GenerationSettings) -> EvaluationOptions:
    """The options of a config. Sizes and sampling that it does not say, or says to be None, are as in `settings`.

    Raises UserError for unknown keys and values that do not fit.
    """
    groups = {name: dict(group) for name, group in config.items()}
    for name in ("data", "sampling"):
        groups[name] = {key: value for key, value in groups.get(name, {}).items() if value is not None}
    groups["data"] = {"num_frames": settings.num_frames, "side": settings.height} | groups["data"]
    return read_options(EvaluationOptions, groups, base=EvaluationOptions(sampling=settings))


def option_classes(config: Mapping[str, Any]) -> tuple[type, ...]:
    """The dataclasses that the groups of a config are read by."""
    return (EvaluationOptions,)
