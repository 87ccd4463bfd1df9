"""Folders that earlier versions wrote still open, and results keep their bits while code moves.

`first/` was written by `python -m tests.compatibility.record fixtures` before the modules got their present places.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from gen3r_jax.data.encoded import make_encoded_loader
from gen3r_jax.data.loader import DataOptions
from gen3r_jax.data.sources import open_source
from gen3r_jax.export.read import read_scene
from gen3r_jax.generation.settings import read_settings, read_shift
from gen3r_jax.info import describe
from gen3r_jax.models.clip_vision import CLIPVision
from gen3r_jax.options import read_options
from gen3r_jax.storage.checkpoint import load_network
from gen3r_jax.training.metrics import read_metrics
from tests.compatibility import record

HERE = Path(__file__).parent
FIRST = HERE / "first"


def test_a_scene():
    scene = read_scene(FIRST / "scene")
    assert scene.rgb.shape == (5, 112, 112, 3) and scene.prompt == record.PROMPT
    assert (scene.depth > 0).all() and np.isfinite(scene.points).all()
    assert describe(FIRST / "scene")[0] == "scene of 5 frames of 112 x 112 pixels"


def test_weights():
    _, params = load_network(FIRST / "weights" / "clip_vision", CLIPVision)
    assert params
    assert read_settings(FIRST / "weights").num_frames == 9
    assert read_shift(FIRST / "weights") > 0


def test_shards():
    source = open_source(str(FIRST / "shards"), split="train", cameras=True)
    assert len(source) == 2
    frames = source.scene(1).read([0, 4])
    assert [frame.shape for frame in frames] == [(112, 112, 3)] * 2


def test_latents():
    options = read_options(DataOptions, json.loads((FIRST / "run" / "config.json").read_text())["data"])
    loader = make_encoded_loader(
        FIRST / "latents", options, batch_size=2, num_frames=5, side=112, seed=0, split="train"
    )
    batch = next(loader)
    loader.close()
    assert batch["appearance_mean"].shape == (2, 2, 14, 14, 16) and np.isfinite(batch["text"]).all()


def test_a_run_is_described():
    assert describe(FIRST / "run")[0] == "training run of stage dit"


@pytest.mark.slow
def test_a_run_resumes(tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(FIRST / "run", workdir)
    record.train("dit", workdir, *record.LORA)
    losses = {line["step"]: line["loss"] for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line}
    before = {line["step"]: line["loss"] for line in read_metrics(FIRST / "run" / "metrics.jsonl") if "loss" in line}
    assert list(losses) == [1, 2, 3, 4, 5]
    # Step 5 was run by the version that wrote the folder, too.
    np.testing.assert_allclose(losses[5], before[5], rtol=1e-4)


@pytest.mark.slow
def test_results_keep_their_bits():
    recorded = json.loads((HERE / "hashes.json").read_text())
    if (machine := record.machine()) != recorded["machine"]:
        pytest.skip(f"bits are known for {recorded['machine']}, this is {machine}")
    assert record.hashes_apart() == recorded["hashes"]
