"""The reconstruction command with tiny random networks: what it writes, what it takes and what it refuses."""

import dataclasses
import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from gen3r_jax import VGGT as Library
from gen3r_jax import module
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.export.video import write_video
from gen3r_jax.generation import networks
from gen3r_jax.geometry.camera_files.official import read_cameras
from gen3r_jax.geometry.cameras import Cameras
from gen3r_jax.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig
from gen3r_jax.models.vggt import VGGT, VGGTConfig
from gen3r_jax.reconstruct import main
from gen3r_jax.scene import Scene
from gen3r_jax.storage.checkpoint import save_weights

SIDE = "112"
FILES = (
    *("rgb.mp4", "depth.mp4", "depth.npz", "confidence.npz", "cameras.json", "points.ply", "images", "transforms.json"),
    *("sheet.png", "sparse", "scene.glb", "gaussians.ply", "viewer.html", "run.json"),
)


def save_random(folder, network, config) -> None:
    """Saves a network of small random numbers; drawing them in NumPy is much quicker than initialising it."""
    rng = np.random.default_rng(0)
    _, shapes = module.abstract(lambda rngs: network(config, rngs=rngs))
    save_weights(folder, network, config, jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    vggt = VGGTConfig.tiny()
    adapter = dataclasses.replace(GeometryAdapterConfig.tiny(), input_dim=10 * vggt.embed_dim)
    save_random(folder / "vggt", VGGT, vggt)
    save_random(folder / "geometry_adapter", GeometryAdapter, adapter)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Five views of noise that a careless reader trips over: colour, grey, RGBA, 16 bit, turned; all of other sizes."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rng.integers(0, 256, (150, 200, 3), np.uint8)).save(folder / "1.png")
    Image.fromarray(rng.integers(0, 256, (113, 117), np.uint8)).save(folder / "2.jpg")
    Image.fromarray(rng.integers(0, 256, (64, 32, 4), np.uint8)).save(folder / "3.png")
    Image.fromarray(rng.integers(0, 65536, (130, 130), np.uint16)).save(folder / "4.png")
    Image.fromarray(rng.integers(0, 256, (120, 240, 3), np.uint8)).save(folder / "10.jpeg", exif=exif)
    return folder


def run(weights, output, *arguments) -> int:
    return main(["--weights", str(weights), "--output", str(output), "--side", SIDE, *map(str, arguments)])


@pytest.mark.parametrize("through_adapter", [pytest.param(False, marks=pytest.mark.slow), True])
def test_odd_images_become_a_scene_folder(weights, images, tmp_path, capsys, through_adapter):
    flags = ["--through_adapter"] if through_adapter else []
    assert run(weights, tmp_path / "out", "--frames", images, *flags) == 0
    assert {path.name for path in (tmp_path / "out").glob("[!.]*")} == set(FILES)
    cameras = read_cameras(tmp_path / "out" / "cameras.json")
    assert cameras.w2c.shape == (5, 4, 4)
    assert cameras.image_size == (112, 112)
    depth = np.load(tmp_path / "out" / "depth.npz")["depth"]
    assert depth.shape == (5, 112, 112) and np.isfinite(depth).all() and (depth > 0).all()
    report = json.loads((tmp_path / "out" / "run.json").read_text())
    assert report["options"]["through_adapter"] == through_adapter
    stages = [stage["stage"].split()[0] for stage in report["stages"]]
    assert stages == ["Reading", "Loading", "Reconstructing", "Writing"]
    assert "Reconstructing 5 frames of 112 x 112" in capsys.readouterr().err


class Stop(Exception):
    """Ends a run where the networks would begin."""


@pytest.fixture
def network_input(monkeypatch):
    """What the networks are given, without the time they take."""
    given = {}

    def record(frames, vggt, adapter):
        params = vggt[1]
        parts = ("aggregator", "depth_head")
        given.update(frames=frames, dtypes=[{x.dtype for x in jax.tree.leaves(params[part])} for part in parts])
        raise Stop

    monkeypatch.setattr(networks, "reconstruct", record)
    return given


def test_a_folder_whose_writing_was_cut_short_does_not_look_complete(weights, images, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise Stop

    monkeypatch.setattr(networks, "reconstruct", lambda frames, *_: _flat_scene(frames))
    monkeypatch.setattr("gen3r_jax.generation.reconstruction.write_scene", stop)
    with pytest.raises(Stop):
        run(weights, tmp_path / "out", "--frames", images)
    assert not (tmp_path / "out" / "run.json").exists()


def test_scenes_are_not_mixed_in_one_folder(weights, images, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is there already"):
        run(weights, tmp_path / "out", "--frames", images)


def test_frames_and_precision_can_be_chosen(weights, tmp_path, network_input):
    frames = np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 112 * 112 * 3).reshape(10, 112, 112, 3)
    write_video(tmp_path / "clip.mp4", frames)
    arguments = ["--frames", tmp_path / "clip.mp4", "--stride", 3, "--num_frames", 2]
    with pytest.raises(Stop):
        run(weights, tmp_path / "out", *arguments, "--dtype", "bfloat16")
    np.testing.assert_allclose(network_input["frames"].mean(axis=(1, 2, 3)), [0, 75], atol=3)
    assert network_input["dtypes"] == [{jnp.dtype("bfloat16")}, {jnp.dtype("float32")}]  # heads stay exact
    with pytest.raises(Stop):
        run(weights, tmp_path / "out", *arguments)
    assert network_input["dtypes"] == [{jnp.dtype("float32")}] * 2  # the default on a CPU


def test_of_long_clips_49_frames_are_used_and_told(weights, tmp_path, network_input, capsys):
    ramp = np.arange(97, dtype=np.uint8)[:, None, None, None]
    write_video(tmp_path / "clip.mp4", np.broadcast_to(2 * ramp, (97, 32, 64, 3)))
    arguments = ["--frames", tmp_path / "clip.mp4", "--through_adapter"]
    with pytest.raises(Stop):
        run(weights, tmp_path / "out", *arguments)
    assert network_input["frames"].shape == (49, 112, 112, 3)
    np.testing.assert_allclose(network_input["frames"].mean(axis=(1, 2, 3)), 4 * np.arange(49), atol=1)
    told = capsys.readouterr().err
    assert "clip.mp4: 49 of 97 frames are used, spread evenly from the first to the last" in told
    assert "64 x 32 are enlarged by 3.50 and scaled to 224 x 112 and cut to 112 x 112, which loses 50.0%" in told
    with pytest.raises(Stop):
        run(weights, tmp_path / "out", *arguments, "--first", 40, "--num_frames", 5)
    np.testing.assert_allclose(network_input["frames"].mean(axis=(1, 2, 3)), 80 + 2 * np.arange(5), atol=1)


def test_with_a_window_all_frames_are_used(weights, tmp_path, monkeypatch):
    """Three windows and a fourth that looks for a loop; of a still clip of one depth, the last sees the first."""
    sizes = []
    monkeypatch.setattr(networks, "reconstruct", lambda frames, *_: sizes.append(len(frames)) or _flat_scene(frames))
    write_video(tmp_path / "clip.mp4", np.zeros((60, 32, 32, 3), np.uint8))
    assert run(weights, tmp_path / "out", "--frames", tmp_path / "clip.mp4", "--window", 25, "--format", "maps") == 0
    assert sizes == [25] * 5
    assert np.load(tmp_path / "out" / "depth.npz")["depth"].shape == (60, 112, 112)
    results = json.loads((tmp_path / "out" / "run.json").read_text())["results"]
    assert results["window"] == 25 and not results["loop"]["closed"]  # nothing in it can be told apart
    assert [join["frames"] for join in results["joins"]] == [[13, 37], [26, 50], [35, 59]]


def test_known_cameras_and_depth_are_written_as_they_were_given(weights, tmp_path, monkeypatch):
    """Of five frames every second is used; cameras, one intrinsics for all, and depth in millimetres are for all."""
    monkeypatch.setattr(networks, "reconstruct", lambda frames, *_: _flat_scene(frames))
    for index in range(5):
        (tmp_path / "depth").mkdir(exist_ok=True)
        Image.fromarray(np.full((112, 112), 50 * index, np.uint8)).save(tmp_path / f"{index}.png")
        depth = np.full((56, 56), 1000 * (index + 1), np.uint16)
        depth[:10] = 0
        Image.fromarray(depth).save(tmp_path / "depth" / f"{index}.png")
    c2w = np.tile(np.eye(4), (5, 1, 1))
    c2w[:, 0, 3] = np.arange(5)
    np.savetxt(tmp_path / "poses.txt", c2w[:, :3].reshape(5, 12))
    flags = ["--cameras", tmp_path / "poses.txt", "--intrinsics", 100, 101, 50, 60, "--depth", tmp_path / "depth"]
    flags += ["--scale_from", "depth", "--stride", 2, "--format", "maps"]
    images = [tmp_path / f"{index}.png" for index in range(5)]
    assert run(weights, tmp_path / "out", "--images", *images, *flags) == 0
    cameras = read_cameras(tmp_path / "out" / "cameras.json")
    np.testing.assert_array_equal(cameras.w2c[:, 0, 3], [0, -2, -4])
    np.testing.assert_array_equal(cameras.intrinsics, np.tile([[100, 0, 50], [0, 101, 60], [0, 0, 1]], (3, 1, 1)))
    depth = np.load(tmp_path / "out" / "depth.npz")["depth"]
    np.testing.assert_array_equal(depth[:, 20:], np.broadcast_to([[[1]], [[3]], [[5]]], (3, 92, 112)))
    results = json.loads((tmp_path / "out" / "run.json").read_text())["results"]
    assert results["scale_from"] == "depth"
    np.testing.assert_allclose(depth[:, :20], results["scale"], rtol=1e-6)  # unknown there: that of the network
    (tmp_path / "depth" / "4.png").unlink()
    with pytest.raises(UserError, match="4 depth maps for 5 frames, of which 3 are used"):
        run(weights, tmp_path / "other", "--images", *images, *flags)


@pytest.mark.parametrize("cameras", [lambda c2w, k: c2w, lambda c2w, k: Cameras(c2w, k, np.full((9, 2), 112))])
def test_the_library_takes_from_memory_what_the_command_takes_from_files(weights, tmp_path, monkeypatch, cameras):
    """Nine frames in windows of four; cameras as poses or with intrinsics, depth of which a part is known."""
    monkeypatch.setattr(networks, "reconstruct", lambda frames, *_: _flat_scene(frames))
    c2w, k = np.tile(np.eye(4), (9, 1, 1)), np.tile([[100.0, 0, 50], [0, 101, 60], [0, 0, 1]], (9, 1, 1))
    c2w[:, 0, 3] = np.arange(9)
    depth = np.where(np.arange(112) < 20, 0, np.full((9, 112, 112), 3.0))
    frames = np.zeros((9, 112, 112, 3), np.float32) + np.linspace(0, 1, 9, dtype=np.float32)[:, None, None, None]
    how = {"cameras": cameras(c2w, k), "intrinsics": (100, 101, 50, 60), "depth": depth, "scale_from": "depth"}
    found = Library.from_pretrained(weights).reconstruct(frames, size=112, window=4, far_percentile=100, **how)
    np.testing.assert_array_equal(found.scene.rgb[:, 0, 0, 0], np.rint(255 * frames[:, 0, 0, 0]))
    np.testing.assert_array_equal(found.scene.w2c[:, 0, 3], -np.arange(9))
    np.testing.assert_array_equal(found.scene.intrinsics, k)
    np.testing.assert_allclose(found.scene.depth, 3, rtol=1e-6)
    results = found.report.results
    assert results["window"] == 4 and results["scale"] == pytest.approx(3) and len(results["joins"]) == 3
    folder = found.save(tmp_path / "out", formats=["maps"])
    np.testing.assert_array_equal(read_cameras(folder / "cameras.json").intrinsics, k)
    assert json.loads((folder / "run.json").read_text())["options"]["depth"] == "array of float64 [9, 112, 112]"


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"stride": 2}, "stride is for files"),
        ({"cameras": np.eye(3)}, r"cameras of the shape \[3, 3\]: give a file, Cameras, or matrices"),
        ({"intrinsics": (100, 101)}, "--intrinsics 100 101: give FX FY CX CY"),
        ({"depth": np.ones((3, 112, 112))}, "depth: 3 depth maps for 2 frames, of which 2 are used"),
    ],
)
def test_the_library_refuses_what_does_not_fit(weights, how, message):
    with pytest.raises(UserError, match=message):
        Library.from_pretrained(weights).reconstruct(np.zeros((2, 112, 112, 3), np.uint8), size=112, **how)


