"""Metrics against independent implementations and where they are known, and the tables made of them."""

import csv
import io
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from scipy import ndimage, signal
from scipy.spatial.distance import cdist
from scipy.spatial.transform import Rotation

from conversion.__main__ import main
from conversion.commands import random_checkpoint
from conversion.rules import manifest
from conversion.tables import lpips as lpips_table
from gen3r_jax.evaluation import paper, tables
from gen3r_jax.evaluation.appearance import Lpips, load_lpips, psnr, ssim
from gen3r_jax.evaluation.depth import depth_errors
from gen3r_jax.evaluation.geometry import aligned_chamfer, cloud_distance
from gen3r_jax.geometry.alignment import umeyama
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.points import farthest_points
from gen3r_jax.geometry.poses import PoseErrors, pose_errors
from gen3r_jax.models.lpips import LPIPS, SCALE, SHIFT, STAGES, LPIPSConfig
from gen3r_jax.ops.psnr import LARGEST as LARGEST_PSNR


@pytest.fixture
def frames():
    """A smooth clip and a noisy copy, [0, 1]; one frame is almost white, where variances cancel."""
    noise = np.random.default_rng(0).uniform(0, 1, (3, 40, 52, 3))
    true = ndimage.gaussian_filter(noise, (0, 3, 3, 0))
    true[2] = 0.98 + 0.02 * true[2]
    predicted = np.clip(true + 0.05 * np.random.default_rng(1).standard_normal(true.shape), 0, 1)
    return predicted, true


# ---------------------------------------------------------------------------------------------------------------------
# Appearance


def test_psnr_and_ssim_equal_those_of_scikit_image(frames):
    metrics = pytest.importorskip("skimage.metrics", reason="the extra `eval` is not installed")
    window = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    pairs = list(zip(*frames, strict=True))
    expected = [metrics.peak_signal_noise_ratio(y, x, data_range=1) for x, y in pairs]
    assert psnr(*frames) == pytest.approx(np.mean(expected), rel=1e-9)
    expected = [metrics.structural_similarity(x, y, channel_axis=-1, data_range=1, **window) for x, y in pairs]
    assert min(expected) < 0.9
    assert ssim(*frames) == pytest.approx(np.mean(expected), abs=1e-5)


def test_psnr_of_a_known_error_and_of_none():
    black = np.zeros((2, 4, 4, 3))
    assert psnr(black + 0.1, black) == pytest.approx(20)
    assert psnr(black, black) == LARGEST_PSNR
    assert psnr(np.stack([black[0], black[1] + 0.1]), black) == pytest.approx((LARGEST_PSNR + 20) / 2)


def test_ssim_of_flat_frames_and_of_equal_ones(frames):
    low, high = np.full((1, 16, 16, 3), 0.25), np.full((1, 16, 16, 3), 0.75)
    assert ssim(low, high) == pytest.approx((2 * 0.25 * 0.75 + 1e-4) / (0.25**2 + 0.75**2 + 1e-4), abs=1e-5)
    assert ssim(frames[1], frames[1]) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_frames_that_do_not_pair_up_are_refused(metric, frames):
    with pytest.raises(ValueError, match="do not pair up"):
        metric(frames[0][:2], frames[1])
    with pytest.raises(ValueError, match="divide by 255"):
        metric(*(np.rint(255 * x).astype(np.uint8) for x in frames))


