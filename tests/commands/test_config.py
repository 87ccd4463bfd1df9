"""Configs and the command line: the recipe's numbers, and one clear line for everything that is wrong."""

import copy
import dataclasses
import json
import math
import os
import subprocess
import sys
from typing import Literal

import jax
import pytest

from configs import adapter, dit
from configs.nano import adapter as nano_adapter
from configs.nano import dit as nano_dit
from configs.nano import rgb_head, vggt, wan_vae
from gen3r_jax.errors import UserError
from gen3r_jax.models.vggt import VGGTConfig
from gen3r_jax.options import read_options
from gen3r_jax.stages.config import read_config, with_defaults
from gen3r_jax.stages.dit.stage import DiTStage
from gen3r_jax.stages.options import Changes, NetworkOptions
from gen3r_jax.stages.vggt.stage import VGGTStage
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.step import make_phases
from gen3r_jax.training.workdir import claim_workdir
from tests.helpers.paths import REPOSITORY


def test_the_recipe_of_the_transformer_is_the_released_one():
    config = dit.get_config().to_dict()
    config["data"]["source"] = "scenes"
    stage, options = read_config(config)
    train, optim = options.train, options.optim
    assert train.phases == ((49, 8_000, 1),)
    assert (train.batch_size, train.side, train.seed, train.dtype) == (192, 560, 42, "bfloat16")
    assert (optim.learning_rate, optim.final_fraction, optim.warmup_steps) == (1e-5, 1e-4, 50)
    assert (optim.beta1, optim.beta2, optim.eps, optim.weight_decay) == (0.9, 0.999, 1e-8, 3e-2)
    assert (optim.clip_norm, optim.clip_start, optim.clip_decay, optim.slow) == (0.25, 2.0, 0.1, "")
    assert (stage.conditions.text_drop, stage.conditions.camera_drop) == (0.2, 0.5)
    assert (stage.noise.shift, stage.noise.density, stage.noise.weighting, stage.noise.strata) == (
        2.0,
        "none",
        "none",
        8,
    )
    assert (stage.sampling.num_inference_steps, stage.sampling.guidance_scale) == (50, 5.0)
    assert options.data.max_stride == 1 and options.data.cameras


def test_the_full_recipe_is_the_papers():
    config = adapter.get_config().to_dict()
    config["data"]["source"] = "scenes"
    stage, options = read_config(config)
    train, optim = options.train, options.optim
    assert train.phases == ((25, 15_000, 2), (49, 6_000, 1))
    assert (train.batch_size, train.side, train.seed, train.dtype) == (192, 560, 42, "bfloat16")
    assert (optim.learning_rate, optim.final_fraction, optim.warmup_steps) == (1e-5, 0.2, 0)
    assert (optim.beta1, optim.beta2, optim.eps, optim.weight_decay) == (0.9, 0.999, 1e-8, 1e-4)
    assert (optim.clip_norm, optim.clip_start, optim.ema_decay) == (0.5, 1.0, 0.0)
    losses = stage.losses
    assert (losses.reconstruction, losses.similarity, losses.alignment, losses.kl) == (0.5, 0.1, 2.0, "align")
    assert (losses.image_token, losses.camera_token, losses.camera, losses.depth, losses.point) == (1, 1, 10, 2, 1)
    assert options.data.max_stride == 2


@pytest.mark.parametrize(
    ("recipe", "presets"),
    [
        (wan_vae, ("", "overfit")),
        (vggt, ("", "overfit")),
        (nano_adapter, ("", "no_kl", "overfit")),
        (nano_dit, ("", "frames", "appearance", "overfit")),
        (rgb_head, ("", "tiny")),
    ],
)
def test_the_nano_recipes_can_be_read(recipe, presets):
    for preset in presets:
        _, options = read_config(recipe.get_config(preset).to_dict())
        assert (options.train.side, options.train.phases[0][0]) == (112, 5 if preset == "tiny" else 9)
    with pytest.raises(ValueError, match="no preset 'none'"):
        recipe.get_config("none")


def test_the_full_recipe_asks_for_data():
    with pytest.raises(UserError, match=r"no data: give --config\.data\.source=PATH"):
        read_config(adapter.get_config().to_dict())


def test_two_phases_follow_each_other():
    first, second = make_phases(((25, 15_000, 2), (49, 6_000, 1)))
    assert (first.start, first.end, second.start, second.end) == (0, 15_000, 15_000, 21_000)


