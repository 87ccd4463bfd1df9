"""What is written says of which format it is; what a newer version wrote is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest

from gen3r_jax.data import encoded, shards
from gen3r_jax.data.encoded import Header, SampleWriter, read_header
from gen3r_jax.data.shards import ShardWriter, read_index, read_json_index, read_record
from gen3r_jax.errors import UserError
from gen3r_jax.export.read import read_scene
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.generation.request import read_jobs
from gen3r_jax.info import describe
from gen3r_jax.models.clip_vision import CLIPVision, CLIPVisionConfig
from gen3r_jax.storage.checkpoint import read_config, save_compact, save_weights
from gen3r_jax.storage.files import refuse_newer, write_json
from gen3r_jax.storage.hashes import write_hashes
from tests.helpers.paths import REPOSITORY

NEWER = "has format_version {}, this gen3r-jax knows {} and older; update gen3r-jax"


def _told(path):
    return json.loads(path.read_text())["format_version"]


@pytest.mark.parametrize("version", [None, 1, 2])
def test_what_is_known_passes(version):
    refuse_newer({} if version is None else {"format_version": version}, 2, "it")


@pytest.mark.parametrize("version", ["1", 0, 1.5, True, None])
def test_what_is_no_version_is_damage(version):
    with pytest.raises(UserError, match=f"it is damaged: its format_version is {version!r}"):
        refuse_newer({"format_version": version}, 1, "it")


@pytest.mark.parametrize("save", [save_weights, save_compact])
def test_weights(tmp_path, save):
    folder = tmp_path / "clip_vision"
    save(folder, CLIPVision, CLIPVisionConfig.tiny(), {"kernel": np.zeros(2, np.float32)})
    assert _told(folder / "config.json") == 1
    write_json(folder / "config.json", {"format_version": 2, "networks": []})
    write_hashes(folder)
    for read in (lambda: read_config(folder, CLIPVision), lambda: describe(folder), lambda: describe(tmp_path)):
        with pytest.raises(UserError, match=f"clip_vision/config.json {NEWER.format(2, 1)}"):
            read()


def test_the_carried_weights_say_theirs():
    configs = [*(REPOSITORY / "pretrained" / "nano").glob("*/config.json")]
    assert len(configs) == 6 and {_told(config) for config in configs} == {1}


def test_a_scene(tmp_path):
    RunReport({}).write(tmp_path / "run.json")
    assert _told(tmp_path / "run.json") == 1
    for name in ("rgb.mp4", "depth.npz", "confidence.npz"):
        (tmp_path / name).touch()
    first = REPOSITORY / "tests" / "compatibility" / "first" / "scene"
    (tmp_path / "cameras.json").write_bytes((first / "cameras.json").read_bytes())
    write_json(tmp_path / "run.json", {"format_version": 2})
    for read in (read_scene, describe):
        with pytest.raises(UserError, match=f"run.json {NEWER.format(2, 1)}"):
            read(tmp_path)


def test_jobs(tmp_path):
    (tmp_path / "jobs.jsonl").write_text('{"format_version": 2, "name": "one"}\n')
    ((_, error),) = read_jobs(tmp_path / "jobs.jsonl", {})
    assert str(error) == f"the job {NEWER.format(2, 1)}"


def test_shards_of_scenes(tmp_path, monkeypatch):
    def write(file: Path):
        with ShardWriter(file, {}) as writer:
            writer.add("scene", [b"frame"], [], None)
        return json.loads(read_record(file, 2))["format_version"]

    assert write(tmp_path / "train-00000.array_record") == 1
    monkeypatch.setattr(shards, "FORMAT_VERSION", 2)
    monkeypatch.setattr(shards, "FORMAT", "gen3r_jax.scenes/2")
    newer = tmp_path / "train-00001.array_record"
    assert write(newer) == 2
    assert read_index(tmp_path / newer) and read_json_index(newer, "gen3r_jax.scenes/2", "")
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"train-00001.array_record {NEWER.format(2, 1)}"):
        read_index(newer)
    with pytest.raises(UserError, match=r"is not a whole shard of the format gen3r_jax\.latents/1; encode"):
        read_json_index(newer, "gen3r_jax.latents/1", "encode")


def test_shards_of_latents(tmp_path, monkeypatch):
    def write(folder: Path):
        Header(5, 112, True, "float32", {}, {"train": 1}, {}).write(folder)
        with SampleWriter(folder, "train", 0) as writer:
            writer.add("clip", {"text": np.ones((2, 3), np.float32)})
        return json.loads(read_record(folder / "train-00000.array_record", 1))["format_version"]

    assert write(tmp_path / "known") == 2 and read_header(tmp_path / "known").side == 112
    monkeypatch.setattr(encoded, "FORMAT_VERSION", 3)
    monkeypatch.setattr(encoded, "FORMAT", "gen3r_jax.latents/3")
    assert write(tmp_path / "newer") == 3
    monkeypatch.undo()
    with pytest.raises(UserError, match=f"newer/header.safetensors {NEWER.format(3, 2)}"):
        read_header(tmp_path / "newer")