def lpips_by_scipy(params: dict, backbone: str, x: np.ndarray, y: np.ndarray) -> float:
    """The definition in float64, with SciPy's correlation and maximum filter, a pair of images [h w 3]."""

    def features(image: np.ndarray) -> list[np.ndarray]:
        image, found = (2 * image - 1 - np.array(SHIFT)) / np.array(SCALE), []
        for stage in STAGES[backbone]:
            if stage.pool:
                middle = (stage.pool - 1) // 2
                reach = [(n - stage.pool) // 2 + 1 for n in image.shape[:2]]
                shift = -1 if stage.pool == 2 else 0  # the filter's window of two begins a pixel early
                maxima = ndimage.maximum_filter(image, (stage.pool, stage.pool, 1), origin=(shift, shift, 0))
                image = maxima[middle::2, middle::2][: reach[0], : reach[1]]
            for conv in stage.convs:
                layer = params["features"][f"conv{conv}"]
                padded = np.pad(image, [(stage.padding,) * 2] * 2 + [(0, 0)])
                image = np.stack(
                    [
                        signal.correlate(padded, layer["kernel"][..., o], "valid")[..., 0] + layer["bias"][o]
                        for o in range(layer["bias"].size)
                    ],
                    axis=-1,
                )
                image = np.maximum(image[:: stage.stride, :: stage.stride], 0)
            found.append(image / (np.linalg.norm(image, axis=-1, keepdims=True) + 1e-10))
        return found

    pairs = zip(features(x), features(y), strict=True)
    weights = [params["weights"][f"stage{number}"] for number in range(5)]
    return sum(((a - b) ** 2 @ weight).mean() for (a, b), weight in zip(pairs, weights, strict=True))


@pytest.mark.parametrize(("backbone", "size"), [("vgg", (33, 38)), ("alex", (71, 64))])
def test_lpips_equals_its_definition(backbone, size):
    network = LPIPS(LPIPSConfig.tiny(backbone), rngs=nnx.Rngs(0))
    lpips = Lpips.of(network)
    rng = np.random.default_rng(0)
    random = {name: rng.uniform(0, 1, weight.shape) for name, weight in lpips.params["weights"].items()}
    lpips.params["weights"] = jax.tree.map(jnp.float32, random)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), lpips.params)
    for number, layer in enumerate(params["features"].values()):
        layer["bias"] += 0.1 * np.sin(number + np.arange(layer["bias"].size))
    lpips.params["features"] = jax.tree.map(jnp.float32, params["features"])
    x, y = rng.uniform(0, 1, (2, 2, *size, 3))
    expected = [lpips_by_scipy(params, backbone, *pair) for pair in zip(x, y, strict=True)]
    assert min(expected) > 0.01
    assert lpips(x, y) == pytest.approx(np.mean(expected), rel=1e-5)
    assert lpips(y, x) == pytest.approx(lpips(x, y), rel=1e-6)
    assert lpips(x, x) == 0
    # Features follow the picture: less noise is nearer.
    assert lpips(x, 0.9 * x + 0.1 * y) < lpips(x, 0.5 * x + 0.5 * y) < lpips(x, y)


# What torchvision calls the convolutions, with their numbers of inputs and outputs.
VGG = [(0, 3, 64), (2, 64, 64), (5, 64, 128), (7, 128, 128), (10, 128, 256), (12, 256, 256), (14, 256, 256)]
VGG += [(17, 256, 512), *((number, 512, 512) for number in (19, 21, 24, 26, 28))]
ALEX = [(0, 3, 64, 11), (3, 64, 192, 5), (6, 192, 384, 3), (8, 384, 256, 3), (10, 256, 256, 3)]


@pytest.mark.parametrize(
    ("config", "convs"), [(LPIPSConfig.vgg(), [(*conv, 3) for conv in VGG]), (LPIPSConfig.alex(), ALEX)]
)
def test_lpips_has_the_official_names_and_shapes(config, convs):
    expected = {f"features.{number}.weight": (outputs, inputs, side, side) for number, inputs, outputs, side in convs}
    expected |= {f"features.{number}.bias": (outputs,) for number, _, outputs, _ in convs}
    expected |= {f"lin{number}.model.1.weight": (1, width, 1, 1) for number, width in enumerate(config.channels)}
    assert {name: entry.shape for name, entry in manifest(lpips_table.TABLE, config).items()} == expected


