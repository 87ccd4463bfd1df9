"""A result that is saved: one record a sample, and refusals before anything is written."""

import json

import numpy as np
import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.generation.output import Gen3RPipelineOutput


@pytest.fixture(scope="module")
def result():
    b, t, h, w = 2, 1, 4, 4
    w2c, intrinsics = np.eye(4, dtype=np.float32)[:3], np.eye(3, dtype=np.float32)
    return Gen3RPipelineOutput(
        rgbs=np.zeros((b, t, h, w, 3), np.float32),
        depth_maps=np.ones((b, t, h, w, 1), np.float32),
        depth_confidence=np.ones((b, t, h, w), np.float32),
        point_maps=None,
        pcds=np.zeros((b, t, h, w, 3), np.float32),
        point_masks=np.ones((b, t, h, w), bool),
        cameras=(np.tile(w2c, (b, t, 1, 1)), np.tile(intrinsics, (b, t, 1, 1))),
        latents=np.zeros((b, 1, 1, 1, 16), np.float32),
        prompts=("one", "two"),
        report=RunReport({"seed": 1}, quiet=True),
    )


def test_every_sample_has_a_record_of_its_own(result, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for sample in range(2):
        folder = result.save(f"~/{sample}", sample=np.int64(sample), formats=(), fps=6)
        assert folder == tmp_path / str(sample)
        run = json.loads((folder / "run.json").read_text())
        assert run["options"] == {"seed": 1, "sample": sample} and run["results"] == {"fps": 6}
        assert [stage["stage"] for stage in run["stages"]] == ["Writing files"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"formats": ["nope"]}, "there is no format 'nope'"),
        ({"formats": ["vidoe"]}, "did you mean video"),
        ({"formats": "video"}, "formats must be a list"),
        ({"fps": 0}, "fps must be at least 0.001"),
        ({"sample": 2}, "sample 2 of 2"),
    ],
    ids=str,
)
def test_what_cannot_be_written_is_refused(result, tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        result.save(tmp_path / "out", **how)
    assert not (tmp_path / "out").exists()
