"""The evaluation command: rows, reasons, what is skipped, going on, reports."""

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
from toy_scenes import write_root

from gen3r_jax import programs
from gen3r_jax.data.procedural import render_clip
from gen3r_jax.errors import UserError
from gen3r_jax.evaluation import rows
from gen3r_jax.evaluation.protocol import GEOMETRY, MetricOptions, Prediction, Truth, score
from gen3r_jax.evaluation.report import write_report
from gen3r_jax.geometry.cameras import invert_se3, rebase_to_first

OPTIONS = MetricOptions(lpips="", scale="variance", voxel_size=0.02, num_points=500)


@pytest.fixture(scope="module")
def truth():
    clip = render_clip(3, 5, (56, 56))
    return Truth(clip.frames, clip.intrinsics, rebase_to_first(clip.c2w), clip.depth)


def perfect(truth, scale=1.0):
    w2c = invert_se3(truth.c2w)
    w2c[:, :3, 3] *= scale
    intrinsics = truth.intrinsics.copy()
    intrinsics[:, :2, 2] -= 0.5
    frames = truth.frames.astype(np.float32) / 255
    return Prediction(frames, (0,), range(5), scale * truth.depth, w2c, intrinsics)


def test_the_truth_itself_scores_best_in_any_unit(truth):
    values, reasons = score(perfect(truth, scale=0.3), truth, OPTIONS)
    assert values["psnr"] == values["psnr_new"] == 100
    assert values["ssim"] == pytest.approx(1)
    assert values["chamfer"] < 0.01 and values["abs_rel"] < 1e-3 and values["delta_1_25"] == 1
    assert values["auc_30"] > 0.99 and values["rra_15"] == values["rta_15"] == 1
    assert values["lpips"] is None and reasons == {"lpips": "no LPIPS weights were given"}


def test_what_the_data_cannot_tell_is_not_available(truth):
    bare = Truth(truth.frames, truth.intrinsics, None, None)
    values, reasons = score(perfect(truth), bare, OPTIONS)
    assert {name for name, value in values.items() if value is not None} == {"psnr", "psnr_new", "ssim"}
    assert reasons["chamfer"] == reasons["abs_rel"] == "the data have no depth"
    assert reasons["auc_30"] == "the data have no cameras"
    no_cameras = Truth(truth.frames, truth.intrinsics, None, truth.depth)
    values, reasons = score(perfect(truth), no_cameras, OPTIONS)
    assert values["abs_rel"] is not None and reasons["chamfer"] == "the data have no cameras"


def test_depth_that_is_unknown_everywhere(truth):
    empty = Truth(truth.frames, truth.intrinsics, truth.c2w, np.zeros_like(truth.depth))
    assert score(perfect(truth), empty, OPTIONS).reasons["abs_rel"] == "the depth of the scene is unknown everywhere"


def test_repeating_a_frame_is_judged_where_it_is_new(truth):
    frames = np.repeat(truth.frames[:1], 5, axis=0).astype(np.float32) / 255
    values, _ = score(Prediction(frames, (0,)), truth, OPTIONS)
    assert values["psnr_new"] < 30 < values["psnr"], "the first frame alone would be perfect"
    assert set(values) == {"psnr", "psnr_new", "ssim", "lpips"}, "no more is claimed"


class NoPipeline:
    """Has no networks: what would run them is replaced."""

    def network(self, name):
        return name