@pytest.mark.parametrize("backbone", ["vgg", "alex"])
def test_lpips_is_converted_from_two_files_and_from_one(backbone, tmp_path, capsys):
    random_checkpoint("lpips", tmp_path / "official", config=LPIPSConfig.tiny(backbone))
    tensors = load_file(tmp_path / "official" / "model.safetensors")
    fields = (tmp_path / "official" / "config.json").read_text()
    linear = {name: x for name, x in tensors.items() if name.startswith("lin")}
    classifier = {name: x for name, x in tensors.items() if name not in linear}
    slices = [f"slice{number}" for number, stage in enumerate(STAGES[backbone], 1) for _ in stage.convs for _ in "wb"]
    numbered = sorted(classifier, key=lambda name: int(name.split(".")[1]))
    whole = {
        f"net.{piece}.{name.removeprefix('features.')}": classifier[name]
        for piece, name in zip(slices, numbered, strict=True)
    }
    extra = {"classifier.0.weight": np.zeros((2, 2), np.float32)}
    copies = {f"lins.{name[3]}.model.1.weight": x for name, x in linear.items()}
    copies["scaling_layer.shift"] = np.zeros((1, 3, 1, 1), np.float32)
    for name, files in {"two": (classifier | extra, linear), "one": (whole | linear | copies,)}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(fields)
        for number, file in enumerate(files):
            save_file(file, tmp_path / name / f"{number}.safetensors")
        assert main(["lpips", "--source", str(tmp_path / name), "--output", str(tmp_path / f"{name}-w")]) == 0
        assert f"backbone: {backbone}" in capsys.readouterr().out
    first, second = (load_lpips(tmp_path / name) for name in ("one-w", "two-w"))
    assert first.backbone == backbone
    chex.assert_trees_all_equal(first.params, second.params)
    np.testing.assert_array_equal(
        first.params["weights"]["stage2"], tensors["lin2.model.1.weight"].reshape(-1), strict=True
    )
    kernel = tensors["features.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(first.params["features"]["conv0"]["kernel"], kernel)


def test_the_backbone_shows_in_the_tensors():
    first = {"features.0.weight": np.zeros((64, 3, 11, 11))}
    assert lpips_table.TABLE.adapt(first, LPIPSConfig.vgg())[1] == LPIPSConfig.alex()
    first = {"net.slice1.0.weight": np.zeros((64, 3, 3, 3))}
    assert lpips_table.TABLE.adapt(first, LPIPSConfig.vgg())[1] == LPIPSConfig.vgg()


# ---------------------------------------------------------------------------------------------------------------------
# Cameras


def cameras(rotations: Rotation, centres: np.ndarray) -> np.ndarray:
    c2w = np.tile(np.eye(4), (len(centres), 1, 1))
    c2w[:, :3, :3], c2w[:, :3, 3] = rotations.as_matrix(), centres
    return c2w


def random_cameras(count: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return cameras(Rotation.random(count, rng), rng.standard_normal((count, 3)))


def test_another_world_frame_and_scale_are_no_error():
    true = random_cameras(5)
    moved = cameras(Rotation.from_rotvec([1, 2, 3]), np.array([[4.0, 5, 6]]))[0] @ true
    moved[:, :3, 3] *= 7
    errors = pose_errors(moved, true)
    assert len(errors.rotation) == 10
    np.testing.assert_allclose(errors.rotation, 0, atol=1e-6)
    np.testing.assert_allclose(errors.translation, 0, atol=1e-6)
    assert errors.auc(30) == errors.rra(1) == errors.rta(1) == 1


@pytest.mark.parametrize("degrees", [1e-5, 10, 90, 179.99999])
def test_known_angles(degrees):
    turned = Rotation.from_euler("z", [[0], [degrees]], degrees=True)
    centres = np.array([[0, 0, 0], [1.0, 0, 0]])
    errors = pose_errors(cameras(turned, centres), cameras(Rotation.identity(2), centres))
    np.testing.assert_allclose(errors.rotation, degrees, rtol=1e-6)
    np.testing.assert_allclose(errors.translation, 0, atol=1e-6)
    radians = np.radians(degrees)
    walked = np.array([[0, 0, 0], [np.cos(radians), np.sin(radians), 0]])
    errors = pose_errors(cameras(Rotation.identity(2), walked), cameras(Rotation.identity(2), centres))
    np.testing.assert_allclose(errors.translation, min(degrees, 180 - degrees), rtol=1e-5)
    np.testing.assert_allclose(errors.rotation, 0, atol=1e-6)


def test_rotation_errors_equal_scipy_s():
    predicted, true = random_cameras(4, 1), random_cameras(4, 2)
    (rotations, centres), (true_rotations, true_centres) = (
        (Rotation.from_matrix(c2w[:, :3, :3]), c2w[:, :3, 3]) for c2w in (predicted, true)
    )
    expected, lines = [], []
    for i in range(4):
        for j in range(i + 1, 4):
            relative, true_relative = (r[i].inv() * r[j] for r in (rotations, true_rotations))
            expected.append((relative.inv() * true_relative).magnitude())
            step = rotations[i].inv().apply(centres[j] - centres[i])
            true_step = true_rotations[i].inv().apply(true_centres[j] - true_centres[i])
            cosine = step @ true_step / np.linalg.norm(step) / np.linalg.norm(true_step)
            lines.append(np.arccos(abs(cosine)))
    errors = pose_errors(predicted, true[:, :3])
    np.testing.assert_allclose(errors.rotation, np.degrees(expected), rtol=1e-9)
    np.testing.assert_allclose(errors.translation, np.degrees(lines), rtol=1e-9)


def test_cameras_that_stand_still():
    true = random_cameras(3)
    still = true.copy()
    still[:, :3, 3] = [1, 2, 3]
    errors = pose_errors(still, true)
    np.testing.assert_array_equal(errors.translation, 90)
    assert errors.auc(30) == 0
    # Not even in the last digits of float32, as they come from world-to-camera matrices.
    np.testing.assert_array_equal(pose_errors(invert_se3(invert_se3(still.astype(np.float32))), true).translation, 90)
    errors = pose_errors(true, still)  # no direction to be right or wrong about
    assert np.isnan(errors.translation).all()
    assert np.isnan(errors.rta(15))
    assert errors.auc(30) == 1
    partly = true.copy()
    partly[1, :3, 3] = partly[0, :3, 3]
    np.testing.assert_array_equal(np.isnan(pose_errors(true, partly).translation), [True, False, False])


def test_area_under_the_curve():
    errors = PoseErrors(np.array([0.5, 2.5, 10.0, 40.0]), np.array([0.1, 9.5, 1.0, np.nan]))
    # 0.5 counts for all 30 thresholds, 9.5 from 10 on, 10.0 from 11 on, 40 never.
    assert errors.auc(30) == pytest.approx((30 + 21 + 20) / 30 / 4)
    assert errors.auc(30) == pytest.approx(np.mean([np.mean(np.array([0.5, 9.5, 10, 40]) < k) for k in range(1, 31)]))
    assert errors.rra(10) == 0.5  # smaller, not equal
    assert errors.rta(5) == pytest.approx(2 / 3)


def test_one_camera_has_no_relative_pose():
    with pytest.raises(ValueError, match="at least 2"):
        pose_errors(random_cameras(1), random_cameras(1))


# ---------------------------------------------------------------------------------------------------------------------
# Depth and points


def test_depth_errors_of_three_pixels():
    true, predicted = np.array([[[1.0, 2.0, 4.0]]]), np.array([[[1.1, 2.0, 3.0]]])
    errors = depth_errors(predicted, true)  # the medians are equal
    assert errors.abs_rel == pytest.approx((0.1 + 0 + 0.25) / 3)
    assert errors.delta == pytest.approx(2 / 3)  # 4 / 3 > 1.25
    assert depth_errors(3 * predicted, true) == pytest.approx((*errors[:2], 1 / 3))


def test_pixels_that_are_masked_unknown_or_unpredicted():
    true = np.array([[[1.0, 2.0, 3.0, 0.0, np.nan]]])
    predicted = np.array([[[1.0, 2.0, 300.0, 7.0, 7.0]]])
    mask = np.array([[[True, True, False, True, True]]])
    assert depth_errors(predicted, true, mask) == (0, 1, 1)
    predicted[0, 0, 1] = np.nan
    assert depth_errors(predicted, true, mask) == (0.5, 0.5, 1)
    with pytest.raises(ValueError, match="no pixel"):
        depth_errors(predicted, true, np.zeros_like(mask))


def test_the_alignment_equals_pycolmap_s():
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra: dev)")
    rng = np.random.default_rng(0)
    source = rng.standard_normal((50, 3))
    target = 2.5 * Rotation.from_rotvec([0.3, -1, 2]).apply(source) + [1, 2, 3] + 0.1 * rng.standard_normal((50, 3))
    theirs, ours = pycolmap.estimate_sim3d(source, target), umeyama(source, target, "least_squares")
    np.testing.assert_allclose(ours.scale, theirs.scale, rtol=1e-9)
    np.testing.assert_allclose(ours.rotation, theirs.rotation.matrix(), atol=1e-9)
    np.testing.assert_allclose(ours.translation, theirs.translation, atol=1e-9)
    # The variance's scale: the same rotation, and the ratio of the extents, which noise makes larger.
    variance = umeyama(source, target)
    np.testing.assert_allclose(variance.rotation, ours.rotation, atol=1e-12)
    assert variance.scale == pytest.approx(np.sqrt(target.var(axis=0).sum() / source.var(axis=0).sum()))
    assert variance.scale > ours.scale


def test_the_whole_comparison_of_points_equals_brute_force():
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 1, (2, 12, 10, 3))
    predicted = 2 * true + 0.1 * rng.standard_normal(true.shape)

    def thinned(points: np.ndarray) -> np.ndarray:
        chosen = [0]
        while len(chosen) < 60:
            chosen.append(int(cdist(points, points[chosen]).min(axis=1).argmax()))
        return points[chosen]

    # Voxels so small that each holds one point, in the grid's order rather than in that of the pixels.
    aligned = umeyama(predicted.reshape(-1, 3), true.reshape(-1, 3)).apply(predicted.reshape(-1, 3))
    ours = aligned_chamfer(predicted, true, voxel_size=1e-6, num_points=60)
    clouds = (cloud[np.lexsort(cloud.T[::-1])] for cloud in (aligned, true.reshape(-1, 3)))
    distances = cdist(*map(thinned, clouds))
    assert ours.accuracy == pytest.approx(distances.min(axis=1).mean())
    assert ours.completeness == pytest.approx(distances.min(axis=0).mean())
    cloud = true.reshape(-1, 3)
    np.testing.assert_allclose(cloud[farthest_points(cloud, 60)], thinned(cloud))
    assert cloud_distance(cloud, cloud[::2]).accuracy == pytest.approx(cdist(cloud, cloud[::2]).min(axis=1).mean())


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def records(scores: dict[str, list]) -> list[dict]:
    return [
        {
            "scene": str(number),
            "mode": "gen3r/1view+cameras",
            "values": dict(zip(scores, values, strict=True)),
            "reasons": {"lpips": "no weights"},
        }
        for number, values in enumerate(zip(*scores.values(), strict=True))
    ]