@pytest.mark.parametrize(("flags", "left"), [(["--far_percentile", 50], 6272), (["--min_confidence", 2.5], 0)])
def test_sky_and_what_is_far_can_be_left_out(weights, tmp_path, monkeypatch, flags, left):
    def slanted(frames, *_):
        scene = _flat_scene(frames)
        return dataclasses.replace(scene, depth=scene.depth + np.arange(112, dtype=np.float32))

    monkeypatch.setattr(networks, "reconstruct", slanted)
    Image.fromarray(np.zeros((112, 112), np.uint8)).save(tmp_path / "0.png")
    arguments = ["--images", tmp_path / "0.png", "--format", "maps", *flags]
    if not left:
        with pytest.raises(UserError, match="leaves nothing: the most confident pixel has 2"):
            run(weights, tmp_path / "out", *arguments)
        return
    assert run(weights, tmp_path / "out", *arguments) == 0
    assert (np.load(tmp_path / "out" / "confidence.npz")["confidence"] > 0).sum() == left


def test_transparent_pixels_have_no_confidence_and_a_video_keeps_its_speed(weights, tmp_path, monkeypatch):
    """From what the networks give to what is written."""
    written = []
    monkeypatch.setattr(networks, "reconstruct", lambda frames, *_: _flat_scene(frames))
    monkeypatch.setattr(
        "gen3r_jax.generation.reconstruction.write_scene", lambda *arguments, **_: written.append(arguments)
    )
    picture = np.full((112, 112, 4), 255, np.uint8)
    picture[:, :60, 3] = 0
    Image.fromarray(picture).save(tmp_path / "cut.png")
    assert run(weights, tmp_path / "out", "--frames", tmp_path / "cut.png") == 0
    scene, _, fps, _ = written.pop()
    assert fps == 12 and (scene.confidence[0, :, :60] == 0).all() and (scene.confidence[0, :, 60:] == 2).all()
    (tmp_path / "out" / "run.json").unlink()
    write_video(tmp_path / "clip.mp4", np.zeros((9, 32, 32, 3), np.uint8), fps=24)
    assert run(weights, tmp_path / "out", "--frames", tmp_path / "clip.mp4", "--stride", 4) == 0
    assert written.pop()[2] == pytest.approx(6, rel=1e-3)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["results"]["fps"] == pytest.approx(6, rel=1e-3)


