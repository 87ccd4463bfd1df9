"""The evaluation command: rows, reasons, what is skipped, going on, reports."""

import csv
import json
import subprocess
import sys
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest

from configs.eval import get_config
from gen3r_jax.data.clip_maker import ClipMaker
from gen3r_jax.data.procedural import render_clip
from gen3r_jax.errors import UserError
from gen3r_jax.evaluation import rows
from gen3r_jax.evaluation import run as evaluation
from gen3r_jax.evaluation.options import EvaluationOptions, read_evaluation
from gen3r_jax.evaluation.paper import reported
from gen3r_jax.evaluation.protocol import (
    GEOMETRY,
    MetricOptions,
    Prediction,
    Truth,
    score,
    score_parts,
    seen_pixels,
)
from gen3r_jax.evaluation.report import write_report
from gen3r_jax.generation import programs
from gen3r_jax.generation.settings import GenerationSettings
from gen3r_jax.geometry.cameras import invert_se3, rebase_to_first
from tests.helpers.toy_scenes import write_root

OPTIONS = MetricOptions(lpips="", scale="variance", voxel_size=0.02, num_points=500, farthest=0.0)


SETTINGS = GenerationSettings(num_frames=9, height=112, width=112)


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


def test_pixels_are_seen_where_a_given_frame_shows_their_point():
    """A wall with a box before it: the second camera, to the right, sees what the box hid, and beyond the edge."""
    depth = np.full((2, 20, 20), 2.0, np.float32)
    depth[0, :, 8:12] = 1.0
    depth[1, :, 4:8] = 1.0  # the box moves by four pixels, the wall by two
    intrinsics = np.tile(np.array([[20.0, 0, 10], [0, 20, 10], [0, 0, 1]]), (2, 1, 1))
    c2w = np.tile(np.eye(4), (2, 1, 1))
    c2w[1, 0, 3] = 0.2
    frames = np.zeros((2, 20, 20, 3), np.uint8)
    frames[1, :, 18:] = 51
    wall = Truth(frames, intrinsics, c2w, depth)
    seen = seen_pixels(wall, (0,))
    assert seen[0].all()
    hidden = np.zeros(20, bool)
    hidden[[8, 9, 18, 19]] = True  # behind the box at first, and beyond the right edge
    np.testing.assert_array_equal(~seen[1], np.tile(hidden, (20, 1)))
    assert seen_pixels(wall, (0, 1)).all()

    w2c = invert_se3(c2w)
    intrinsics = intrinsics - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]])
    predicted = depth.copy()
    predicted[1][:, hidden] *= 1.5
    black = Prediction(np.zeros((2, 20, 20, 3), np.float32), (0,), (0, 1), 3 * predicted, w2c, intrinsics)
    parts = score_parts(black, wall)
    assert parts["seen"].values["psnr_new"] == 100 and parts["seen"].values["abs_rel"] == pytest.approx(0, abs=1e-6)
    unseen = parts["unseen"].values
    assert unseen["psnr_new"] == pytest.approx(-10 * np.log10(0.04 / 2), rel=1e-3)
    assert (unseen["abs_rel"], unseen["delta_1_25"]) == (pytest.approx(0.5), 0)
    assert unseen["pixels"] == pytest.approx(0.2) and parts["seen"].values["pixels"] == pytest.approx(0.8)
    assert score_parts(replace(black, given=(0, 1)), wall) == {} == score_parts(black, replace(wall, c2w=None))


def test_predictions_that_are_not_finite(truth):
    """A few pixels count as missed, a broken network as not available; neither ends the evaluation."""
    good = perfect(truth)
    holes = good.depth.copy()
    holes[:, :20] = np.inf
    values, reasons = score(replace(good, depth=holes), truth, replace(OPTIONS, num_points=20_000))
    assert "chamfer" not in reasons and values["accuracy"] < 0.02 < values["completeness"]
    nothing = np.full_like(good.depth, np.nan)
    broken = replace(good, frames=good.frames * np.nan, depth=nothing, w2c=good.w2c * np.nan)
    values, reasons = score(broken, truth, OPTIONS)
    assert {reasons[name] for name in ("psnr", "psnr_new", "ssim", *GEOMETRY)} == {"the prediction is not finite"}
    assert values["abs_rel"] == 1 and values["auc_30"] == 0