SCORES = {"psnr": [20.0, 22.0, 27.0], "lpips": [None] * 3, "auc_30": [0.5, None, 0.7]}


def test_means_and_intervals():
    row = tables.summarise(records(SCORES))["gen3r/1view+cameras"]
    assert row["psnr"].mean == 23
    assert row["psnr"].half_width == pytest.approx(4.3027 * np.std([20, 22, 27], ddof=1) / np.sqrt(3), rel=1e-4)
    assert row["lpips"] == (None, None, 0, {"no weights": 3})
    assert row["auc_30"].scenes == 2
    assert tables.summarise(records({"psnr": [20.0, float("inf")]}))["gen3r/1view+cameras"]["psnr"] == (
        20,
        None,
        1,
        {"not a finite number": 1},
    )


def test_the_interval_covers_the_mean_in_95_of_100_cases():
    draws = np.random.default_rng(0).normal(3, 2, (2000, 6))
    cells = [tables.summarise(records({"psnr": row.tolist()}))["gen3r/1view+cameras"]["psnr"] for row in draws]
    covered = np.mean([abs(cell.mean - 3) < cell.half_width for cell in cells])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_markdown_has_the_paper_beside_and_says_why_something_is_missing():
    more = [{"scene": "0", "mode": "baseline/1view", "values": {"psnr": 12.345, "ours": 1.0}}]
    text = tables.to_markdown(tables.summarise(records(SCORES) + more), paper.reported("re10k"))
    lines = text.splitlines()
    assert lines[0] == "| | PSNR, dB ↑ | LPIPS ↓ | AUC@30° ↑ | ours |"
    assert lines[2].startswith("| gen3r/1view+cameras | 23.00 ± 8.96 | n/a [1] | 0.6000 ± ")
    assert lines[3] == "| — the paper | 20.51 (T1) | 0.2281 (T1) | 0.7443 (T5) |  |"
    assert lines[4] == "| baseline/1view | 12.35 |  |  | 1.0000 |"
    assert "[1] no weights" in text
    assert "[2] without 1 of 3 scenes: no reason was given" in text
    assert len({line.count("|") for line in lines[:5]}) == 1


