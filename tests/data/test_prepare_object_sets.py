"""Preparing TartanAir, Co3Dv2, MVImgNet and WildRGB-D: the known camera comes out of each, bad data stays out."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data.prepare import co3d as co3d_reader
from gen3r_jax.data.prepare import run as running
from gen3r_jax.data.prepare import scenes
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.colmap import read_cameras, read_images
from tests.helpers.raw_sets import co3d, mvimgnet, shared, tartanair, wildrgbd
from tests.helpers.raw_sets.prepared import PreparedScene, prepare_set, read_scene_folder, run


def _scene(name: str, raw: Path, root: Path, **options) -> PreparedScene:
    (folder,) = prepare_set(name, raw, root, **options)
    return read_scene_folder(folder)


def _assert_depth(scene: PreparedScene, unknown: int) -> None:
    """That of the plane everywhere, but for the first `unknown` pixels of the first row."""
    np.testing.assert_array_equal(scene.depth[:, 0, :unknown], 0)
    known = scene.depth.copy()
    known[:, 0, :unknown] = np.array([2.0, 1.5, 1.0])[:, None]
    np.testing.assert_allclose(known, np.broadcast_to([[[2.0]], [[1.5]], [[1.0]]], known.shape), rtol=1e-3)


def _edit_lines(path: Path, edits: dict[int, str]) -> None:
    lines = path.read_text().splitlines()
    for number, line in edits.items():
        lines[number] = line
    path.write_text("\n".join(lines) + "\n")


def _cut(path: Path, keep: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


# TartanAir


def test_tartanair_has_its_own_camera(tmp_path):
    scene = _scene("tartanair", tartanair.write(tmp_path / "raw"), tmp_path / "out")
    np.testing.assert_allclose(scene.cameras.c2w, [shared.c2w(i) for i in range(3)], atol=1e-6)
    np.testing.assert_allclose(scene.cameras.intrinsics[1], [[320, 0, 320], [0, 320, 240], [0, 0, 1]], rtol=1e-6)
    np.testing.assert_array_equal(scene.cameras.sizes, [(480, 640)] * 3)
    _assert_depth(scene, 3)
    assert scene.description["source_id"] == "envA_Easy_P000" and scene.description["scale"] == "metric"


def test_tartanair_v2(tmp_path):
    scene = _scene("tartanair", tartanair.write_v2(tmp_path / "raw"), tmp_path / "out")
    np.testing.assert_allclose(scene.cameras.c2w, [shared.c2w(i) for i in range(3)], atol=1e-6)
    np.testing.assert_allclose(scene.cameras.intrinsics[1], [[320, 0, 320], [0, 320, 320], [0, 0, 1]], rtol=1e-6)
    _assert_depth(scene, 3)
    assert scene.description["source_id"] == "envB_Data_hard_P001"


def test_tartanair_takes_frames_that_have_all_parts(tmp_path):
    raw = tartanair.write(tmp_path / "raw", frames=8, flight="envA/Hard/P003", size=(48, 64))
    folder = raw / "envA/Hard/P003"
    (folder / "image_left/000001_left.png").unlink()
    (folder / "depth_left/000003_left_depth.npy").unlink()
    _edit_lines(folder / "pose_left.txt", {4: "nan " * 7, 7: ""})  # the last frame has no pose
    _cut(folder / "depth_left/000005_left_depth.npy")
    outcome = run("tartanair", raw, tmp_path / "out")
    assert outcome.dropped == {
        "no picture, no pose or no depth": 3,
        "pose is not a rotation with a translation": 1,
        "picture or depth cannot be used": 1,
    }
    scene = read_scene_folder(tmp_path / "out/tartanair/envA_Hard_P003_c000")
    assert scene.description["order"] == [0, 2, 6]
    np.testing.assert_allclose(scene.cameras.c2w[1], shared.c2w(2), atol=1e-6)
    np.testing.assert_allclose(scene.cameras.intrinsics[0, 0], (32, 0, 32))


def test_tartanair_without_depth(tmp_path):
    raw = tartanair.write(tmp_path / "raw", size=(48, 64), depth=False)
    assert _scene("tartanair", raw, tmp_path / "out").depth is None


def test_tartanair_refuses_pickles(tmp_path):
    """An array of objects could run code when it is read."""
    raw = tartanair.write(tmp_path / "raw", size=(48, 64))
    np.save(raw / "envA/envA/Easy/P000/depth_left/000001_left_depth.npy", np.full((48, 64), None), allow_pickle=True)
    outcome = run("tartanair", raw, tmp_path / "out")
    assert "allow_pickle=False" in outcome.examples["picture or depth cannot be used"]


# Co3Dv2


@pytest.mark.parametrize("camera", [co3d.ISOTROPIC, co3d.LEGACY])
def test_co3d_gives_the_shared_camera(tmp_path, camera):
    raw = co3d.write(tmp_path / "raw", camera=camera, scale_adjustment=0.5)
    scene = _scene("co3d", raw, tmp_path / "out")
    shared.assert_camera(scene.cameras)
    _assert_depth(scene, 3)
    assert scene.description["source_id"] == "apple_1_2_3" and scene.description["scale"] == "sfm"
    assert scene.description["source_frames"] == ["frame000005.jpg", "frame000010.jpg", "frame000015.jpg"]


def test_co3d_frames_without_a_picture_or_camera(tmp_path):
    raw = co3d.write(tmp_path / "raw", frames=3)
    annotations = [co3d.annotation("1_2_3", number, number) for number in range(3, 8)]
    annotations[2]["viewpoint"] = None
    annotations[3]["viewpoint"]["T"] = [float("nan")] * 3
    for annotation in annotations[:4]:  # the last has no file
        annotation["depth"] = None
        picture = np.zeros((48, 64, 3), np.uint8) if annotation["frame_number"] < 5 else shared.picture(0)
        Image.fromarray(picture).save(raw / annotation["image"]["path"])
    co3d.add(raw / "apple/frame_annotations.jgz", annotations)
    (raw / "apple/set_lists").mkdir()
    used, secret = ["1_2_3", 2, ""], ["1_2_3", 3, annotations[0]["image"]["path"]]
    for subset, lists in (("fewview_test", {"train": [used], "test": [secret]}), ("fewview_train", {"test": [used]})):
        (raw / f"apple/set_lists/set_lists_{subset}.json").write_text(json.dumps(lists))
    outcome = run("co3d", raw, tmp_path / "out")
    assert outcome.dropped == {
        "no camera": 1,
        "kept secret for the challenge": 1,
        "picture or depth cannot be used": 1,  # black, but in no list
        "pose is not a rotation with a translation": 1,
        "no picture": 1,
    }
    assert "the picture is black" in outcome.examples["picture or depth cannot be used"]
    shared.assert_camera(read_scene_folder(tmp_path / "out/co3d/apple_1_2_3").cameras)


def test_co3d_skips_bad_sequences_with_a_reason(tmp_path):
    raw = co3d.write(tmp_path / "raw")
    co3d.write(raw, sequence="low", score=0.2)
    co3d.write(raw, sequence="none", score=None)
    co3d.write(raw, sequence="jump", positions=(0, 0.1, 0.2, 2.0))
    co3d.write(raw, sequence="even", positions=(0, 0.1, 0.2, 1.0))
    outcome = run("co3d", raw, tmp_path / "out")
    assert sorted(scene["id"] for scene in outcome.scenes) == ["apple_1_2_3", "apple_even"]
    low, jump = "its viewpoint quality score is not above 0.5", "its camera jumps by more than 10 times its median step"
    assert outcome.skipped == [("apple_jump", jump), ("apple_low", low), ("apple_none", low)]


def test_co3d_sequences_are_done_one_by_one(tmp_path, monkeypatch):
    """Though a category is read in one go: one that comes later is prepared, and a killed run keeps what it had."""
    raw = co3d.write(tmp_path / "raw")
    co3d.write(raw, sequence="late")
    (raw / "apple/late").rename(tmp_path / "later")
    assert [scene["id"] for scene in run("co3d", raw, tmp_path / "out").scenes] == ["apple_1_2_3"]
    (tmp_path / "later").rename(raw / "apple/late")
    (record,) = (tmp_path / "out/co3d/.prepared").glob("*.jsonl")
    with record.open("a") as file:
        file.write('{"recording": "apple_')  # as a killed run leaves it
    written = []

    def write_recording(recording, *arguments):
        written.append(recording.id)
        return scenes.write_recording(recording, *arguments)

    monkeypatch.setattr(running, "write_recording", write_recording)
    for _ in range(2):
        outcome = run("co3d", raw, tmp_path / "out")
        assert [scene["id"] for scene in outcome.scenes] == ["apple_1_2_3", "apple_late"] and not outcome.skipped
    assert written == ["apple_late"]


def test_co3d_gaps_between_frame_numbers_are_no_jumps(tmp_path):
    raw = co3d.write(tmp_path / "raw", positions=(0, 0.1, 0.2, 0.3))
    file = raw / "apple/frame_annotations.jgz"
    annotations = co3d.read(file)
    annotations[0] |= {"frame_number": 30, "viewpoint": co3d.annotation("", 0, 3.0)["viewpoint"]}
    file.write_bytes(gzip.compress(json.dumps(annotations).encode()))
    assert len(run("co3d", raw, tmp_path / "out").scenes) == 1


def test_co3d_pictures_that_were_scaled_down(tmp_path):
    raw = co3d.write(tmp_path / "raw")
    file = raw / "apple/frame_annotations.jgz"
    annotations = [annotation | {"image": annotation["image"] | {"size": [96, 128]}} for annotation in co3d.read(file)]
    file.write_bytes(gzip.compress(json.dumps(annotations).encode()))
    shared.assert_camera(_scene("co3d", raw, tmp_path / "out").cameras)


def test_co3d_depth_needs_its_mask(tmp_path):
    raw = co3d.write(tmp_path / "raw")
    shutil.rmtree(raw / "apple/1_2_3/depth_masks")
    assert _scene("co3d", raw, tmp_path / "out").depth is None


@pytest.mark.parametrize("file", ["frame_annotations.jgz", "sequence_annotations.jgz"])
def test_co3d_annotations_that_are_cut_short(tmp_path, file):
    raw = co3d.write(tmp_path / "raw")
    _cut(raw / "apple" / file)
    (skipped,) = run("co3d", raw, tmp_path / "out").skipped
    assert skipped[0] == "apple" and f"{file}: Compressed file ended" in skipped[1]
    text = json.dumps([{"a": 1}, {"b": [2]}])
    (raw / "apple" / file).write_bytes(gzip.compress(text[:-3].encode()))
    with pytest.raises(UserError, match=f"{file} is cut short or damaged"):
        list(co3d_reader._annotations(raw / "apple" / file))


@pytest.mark.parametrize(
    "change",
    [{"image": None}, {"frame_number": None}, {"viewpoint": {"R": [[1]]}}, {"depth": {"scale_adjustment": ""}}],
)
def test_co3d_annotations_of_another_kind(tmp_path, change):
    raw = co3d.write(tmp_path / "raw")
    co3d.add(raw / "apple/frame_annotations.jgz", [co3d.annotation("1_2_3", 3, 3) | change])
    (skipped,) = run("co3d", raw, tmp_path / "out").skipped
    assert skipped[0] == "apple" and "are not those of Co3Dv2" in skipped[1]


def test_co3d_annotations_are_read_in_pieces(tmp_path, monkeypatch):
    entries = [{"name": f"ünï {i}", "list": [i, {"x": "],["}], "none": None} for i in range(20)]
    file = tmp_path / "annotations.jgz"
    for indent in (None, 2):
        file.write_bytes(gzip.compress(json.dumps(entries, ensure_ascii=False, indent=indent).encode()))
        for chunk in (1, 7, 1 << 16):
            monkeypatch.setattr(co3d_reader, "CHUNK", chunk)
            assert list(co3d_reader._annotations(file)) == entries


# MVImgNet


@pytest.mark.parametrize("where", ["7/0a1b2c3d", "data/mvi_00/7/0a1b2c3d"])
def test_mvimgnet_gives_the_shared_camera(tmp_path, where):
    scene = _scene("mvimgnet", mvimgnet.write(tmp_path / "raw", instance=where), tmp_path / "out")
    shared.assert_camera(scene.cameras)
    assert scene.description["source_frames"] == ["001.jpg", "002.jpg", "003.jpg"]
    assert scene.description["source_id"] == "7_0a1b2c3d" and scene.description["scale"] == "sfm"


def test_mvimgnet_with_a_pinhole_and_larger_files(tmp_path):
    raw = mvimgnet.write(tmp_path / "raw", model=1, parameters=(50, 50, 33, 23.5), scale=2)
    cameras = _scene("mvimgnet", raw, tmp_path / "out").cameras
    np.testing.assert_allclose(cameras.intrinsics[0], np.diag([2, 2, 1]) @ shared.intrinsics())
    np.testing.assert_array_equal(cameras.sizes[0], (96, 128))


def test_mvimgnet_pictures_are_undistorted(tmp_path):
    raw = mvimgnet.write(tmp_path / "raw", parameters=(50, 33, 23.5, 0.05))
    scene = _scene("mvimgnet", raw, tmp_path / "out")
    intrinsics = scene.cameras.intrinsics[0]
    left, top = (int(shared.CENTRE[axis] - intrinsics[axis, 2]) for axis in range(2))
    corner = np.s_[top + 1 : top + 9, left + 1 : left + 9]
    expected, distorted = (
        picture[corner].astype(float) for picture in (shared.picture(0), mvimgnet.distorted_picture(0, 0.05))
    )
    assert np.abs(scene.frames[0][1:9, 1:9] - expected).mean() < 2
    assert np.abs(distorted - expected).mean() > 6, "the lens shows"
    np.testing.assert_allclose(np.diag(intrinsics), (50, 50, 1))
    assert scene.description["first_camera"]["distortion"] == [0.05, 0, 0, 0]
    kept = _scene("mvimgnet", raw, tmp_path / "kept", undistort=False)
    shared.assert_camera(kept.cameras)


def test_mvimgnet_pictures_that_lie_on_their_side(tmp_path):
    raw = mvimgnet.write(tmp_path / "raw", camera_size=(64, 48))
    outcome = run("mvimgnet", raw, tmp_path / "out")
    assert "the picture is 64 x 48, its camera 48 x 64" in outcome.examples["picture or depth cannot be used"]
    assert not outcome.scenes


def test_mvimgnet_frames_without_a_picture_or_pose(tmp_path):
    raw = mvimgnet.write(tmp_path / "raw", frames=5)
    (raw / "7/0a1b2c3d/images/002.jpg").unlink()
    assert run("mvimgnet", raw, tmp_path / "missing").dropped == {"no picture": 1}
    images = raw / "7/0a1b2c3d/sparse/0/images.bin"
    images.write_bytes(mvimgnet.images_file([0, 1, 2], quaternion=(0, 0, 0, 0)))
    outcome = run("mvimgnet", raw, tmp_path / "zeros")
    assert outcome.dropped == {"no picture": 1, "pose is not a rotation with a translation": 2}


def test_mvimgnet_reconstructions_that_failed_are_skipped(tmp_path):
    raw = mvimgnet.write(tmp_path / "raw")
    for instance in ("empty", "other_lens", "cut"):
        shutil.copytree(raw / "7/0a1b2c3d", raw / "7" / instance)
    shutil.rmtree(raw / "7/empty/sparse/0")
    (raw / "7/other_lens/sparse/0/cameras.bin").write_bytes(mvimgnet.cameras_file(5, (50, 50, 33, 23.5, 0, 0, 0, 0)))
    _cut(raw / "7/cut/sparse/0/images.bin")
    outcome = run("mvimgnet", raw, tmp_path / "out")
    assert len(outcome.scenes) == 1
    reasons = dict(outcome.skipped)
    assert reasons["7_empty"] == "no cameras: the reconstruction failed (sparse/0 is empty)"
    assert "camera 1 is OPENCV_FISHEYE; undistort the pictures first" in reasons["7/other_lens"]
    assert "images.bin is cut short" in reasons["7/cut"]


@pytest.mark.parametrize(
    "model, parameters, focal, distortion",
    [
        (0, (50, 33, 23.5), (50, 50), (0, 0, 0, 0)),
        (1, (51, 52, 33, 23.5), (51, 52), (0, 0, 0, 0)),
        (2, (50, 33, 23.5, 0.1), (50, 50), (0.1, 0, 0, 0)),
        (3, (50, 33, 23.5, 0.1, 0.2), (50, 50), (0.1, 0.2, 0, 0)),
        (4, (51, 52, 33, 23.5, 0.1, 0.2, 0.3, 0.4), (51, 52), (0.1, 0.2, 0.3, 0.4)),
    ],
)
def test_colmap_camera_models(tmp_path, model, parameters, focal, distortion):
    file = tmp_path / "cameras.bin"
    content = mvimgnet.cameras_file(model, parameters)
    file.write_bytes(content)
    assert read_cameras(file) == {1: (focal, (33, 23.5), (48, 64), distortion)}
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"cameras\.bin is cut short"):
            read_cameras(file)


def test_colmap_images_that_are_cut_short(tmp_path):
    file = tmp_path / "images.bin"
    content = mvimgnet.images_file([2, 0])
    file.write_bytes(content)
    assert [(image.name, image.camera) for image in read_images(file)] == [("003.jpg", 1), ("001.jpg", 1)]
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"images\.bin is cut short"):
            read_images(file)


# WildRGB-D


def test_wildrgbd_gives_the_shared_camera(tmp_path):
    scene = _scene("wildrgbd", wildrgbd.write(tmp_path / "raw"), tmp_path / "out")
    shared.assert_camera(scene.cameras)
    _assert_depth(scene, 2)
    assert scene.description["source_id"] == "apple_scene_000" and scene.description["scale"] == "metric"


def test_wildrgbd_intrinsics_go_down_the_columns(tmp_path):
    raw = wildrgbd.write(tmp_path / "raw", intrinsics=(50, 0, 33, 0, 50, 23.5, 0, 0, 1))
    outcome = run("wildrgbd", raw, tmp_path / "out")
    assert not outcome.scenes
    assert "needs intrinsics [[fx, 0, cx], [0, fy, cy], [0, 0, 1]]" in outcome.skipped[0][1]


def test_wildrgbd_frames_without_a_picture_or_pose(tmp_path):
    raw = wildrgbd.write(tmp_path / "raw", frames=5)
    folder = raw / "apple/scenes/scene_000"
    (folder / "rgb/00003.png").unlink()
    _cut(folder / "depth/00002.png")
    _edit_lines(folder / "cam_poses.txt", {0: "4 " + "nan " * 16})
    outcome = run("wildrgbd", raw, tmp_path / "out")
    assert outcome.dropped == {
        "no picture": 1,
        "pose is not a rotation with a translation": 1,
        "picture or depth cannot be used": 1,
    }
    assert run("wildrgbd", raw, tmp_path / "out") == outcome, "read back from its record"
    scene = read_scene_folder(tmp_path / "out/wildrgbd/apple_scene_000")
    np.testing.assert_allclose(scene.cameras.c2w, [shared.c2w(0), shared.c2w(1)])


def test_wildrgbd_skips_bad_scenes_with_a_reason(tmp_path):
    raw = wildrgbd.write(tmp_path / "raw")
    wildrgbd.write(raw, scene="box/scenes/scene_257")
    for scene, content in (("scene_001", '{"w": 64'), ("scene_002", '{"w": 64, "h": 48, "K": [1, 2]}')):
        wildrgbd.write(raw, scene=f"box/scenes/{scene}")
        (raw / "box/scenes" / scene / "metadata").write_text(content)
    wildrgbd.write(raw, scene="box/scenes/scene_003")
    (raw / "box/scenes/scene_003/cam_poses.txt").unlink()
    outcome = run("wildrgbd", raw, tmp_path / "out")
    assert [scene["id"] for scene in outcome.scenes] == ["apple_scene_000"]
    reasons = dict(outcome.skipped)
    assert reasons["box_scene_257"] == "known to be bad"
    assert "is not JSON" in reasons["box/scene_001"]
    assert "the nine numbers of K" in reasons["box/scene_002"]
    assert "cam_poses.txt" in reasons["box/scene_003"]