@pytest.mark.parametrize("phases", [(), (5,), ((25, 10),), ((25, 0, 1),), ((25, 10, "a"),)], ids=str)
def test_phases_that_make_no_sense_are_refused(phases):
    with pytest.raises(UserError, match=r"train\.phases"):
        make_phases(phases)


def _tiny():
    return adapter.get_config("tiny").to_dict()


def test_a_key_that_is_absent_equals_its_default():
    config = _tiny()
    stage, options = read_config(config)
    del config["optim"]["beta1"], config["weights"], config["model"]["changes"]
    config["mesh"] = {"data": 2}
    same, others = read_config(config)
    assert dataclasses.replace(same, weights=stage.weights) == stage and same.weights.dir == "weights"
    assert others.mesh == dataclasses.replace(options.mesh, data=2) and others.mesh.seq == 0, "that of trainings"
    assert others.optim == options.optim


def test_unknown_keys_are_told_with_the_nearest():
    config = _tiny()
    config["optim"] |= {"learning_rat": 1, "colour": 2}
    with pytest.raises(UserError) as caught:
        read_config(config)
    message = str(caught.value)
    assert "config.optim.learning_rat (did you mean learning_rate?); unknown key config.optim.colour (" in message
    assert "allowed in config.optim: learning_rate, final_fraction" in message and "\n" not in message


CHANGES = [
    ({"wan_dit": {"dim": 192, "num_heads": 6}}, None),
    ({"wan_dit": {"dims": 192}}, r"unknown key config.model.changes.wan_dit.dims \(did you mean dim\?\)"),
    ({"wan_dit": {"dim": "wide"}}, "config.model.changes.wan_dit.dim must be a whole number, not 'wide'"),
    ({"wan_dit": {"dim": -4}}, "config.model.changes.wan_dit.dim must be at least 1, not -4"),
    ({"wan_dit": {"num_heads": 0}}, "config.model.changes.wan_dit.num_heads must be at least 1, not 0"),
    ({"vggt": {"dpt_channels": (8, 8, 8, 0)}}, "config.model.changes.vggt.dpt_channels must be at least 1"),
    (
        {"wan_dit": {"dim": 5121, "num_heads": 12}},
        "wan_dit.dim 5121 does not split .* nearest: 5112, 5136",
    ),
    ({"vggt": {"embed_dim": 30}}, "vggt.embed_dim 30 does not split into 2 heads .* nearest: 24, 32"),
    ({"wan_dot": {"dim": 192}}, r"unknown key config.model.changes.wan_dot \(did you mean wan_dit\?\)"),
]


@pytest.mark.parametrize(("changes", "refused"), CHANGES, ids=str)
def test_sizes_that_no_preset_names(changes, refused):
    config = dit.get_config("tiny").to_dict()
    config["model"]["changes"] = changes
    if refused:
        with pytest.raises(UserError, match=refused):
            read_config(config)
        return
    stage, _ = read_config(config)
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    assert shapes["blocks"]["self_attn"]["q"]["kernel"].shape[1:] == (192, 192)
    assert hash(stage) and stage.networks.configs["vggt"] == VGGTConfig.tiny()


def test_weights_that_know_their_size_are_not_changed():
    options = NetworkOptions(preset="tiny", changes=Changes(vggt={"depth": 2}))
    assert options.config("vggt").depth == 2
    with pytest.raises(UserError, match=r"changes\.vggt .*'depth': 2.* whose weights are read"):
        options.config("vggt", VGGTConfig.tiny())


@pytest.mark.parametrize("group", ["model", "losses", "weights", "data", "train"])
def test_a_key_that_nothing_reads_is_refused_in_every_group(group):
    config = _tiny()
    config[group]["colour"] = "red"
    with pytest.raises(UserError, match=f"unknown key config.{group}.colour"):
        read_config(config)


def test_a_group_that_nothing_reads_is_refused():
    with pytest.raises(UserError, match=r"unknown key config\.wandb"):
        read_config({**_tiny(), "wandb": {"project": "x"}})
    with pytest.raises(UserError, match=r"config\.stage is 'clip'; it must be one of adapter"):
        read_config({**_tiny(), "stage": "clip"})