def test_csv_and_json_hold_the_same_numbers():
    summary, references = tables.summarise(records(SCORES)), paper.reported("re10k")
    entries = json.loads(json.dumps(tables.to_json(summary, references), allow_nan=False))
    lines = list(csv.DictReader(io.StringIO(tables.to_csv(summary, references))))
    assert [entry["metric"] for entry in entries] == [line["metric"] for line in lines] == list(SCORES)
    assert lines[0]["low_95"] == str(entries[0]["low_95"])
    assert (lines[0]["mean"], lines[0]["paper"], lines[0]["paper_table"]) == ("23.0", "20.51", "1")
    assert (lines[1]["mean"], lines[1]["missing"]) == ("", "3 x no weights")


def test_the_paper_s_chamfer_distances_are_means_of_accuracy_and_completeness():
    rows = [
        numbers
        for table in paper.TABLES
        for sets in table.rows.values()
        for numbers in sets.values()
        if "accuracy" in numbers
    ]
    assert len(rows) == 3 * (8 + 6)
    for numbers in rows:
        assert numbers["chamfer"] == pytest.approx((numbers["accuracy"] + numbers["completeness"]) / 2, abs=1.01e-4)


def test_the_paper_s_numbers_are_found_under_our_names():
    numbers = paper.reported("co3d")
    assert numbers["vggt/1view"]["completeness"] == (4.3830, 2)
    assert numbers["vae_only/allview"]["chamfer"] == (0.9986, 3)
    assert numbers["wvd_vae_only/allview"]["completeness"] == (1.3627, 3)
    assert paper.reported("re10k")["rgb_head/allview"]["psnr"] == (23.3927, 9)
    assert numbers["gen3r/2view+cameras"]["chamfer"] == (0.9767, 2)
    assert paper.reported("dl3dv")["gen3r/1view"]["motion_smoothness"] == (0.9701, 7)
    assert paper.reported("kitchens") == {}