def test_true_cameras_that_stand_still(truth):
    still = replace(truth, c2w=np.repeat(truth.c2w[:1], 5, axis=0))
    values, reasons = score(perfect(still), still, OPTIONS)
    assert values["rta_15"] is None and reasons["rta_15"] == "the true cameras stand still"
    assert values["auc_30"] > 0.99
    json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(
    ("group", "key", "value", "message"),
    [
        ("rows", "tasks", ("3view",), "3view; they are some of 1view, 2view, allview"),
        ("rows", "geometry", ("depth",), "rows.geometry: depth; they are some of generated, video, both"),
        ("sweep", "solvers", ("heun",), "sweep.solvers: heun; they are some of euler"),
        ("sweep", "steps", (0,), "must be at least 1"),
        ("output", "dtype", "foo", "must be one of '', 'bfloat16'"),
        ("metrics", "num_points", 0, "num_points must be at least 1"),
        ("sampling", "solver", "heun", "none of euler"),
        ("sampling", "num_inference_steps", -1, "at least 0"),
        ("data", "num_frames", 1, "at least 5"),
        ("data", "split", "train", "must be one of 'eval', 'test'"),
    ],
)
def test_options_that_make_no_sense(group, key, value, message):
    config = get_config("nano").to_dict()
    config[group][key] = value
    with pytest.raises(UserError, match=message):
        read_evaluation(config, SETTINGS)


def small_options(**data) -> EvaluationOptions:
    config = get_config("nano").to_dict()
    config["data"].update({"num_frames": 5, "num_scenes": 2, **data})
    return read_evaluation(config, SETTINGS)


def test_only_scenes_that_cannot_be_read_are_skipped(monkeypatch, tmp_path):
    """What fails otherwise ends the command: a rerun judges the scene."""

    def fail(*_):
        raise UserError("the weights are damaged")

    monkeypatch.setattr(evaluation, "predict", fail)
    source, _ = evaluation.open_data("procedural", small_options().data)
    with pytest.raises(UserError, match="the weights are damaged"):
        evaluation.evaluate(None, source, small_options(), tmp_path)
    assert not list(tmp_path.glob("scenes/*"))


def test_which_scenes_are_judged(tmp_path, capsys):
    """The evaluation subset, else the test scenes, with a notice; without cameras if they are not wanted."""
    root = write_root(tmp_path, {"re10k": 2}, frames=6, split="test")
    options = small_options(split="eval").data
    source, split = evaluation.open_data(str(root), options)
    assert (len(source), split) == (2, "test") and "those of the split test are looked for" in capsys.readouterr().err
    for file in root.glob("test_*.txt"):
        lines = file.read_text().splitlines()[:1]
        (root / file.name.replace("test_", "eval_")).write_text("\n".join(lines) + "\n")
    source, split = evaluation.open_data(str(root), options)
    assert (len(source), split) == (1, "eval") and not capsys.readouterr().err
    for file in root.glob("*_cameras_paths.txt"):
        file.unlink()
    source, _ = evaluation.open_data(str(root), replace(options, cameras=False))
    training = write_root(tmp_path / "training", {"re10k": 2}, frames=6, split="train")
    assert evaluation.open_data(str(training), options)[1] == "train"
    (training / "test_videos_dirs.txt").write_text("nowhere\n")  # a damaged split is not one that is missing
    with pytest.raises(UserError, match="test_"):
        evaluation.open_data(str(training), options)
    with pytest.raises(UserError, match="does not exist"):
        evaluation.open_data(str(tmp_path / "nowhere"), options)
    maker = ClipMaker((source,), (1,), 5, (112, 112), training=False)
    assert evaluation._read(maker, source, 0, 0.0)[0].c2w is None


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


SMALL = ["--config.data.num_frames=5", "--config.sampling.num_inference_steps=2", "--config.rows.tasks=('1view',)"]


@pytest.mark.slow
def test_the_command(weights, tmp_path):
    """Two scenes in two parts, of which a third is too short; then the report of all."""
    root = write_root(tmp_path / "root", {"re10k": 2}, frames=6, split="test")
    write_root(tmp_path / "short", {"re10k": 1}, frames=3, split="test")
    for name in ("videos_dirs", "cameras_paths", "captions_paths"):
        part = {"videos_dirs": "images", "cameras_paths": "transforms.json", "captions_paths": "captions.txt"}[name]
        with (root / f"test_{name}.txt").open("a") as file:
            file.write(f"\n{tmp_path}/short/re10k/scene0/{part}")
    arguments = ["--weights", weights, "--data", root, "--output", tmp_path / "out", "--most_bad", "1", *SMALL]
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
    assert "evaluation: " in done.stderr and done.stderr.endswith(f"open {tmp_path / 'out'}/report.md\n")
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
        (("--weights", tmp_path / "none", "--data", "procedural"), "no weights at"),
        (("--weights", "gs://bucket/weights", "--data", "procedural"), "a folder on a disk is needed"),
        (("--weights", weights), "--data is needed"),
        (("--weights", weights, "--data", "procedural", "--part", "2/2"), "--part '2/2' must be"),
        (("--weights", weights, "--data", "procedural", "--config.data.num_frames=6"), "6 frames are not 4 k + 1"),
    ):
        done = run(*arguments, "--output", tmp_path / "out")
        assert done.returncode == 2, arguments
        assert message in done.stderr.strip().splitlines()[-1], done.stderr