def test_points_through_a_vae_that_changes_nothing_are_those_of_vggt(truth, monkeypatch):
    """And one that loses detail makes them worse: the row measures the VAE."""
    vggt, seen = perfect(truth, scale=3.0), []

    def encode(wan_vae, colours):
        assert wan_vae == "wan_vae"
        seen.append(colours)
        return colours

    monkeypatch.setattr(rows, "_appearance", encode)
    monkeypatch.setattr(programs, "decode_video", lambda wan_vae, latents: latents)
    prediction = rows._points_through_vae(NoPipeline(), vggt)
    assert prediction.frames is prediction.depth is prediction.w2c is None
    values, reasons = score(prediction, truth, OPTIONS)
    expected, _ = score(vggt, truth, OPTIONS)
    assert set(values) == set(GEOMETRY) and not reasons
    for name in GEOMETRY:
        assert values[name] == pytest.approx(expected[name], rel=1e-2, abs=1e-5)
    spans = [np.ptp(seen[0][..., axis]) for axis in range(3)]
    assert seen[0].shape == (1, 5, 56, 56, 3) and max(spans) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(seen[0].min((0, 1, 2, 3)) + seen[0].max((0, 1, 2, 3)), 1, atol=1e-5)

    monkeypatch.setattr(programs, "decode_video", lambda wan_vae, latents: np.round(16 * latents) / 16)
    coarse, _ = score(rows._points_through_vae(NoPipeline(), vggt), truth, OPTIONS)
    assert coarse["chamfer"] > 2 * expected["chamfer"]
    bare = Truth(truth.frames, truth.intrinsics, truth.c2w, None)
    assert set(score(prediction, bare, OPTIONS).reasons) == set(GEOMETRY)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Tiny random networks, as the command takes them."""
    from conversion.pipeline_folder import convert_pipeline, random_pipeline

    folder = tmp_path_factory.mktemp("weights")
    random_pipeline(folder / "official", tiny=True, dtype=np.float32)
    convert_pipeline(folder / "official", folder / "weights")
    return folder / "weights"


def run(*arguments):
    command = [sys.executable, "-m", "gen3r_jax.evaluate", "--config", "configs/eval.py:nano", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


SMALL = ["--config.data.num_frames=5", "--config.sampling.steps=2", "--config.rows.tasks=('1view',)"]


@pytest.mark.slow
def test_the_command(weights, tmp_path):
    """Two scenes in two parts, of which a third is too short; then the report of all."""
    root = write_root(tmp_path / "root", {"re10k": 2}, frames=6, split="test")
    write_root(tmp_path / "short", {"re10k": 1}, frames=3, split="test")
    for name in ("videos_dirs", "cameras_paths", "captions_paths"):
        part = {"videos_dirs": "images", "cameras_paths": "transforms.json", "captions_paths": "captions.txt"}[name]
        with (root / f"test_{name}.txt").open("a") as file:
            file.write(f"\n{tmp_path}/short/re10k/scene0/{part}")
    arguments = ["--weights", weights, "--data", root, "--output", tmp_path / "out", *SMALL]
    for part in ("0/2", "1/2"):
        done = run(*arguments, "--part", part)
        assert done.returncode == 0, done.stderr
    assert "1 scenes were skipped; the first, number 2: scene re10k/scene0 has 3 frames, fewer than 5" in done.stdout
    rows = list(csv.DictReader((tmp_path / "out" / "report.csv").open()))
    found = {(row["mode"], row["metric"]): row for row in rows}
    assert found["gen3r/1view+cameras", "psnr"]["scenes"] == "2"
    assert found["gen3r/1view", "chamfer"]["mean"] == "" and "no depth" in found["gen3r/1view", "chamfer"]["missing"]
    assert {mode for mode, _ in found} == {
        "gen3r/1view+cameras", "gen3r/1view", "vggt/1view", "vae_only/allview", "wvd_vae_only/allview", "baseline/1view"
    }  # fmt: skip
    for name in ("report.md", "report.json", "sheet.jpg"):
        assert (tmp_path / "out" / name).exists()
    before = (tmp_path / "out" / "scenes" / "000000.json").stat().st_mtime_ns
    (tmp_path / "out" / "scenes" / "000001.json").unlink()  # as if it had been stopped there
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "scenes" / "000000.json").stat().st_mtime_ns == before
    other = run(*arguments, "--config.sampling.seed=7")
    assert other.returncode == 2 and "holds an evaluation with another config" in other.stderr


@pytest.mark.slow
def test_bad_input(weights, tmp_path):
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (("--weights", weights, "--data", tmp_path / "empty"), "holds no scenes"),
        (("--weights", tmp_path / "none", "--data", "procedural"), "lacks"),
        (("--weights", weights), "--data is needed"),
        (("--weights", weights, "--data", "procedural", "--part", "2/2"), "--part '2/2' must be"),
        (("--weights", weights, "--data", "procedural", "--config.data.num_frames=6"), "6 frames are not 4 k + 1"),
    ):
        done = run(*arguments, "--output", tmp_path / "out")
        assert done.returncode == 2, arguments
        assert message in done.stderr.strip().splitlines()[-1], done.stderr


def test_a_report_of_nothing(tmp_path):
    (tmp_path / "scenes").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "scenes" / "000000.json").write_text(json.dumps({"number": 0, "skipped": "too short"}))
    with pytest.raises(UserError, match=r"holds no judged scene \(1 were skipped: too short\)"):
        write_report(tmp_path)
