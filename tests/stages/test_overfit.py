"""The transformer learns one clip by heart, with the real commands."""

import subprocess
import sys

import numpy as np
import pytest

from gen3r_jax.training.metrics import read_metrics
from tests.helpers.paths import REPOSITORY

COMMAND = "--config=configs/dit.py:overfit"


def _run(module: str, *arguments: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "JAX_PLATFORMS": "cpu"}  # not the flags under which tests compile cheaply
    command = [sys.executable, "-m", module, COMMAND, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_clip_is_learnt_by_heart(tmp_path):
    encoded, workdir = tmp_path / "encoded", tmp_path / "run"
    _run("gen3r_jax.encode", f"--output={encoded}", "--clips=1", "--dtype=float32")
    _run(
        "gen3r_jax.train",
        f"--config.weights.encoded={encoded}",
        f"--workdir={workdir}",
        "--config.train.phases=((5, 1000, 4),)",
        "--config.validation.every=1000",
    )
    metrics = read_metrics(workdir / "metrics.jsonl")
    losses = [line["loss"] for line in metrics if "loss" in line]
    assert np.mean(losses[-100:]) < 0.1 * losses[0]  # single ones vary with the noise level
    before, after = (line for line in metrics if "validation/loss" in line)
    for name in [name for name in after if name.endswith("_cameras/psnr")]:
        assert after[name] > before[name] + 10, (name, before[name], after[name])
    assert (workdir / "validation" / "step_001000" / "1view_cameras.png").exists()