@dataclasses.dataclass(frozen=True)
class Options:
    count: int
    rate: float
    mode: Literal["a", "b"]
    sizes: tuple = ()
    names: tuple[str, ...] = ()
    limit: float | None = None
    pairs: tuple[tuple[int, float], ...] = ()


def test_plain_types_are_checked_and_made_hashable():
    options = read_options(Options, {"count": 2, "rate": 1, "mode": "a", "sizes": [1, [2, 3]], "limit": 3})
    assert options == Options(2, 1.0, "a", (1, (2, 3)), (), 3.0)
    assert isinstance(options.rate, float)
    assert isinstance(options.limit, float)
    hash(options)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("count", 2.5, "config.count must be a whole number, not 2.5"),
        ("count", True, "config.count must be a whole number, not True"),
        ("rate", "fast", "config.rate must be a number, not 'fast'"),
        ("mode", "c", "config.mode must be one of 'a', 'b', not 'c'"),
        ("names", ("a", 1), "config.names must be a list of texts, not ('a', 1)"),
        ("limit", "none", "config.limit must be a number or null, not 'none'"),
        ("rate", 10**400, "config.rate must be a finite number, not inf"),
        ("pairs", ((1, 2.0), (1.5, 2.0)), "config.pairs must be a list of lists, not ((1, 2.0), (1.5, 2.0))"),
        ("pairs", ((1,),), "config.pairs must be a list of lists, not ((1,),)"),
        ("pairs", ((1, math.inf),), "config.pairs must be a finite number, not ((1, inf),)"),
        ("mode", "c" * 999, f"config.mode must be one of 'a', 'b', not '{'c' * 37}...{'c' * 38}'"),
    ],
)
def test_a_wrong_type_says_what_is_allowed(key, value, message):
    with pytest.raises(UserError) as caught:
        read_options(Options, {"count": 2, "rate": 1.0, "mode": "a", key: value})
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("group", "key", "value"),
    [
        ("train", "batch_size", 0),
        ("train", "share", 1.5),
        ("train", "share", 0.0),
        ("optim", "learning_rate", float("nan")),
        ("optim", "learning_rate", -1e-3),
        ("optim", "ema_decay", 1.0),
        ("optim", "clip_norm", float("inf")),
        ("validation", "every", -1),
        ("checkpoint", "keep", 0),
        ("train", "profile", (5,)),
        ("train", "profile", (5, 4)),
    ],
)
def test_values_that_make_no_sense_are_named(group, key, value):
    config = {name: _tiny()[name] for name in ("train", "optim", "mesh", "validation", "checkpoint")}
    config[group][key] = value
    with pytest.raises(UserError, match=rf"^(config\.)?{group}\.{key} must be"):
        read_options(LoopOptions, config)


# The work folder


@pytest.fixture
def workdir(tmp_path):
    """A work folder that a tiny run has left a checkpoint in."""
    claim_workdir(tmp_path, _tiny())
    (tmp_path / "checkpoints" / "50").mkdir(parents=True)
    return tmp_path


def test_a_workdir_of_the_other_stage_says_so(workdir):
    with pytest.raises(UserError, match="holds a run of the stage adapter, this config is of the stage dit"):
        claim_workdir(workdir, dit.get_config("tiny").to_dict())


def test_a_workdir_of_another_config_lists_the_differences(workdir):
    config = _tiny()
    config["optim"]["learning_rate"] = 0.5
    config["train"]["phases"] = ((9, 300, 2),)
    with pytest.raises(UserError) as caught:
        claim_workdir(workdir, config)
    message = str(caught.value)
    assert "belongs to a run of another config" in message
    assert "optim.learning_rate was 0.002, is 0.5" in message
    assert "train.phases.0.0 was 5, is 9" in message
    assert "batch_size" not in message


def test_a_workdir_from_before_a_key_existed(workdir):
    path = workdir / "config.json"
    before = json.loads(path.read_text())
    del before["train"]["share"], before["data"]["normalize"], before["model"]["changes"]
    path.write_text(json.dumps(before))
    claim_workdir(workdir, _tiny(), with_defaults=with_defaults)
    path.write_text(json.dumps(before | {"optim": before["optim"] | {"nesterov": True}}))
    changed = _tiny()
    changed["train"]["share"] = 0.5
    with pytest.raises(UserError, match=r"\(optim.nesterov was True, is not there; train.share was 1.0, is 0.5\)"):
        claim_workdir(workdir, changed, with_defaults=with_defaults)


