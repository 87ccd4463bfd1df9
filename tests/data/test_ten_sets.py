"""All ten sets on one way: raw files -> prepare -> check -> pack -> mixture -> a training step of both stages."""

import importlib
import itertools
import subprocess
import sys

import numpy as np
import pytest

from gen3r_jax.data.loader import make_loader
from gen3r_jax.data.pack import pack
from gen3r_jax.data.prepare import scenes
from gen3r_jax.data.prepare.registry import NAMES
from gen3r_jax.data.sources import open_source
from tests.helpers.raw_sets.prepared import run

FIXTURES = {"re10k": "realestate10k"}
SETS = tuple((name, 1.0, 1, 0) for name in NAMES)


def write_raw(name, folder):
    module = importlib.import_module(f"tests.helpers.raw_sets.{FIXTURES.get(name, name)}")
    module.write(folder)
    return folder


@pytest.fixture(scope="module")
def roots(tmp_path_factory):
    """(prepared root, shards of the same) with a training scene of every set."""
    folder = tmp_path_factory.mktemp("ten")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scenes, "TEST_ONE_IN", 1 << 200)
        for name in NAMES:
            outcome = run(name, write_raw(name, folder / "raw" / name), folder / "root")
            assert any(scene["split"] == "train" for scene in outcome.scenes), (name, outcome)
    settings = {"split": "train", "scenes_per_shard": 2, "num_frames": 0, "format": "jpg"}
    for name in NAMES:
        pack(open_source(folder / "root" / name, cameras=True), folder / "shards" / name, settings, quiet=True)
    return folder / "root", folder / "shards"


@pytest.mark.parametrize("kind", ["folders", "shards"])
def test_every_set_is_in_the_mixture(roots, kind):
    source = roots[kind == "shards"]
    options = {"source": str(source), "sets": SETS, "cameras": True, "max_stride": 1}
    loader = make_loader(options, batch_size=10, num_frames=5, side=112, seed=0)
    batches = list(itertools.islice(loader, 2))
    loader.close()
    names = {str(sample).partition("/")[0] for batch in batches for sample in batch["sample_id"]}
    assert names == set(NAMES)
    for batch in batches:
        assert batch["num_replaced"].sum() == 0 and batch["has_cameras"].all()
        np.testing.assert_allclose(batch["c2w"][:, 0], [np.eye(4)] * 10, atol=1e-6)
        steps = np.linalg.norm(np.diff(batch["c2w"][..., :3, 3], axis=1), axis=-1).max(axis=1)
        np.testing.assert_allclose(steps, 0.5, atol=1e-4, err_msg="every fixture's camera moves half a unit a frame")


def test_the_root_passes_the_check(roots):
    command = [sys.executable, "-m", "gen3r_jax", "check", str(roots[0]), "--workers", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (roots[0] / "check.html").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["adapter", "dit"])
def test_one_training_step(roots, tmp_path, stage):
    command = [sys.executable, "-m", "gen3r_jax.train", "--config", f"configs/{stage}.py:tiny", "--workdir", tmp_path]
    command += [f"--config.data.source={roots[1]}", "--config.data.max_stride=1"]
    command += [f"--config.data.sets={SETS}"] * (stage == "dit")  # the adapter takes all scenes alike
    command += ["--config.data.cameras=True", "--config.train.phases=((5, 1, 1),)", "--config.train.batch_size=4"]
    command += ["--config.optim.warmup_steps=0", "--config.validation.every=1000"]
    command += ["--config.samples.num_inference_steps=0"] * (stage == "dit")
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"loss"' in (tmp_path / "metrics.jsonl").read_text()