@pytest.mark.parametrize(
    ("fit", "size", "known", "focal", "centre"),
    [
        ("crop", (112, 112), np.s_[:, 50:150], 50, (100, 50)),
        ("pad", (112, 112), np.s_[:, :], 100, (100, 50)),
        ("whole", (84, 168), np.s_[:, :], 56 / 0.84, (56 / 0.84, 56 / 0.84)),
    ],
)
def test_pictures_of_other_aspects(weights, tmp_path, monkeypatch, fit, size, known, focal, centre):
    """What the networks see, and the scene in the pixels of the picture, whose left half a mask leaves out."""
    written = []
    monkeypatch.setattr(networks, "reconstruct", lambda frames, *_: _flat_scene(frames))
    monkeypatch.setattr("gen3r_jax.generation.reconstruction.write_scene", lambda *given, **_: written.append(given))
    picture = np.zeros((100, 200, 3), np.uint8) + np.arange(200, dtype=np.uint8)[:, None]
    Image.fromarray(picture).save(tmp_path / "wide.png")
    Image.fromarray(np.tile(np.repeat(np.uint8([0, 255]), 100), (100, 1))).save(tmp_path / "mask.png")
    how = ["--frames", tmp_path / "wide.png", "--masks", tmp_path / "mask.png", "--fit", fit, "--original_size"]
    assert run(weights, tmp_path / "out", *how) == 0
    (scene, *_), (original, folder, *_) = written
    assert scene.rgb.shape == (1, *size, 3) and folder.name == "original"
    np.testing.assert_array_equal(original.rgb[0], picture)
    expected = np.zeros((100, 200))
    expected[known] = 1
    np.testing.assert_array_equal(original.depth[0], expected)
    expected[:, :100] = 0
    np.testing.assert_array_equal(original.confidence[0], 2 * expected)
    np.testing.assert_allclose(original.intrinsics[0], [[focal, 0, centre[0]], [0, focal, centre[1]], [0, 0, 1]])
    assert (scene.confidence[0, :, : size[1] // 2] == 0).all()


def test_original_sizes_that_cannot_be_held(weights, tmp_path, monkeypatch):
    for name, size in (("a.png", (50, 40)), ("b.png", (40, 50))):
        Image.new("RGB", size).save(tmp_path / name)
    arguments = ["--frames", tmp_path / "a.png", tmp_path / "b.png", "--original_size"]
    with pytest.raises(UserError, match="needs pictures of one size; here are some of 50 x 40 and of 40 x 50"):
        run(weights, tmp_path / "out", *arguments)
    monkeypatch.setattr("gen3r_jax.generation.reconstruction.MOST_ORIGINAL_PIXELS", 1000)
    with pytest.raises(UserError, match="1 pictures have 0 megapixels together, 0 can be held"):
        run(weights, tmp_path / "out", "--frames", tmp_path / "a.png", "--original_size")


def _flat_scene(frames):
    shape = frames.shape[:3]
    c2w = np.tile(np.eye(4, dtype=np.float32), (len(frames), 1, 1))
    ones = np.ones(shape, np.float32)
    intrinsics = np.tile(np.float32([[56, 0, 56], [0, 56, 56], [0, 0, 1]]), (len(frames), 1, 1))
    return Scene(frames, ones, 2 * ones, c2w, intrinsics, np.ones((*shape, 3), np.float32))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--side", "500"], "side 500 is not a multiple of 112; nearest: 448, 560"),
        (["--side", "0"], "nearest: 112"),
        (["--num_frames", "0"], "--num_frames 0 is not a positive number"),
        (["--stride", "-1"], "--stride -1 is not a positive number"),
        (["--fps", "0"], "fps must be at least 0.001 and at most 1000, not 0.0"),
        (["--num_frames", "9"], "has 5 frames, 9 are needed"),
        (["--window", "3"], "--window 3 is too short to share frames; give at least 4"),
        (["--window", "4", "--through_adapter"], "takes 4k+1 frames, not 4; add --window 5"),
        (["--num_frames", "4", "--through_adapter"], "takes 4k+1 frames, not 4; add --num_frames 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(weights, images, tmp_path, arguments, message):
    with pytest.raises(UserError) as error:
        run(weights, tmp_path / "out", "--frames", images, *arguments)
    assert message in str(error.value)


def test_weights_know_their_size(weights, images, tmp_path):
    (tmp_path / "vggt").symlink_to(weights / "vggt")
    (tmp_path / "generation.json").write_text('{"height": 500, "width": 500}')
    with pytest.raises(UserError, match="side 500 is not a multiple of 112"):
        main(["--weights", str(tmp_path), "--frames", str(images), "--output", str(tmp_path / "out")])


def test_inputs_that_cannot_be_read_are_refused(weights, images, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    for frames, message in {
        tmp_path / "none.mp4": "does not exist",
        tmp_path / "empty": "holds no images",
        tmp_path / "broken.mp4": "cannot read the video",
    }.items():
        with pytest.raises(UserError, match=message):
            run(weights, tmp_path / "out", "--frames", frames)


def test_missing_weights_name_the_command_that_makes_them(weights, images, tmp_path, capsys):
    (tmp_path / "vggt").symlink_to(weights / "vggt")
    with pytest.raises(SystemExit) as stop:
        main_guard(lambda: run(tmp_path, tmp_path / "out", "--frames", images, "--through_adapter"))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no weights at ") and "gen3r convert geometry_adapter --source" in line


def test_an_adapter_of_another_vggt_is_refused(weights, images, tmp_path):
    (tmp_path / "vggt").symlink_to(weights / "vggt")
    save_random(tmp_path / "geometry_adapter", GeometryAdapter, GeometryAdapterConfig.tiny())
    with pytest.raises(UserError, match="takes 160 channels and the VGGT beside it gives 320"):
        run(tmp_path, tmp_path / "out", "--frames", images, "--through_adapter")


def test_an_output_that_cannot_be_written_is_refused_at_once(weights, images, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write to .*file/out.*choose another output"):
        run(weights, tmp_path / "file" / "out", "--frames", images)
    if os.geteuid() != 0:
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(UserError, match="Permission denied"):
            run(weights, tmp_path / "locked", "--frames", images)