def test_what_only_says_where_and_how_often_may_change(workdir):
    config = copy.deepcopy(_tiny())
    config["mesh"]["fsdp"] = 2
    config["validation"]["every"] = 7
    config["data"]["workers"] = 3
    config["train"]["phases"] = ((5, 300, 1),)
    claim_workdir(workdir, config)


def test_the_last_phase_may_grow(workdir, capfd):
    config = _tiny()
    ((frames, steps, clips),) = config["train"]["phases"]
    config["train"]["phases"] = ((frames, steps + 1, clips),)
    claim_workdir(workdir, config)
    assert f"the last phase grows from {steps} to {steps + 1} steps" in capfd.readouterr().err
    for phases in (((frames, steps, clips),), ((frames, steps + 1, clips), (9, 10, 1))):
        with pytest.raises(UserError, match=r"train\.phases"):
            claim_workdir(workdir, _tiny() | {"train": config["train"] | {"phases": phases}})


def test_only_the_last_of_two_phases_may_grow(tmp_path):
    train = _tiny()["train"] | {"phases": ((5, 10, 1), (9, 10, 1))}
    claim_workdir(tmp_path, _tiny() | {"train": train})
    (tmp_path / "checkpoints" / "50").mkdir(parents=True)
    with pytest.raises(UserError, match=r"\(train.phases.0.1 was 10, is 11\)"):
        claim_workdir(tmp_path, _tiny() | {"train": train | {"phases": ((5, 11, 1), (9, 10, 1))}})
    claim_workdir(tmp_path, _tiny() | {"train": train | {"phases": ((5, 10, 1), (9, 11, 1))}})


def test_samples_may_change_where_they_are_drawn_and_not_where_they_are_learnt(tmp_path):
    drawn, learnt = dit.get_config("tiny").to_dict(), vggt.get_config().to_dict()
    claim_workdir(tmp_path / "dit", drawn, free_keys=DiTStage.free_keys)
    claim_workdir(tmp_path / "vggt", learnt, free_keys=VGGTStage.free_keys)
    for name in ("dit", "vggt"):
        (tmp_path / name / "checkpoints" / "50").mkdir(parents=True)
    drawn["samples"]["num_inference_steps"] = 3
    learnt["samples"]["frames"] = 0
    claim_workdir(tmp_path / "dit", drawn, free_keys=DiTStage.free_keys)
    with pytest.raises(UserError, match=r"samples.frames was 3, is 0"):
        claim_workdir(tmp_path / "vggt", learnt, free_keys=VGGTStage.free_keys)


def test_a_workdir_without_checkpoints_is_free(tmp_path):
    claim_workdir(tmp_path, _tiny())
    claim_workdir(tmp_path, adapter.get_config().to_dict())


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot write to .*file/run/.*: Not a directory"):
        claim_workdir(tmp_path / "file" / "run", _tiny())


# The command line

MISTAKES = {
    "config key": (["--config.train.sead=1"], "unknown key config.train.sead (did you mean seed?)"),
    "group": (["--config.tarin.seed=1"], "unknown config key: tarin. Did you mean train"),
    "size": (
        ["--config.model.changes.vggt.depht=2"],
        "unknown key config.model.changes.vggt.depht (did you mean depth?)",
    ),
    "side": (["--config.train.side=500"], "side 500 is not a multiple of 112; nearest: 448, 560"),
    "weights": (["--config.model.preset=gen3r", "--config.weights.dir=nowhere"], "preset=nano --config.weights.dir="),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the command says to each mistake: (exit status, standard error). All run at the same time."""
    running = {}
    for name, (arguments, _) in MISTAKES.items():
        command = [sys.executable, "-m", "gen3r_jax.train", "--config", "configs/adapter.py:tiny"]
        command += ["--workdir", str(tmp_path_factory.mktemp("run")), *arguments]
        environment = {**os.environ, "XLA_FLAGS": ""}
        running[name] = subprocess.Popen(
            command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    return {name: (process.communicate(timeout=300)[1], process.returncode) for name, process in running.items()}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_status_2(mistake, answers):
    errors, status = answers[mistake]
    assert MISTAKES[mistake][1] in errors
    assert errors.startswith("error: ")
    assert errors.count("\n") == 1
    assert status == 2