def test_a_scene_that_could_not_be_read_is_tried_again(tmp_path, monkeypatch):
    config = get_config("nano").to_dict()
    config["data"]["num_scenes"], config["output"]["pictures"] = 1, 0
    options, record = read_evaluation(config, SETTINGS), tmp_path / "scenes" / "000000.json"
    monkeypatch.setattr(evaluation, "predict", lambda *_: iter(()))
    read = iter([UserError("no transforms.json"), (SimpleNamespace(frames=None), "", "scene")])

    def read_scene(*_):
        if isinstance(found := next(read), UserError):
            raise found
        return found

    monkeypatch.setattr(evaluation, "_read", read_scene)
    for key in ("skipped", "rows", "rows"):  # the third time nothing is read
        evaluation.evaluate(None, (None,), options, tmp_path)
        assert key in json.loads(record.read_text())


def test_other_weights_are_other_numbers(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "vggt").mkdir(parents=True)
        (tmp_path / name / "vggt" / "params").write_bytes(bytes(3 << 20))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    first = evaluation.fingerprint(tmp_path / "a")
    assert evaluation.fingerprint(tmp_path / "b") == evaluation.fingerprint(tmp_path / "link") == first
    with (tmp_path / "b" / "vggt" / "params").open("r+b") as file:
        file.seek(-7, 2)
        file.write(b"1")
    assert evaluation.fingerprint(tmp_path / "b") != first
    with evaluation.claim(tmp_path / "out", {"weights_are": first}):
        pass
    other = evaluation.claim(tmp_path / "out", {"weights_are": "else"})
    with pytest.raises(UserError, match="another config, weights or data; delete it or"), other:
        pass


def test_a_report_says_what_it_is_of(tmp_path):
    """Which split, what is still to come; the paper's lengths only beside lengths in the same unit."""
    options = asdict(read_evaluation(get_config("nano").to_dict(), SETTINGS))
    config = options | {"weights": "w", "data_source": "x/co3d", "split": "test", "scenes": 9}
    config["data"]["num_scenes"], config["lpips_backbone"], config["metrics"]["farthest"] = 4, "alex", 80
    (tmp_path / "scenes").mkdir()
    values = {"values": {"psnr": 20.0, "chamfer": 0.5}, "reasons": {}}
    scene = {"number": 0, "scene": "a", "seconds": 1.0, "rows": {"gen3r/1view+cameras": values}}
    (tmp_path / "scenes" / "000000.json").write_text(json.dumps(scene))
    published = reported("co3d")["gen3r/1view+cameras"]
    for normalize in (True, False):
        config["data"]["normalize"] = normalize
        (tmp_path / "config.json").write_text(json.dumps(config))
        text = write_report(tmp_path)
        assert "depth beyond 80 is taken as unknown. LPIPS is that of the backbone alex" in text
        assert "1 of the 9 scenes of `x/co3d` (split test)" in text and "3 of 4 scenes are still to be judged" in text
        assert f"{published['psnr'].value:.2f} (T" in text
        assert (f"{published['chamfer'].value:.4f} (T" in text) != normalize


def test_a_report_draws_a_sweep_and_says_how_well_agreement_predicts_errors(tmp_path):
    options = asdict(read_evaluation(get_config("nano").to_dict(), SETTINGS))
    config = options | {"weights": "w", "data_source": "procedural", "split": "test", "scenes": 4, "lpips_backbone": ""}
    (tmp_path / "scenes").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(config))
    for number, (agreement, error) in enumerate([(0.9, 0.1), (0.8, 0.2), (0.6, 0.4), (0.7, 0.5)]):
        values = {
            "gen3r/1view+cameras": {"abs_rel": error},
            "gen3r_video/1view+cameras": {"abs_rel": 0.5 - error, "agreement": agreement},
            "gen3r/1view+cameras, euler 1": {"psnr_new": 20.0, "abs_rel": error},
            "gen3r/1view+cameras, euler 4": {"psnr_new": 21.0, "abs_rel": error},
            "gen3r/1view+cameras, unseen": {"psnr_new": 15.0},
        }
        rows = {row: {"values": scores, "reasons": {}} for row, scores in values.items()}
        scene = {"number": number, "scene": str(number), "seconds": 1.0, "rows": rows}
        (tmp_path / "scenes" / f"00000{number}.json").write_text(json.dumps(scene))
    text = write_report(tmp_path)
    assert "| gen3r/1view+cameras | AbsRel | 0.80 | 4 |" in text
    assert "| gen3r_video/1view+cameras | AbsRel | -0.80 | 4 |" in text
    assert "(curves.png)" in text and (tmp_path / "curves.png").stat().st_size > 1000


def test_a_report_of_nothing(tmp_path):
    (tmp_path / "scenes").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "scenes" / "000000.json").write_text(json.dumps({"number": 0, "skipped": "too short"}))
    with pytest.raises(UserError, match=r"holds no judged scene \(1 were skipped: too short\)"):
        write_report(tmp_path)
