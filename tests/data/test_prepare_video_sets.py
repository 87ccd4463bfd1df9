"""Preparing RealEstate10K, ACID and DL3DV-10K: the known camera comes out of each, bad data stays out."""

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data.prepare.realestate10k import _Frames
from gen3r_jax.data.prepare.scenes import hashed_split
from gen3r_jax.data.video import Video
from gen3r_jax.errors import UserError
from tests.helpers.paths import REPOSITORY
from tests.helpers.raw_sets import acid, dl3dv, realestate10k, shared
from tests.helpers.raw_sets.prepared import PreparedScene, prepare_set, read_scene_folder, run

CLIP = "train/0000000000000001"
SCENE = f"1K/{dl3dv.HASH}"


def _scene(name: str, raw: Path, root: Path, **options) -> PreparedScene:
    (folder,) = prepare_set(name, raw, root, **options)
    return read_scene_folder(folder)


def _assert_scene(scene: PreparedScene) -> None:
    shared.assert_camera(scene.cameras)
    np.testing.assert_array_equal(scene.frames, [shared.picture(i) for i in range(3)])
    assert scene.depth is None and scene.description["scale"] == "sfm"


def _edit_rows(raw: Path, edit, clip: str = CLIP) -> None:
    """edit: changes the list of rows, each a list of words."""
    text = raw / f"{clip}.txt"
    address, *lines = text.read_text().splitlines()
    rows = [line.split() for line in lines]
    edit(rows)
    text.write_text("\n".join([address, *map(" ".join, rows)]) + "\n")


def _numbers(root: Path, outcome) -> list[list[int]]:
    """Which frames of the clip each scene has."""
    orders = [read_scene_folder(root / scene["id"]).description["order"] for scene in outcome.scenes]
    return [[round((time * 1e6 - realestate10k.FIRST) / realestate10k.STEP) for time in order] for order in orders]


# RealEstate10K


@pytest.mark.parametrize(("media", "start"), [("frames", 0), ("video", 0), ("video", 1_000_000)])
def test_realestate10k(tmp_path, media, start):
    """Stamps count from the first frame that a video shows, wherever its file begins."""
    scene = _scene("re10k", realestate10k.write(tmp_path / "raw", media=media, start=start), tmp_path / "out")
    _assert_scene(scene)
    assert scene.description["source_frames"] == ["1000000", "1033367", "1066734"]
    assert scene.description["group"] == "a_b-c" and scene.description["source_id"] == "0000000000000001"


def test_realestate10k_in_other_folders(tmp_path):
    """The archive's own folder; frames in a folder of their own."""
    raw = realestate10k.write(tmp_path / "raw")
    (raw / "RealEstate10K").mkdir()
    (raw / "frames" / "train").mkdir(parents=True)
    shutil.move(raw / CLIP, raw / "frames" / CLIP)
    shutil.move(raw / "train", raw / "RealEstate10K" / "train")
    _assert_scene(_scene("re10k", raw, tmp_path / "out"))


def test_realestate10k_has_its_own_split(tmp_path):
    for number in range(8):
        folder = ("train", "test", "validation")[number % 3]
        realestate10k.write(tmp_path / "raw", folder=folder, clip=f"{number:016x}", video=f"v{number}")
    outcome = run("re10k", tmp_path / "raw", tmp_path / "out")
    found = {scene["id"]: scene["split"] for scene in outcome.scenes}
    assert found == {f"{number:016x}": ("train", "test")[number % 3] for number in range(8) if number % 3 < 2}


@pytest.mark.parametrize("backwards", [False, True])
def test_a_video_frame_must_be_near_its_stamp(tmp_path, backwards):
    """A video whose frames are 8 ms and more away is another one; one frame is not taken twice."""
    raw = realestate10k.write(tmp_path / "raw", frames=8, media="video")

    def move(rows):  # the frame of row 5 is near to row 4 and nearer to its own, whichever comes first
        rows[1][0] = str(int(rows[1][0]) + realestate10k.LATE + 7900)
        rows[2][0] = str(int(rows[2][0]) + realestate10k.LATE + 8100)
        rows[4][0] = str(int(rows[5][0]) - 5000)
        rows.append(["99000000", *rows[0][1:]])
        if backwards:
            rows.reverse()

    _edit_rows(raw, move)
    outcome = run("re10k", raw, tmp_path / "out")
    assert outcome.dropped == {"no picture of its time": 3}
    scenes = [read_scene_folder(tmp_path / "out/re10k" / scene["id"]) for scene in outcome.scenes]
    for scene, numbers in zip(scenes, ((0, 1, 3), (5, 6, 7)), strict=True):
        np.testing.assert_array_equal(scene.frames, [shared.picture(i) for i in numbers])
        np.testing.assert_array_equal(scene.cameras.c2w, [shared.c2w(i) for i in numbers])


def test_video_frames_are_decoded_once(tmp_path, monkeypatch):
    realestate10k.write_video(tmp_path / "video.mp4", 30)
    video = Video(tmp_path / "video.mp4")
    opened, av_open = [], av.open
    monkeypatch.setattr(av, "open", lambda *names, **options: opened.append(names) or av_open(*names, **options))
    first = realestate10k.AROUND
    frames = _Frames(video, range(first, first + 30))
    for i in (0, 1, 2, 7, 8, 29):
        np.testing.assert_array_equal(frames.read(first + i), shared.picture(i))
    assert len(opened) == 1


def test_a_damaged_video_frame_is_lost_alone():
    decoded = SimpleNamespace(path="a.mp4", stream=lambda numbers: iter([(1, "one"), (3, "three")]))
    frames = _Frames(decoded, range(1, 5))
    assert frames.read(1) == "one"
    with pytest.raises(UserError, match=r"a\.mp4: frame 2 is damaged"):
        frames.read(2)
    assert frames.read(3) == "three"
    with pytest.raises(UserError, match="frame 4 is damaged"):
        frames.read(4)


def test_scenes_end_at_pauses_and_jumps(tmp_path):
    raw = realestate10k.write(tmp_path / "raw", frames=14)

    def edit(rows):
        for row in rows[9:]:  # a cut: from here on somewhere else
            row[-1] = str(float(row[-1]) - 40)
        rows[12][7] = "nan"
        del rows[4:6]

    _edit_rows(raw, edit)
    outcome = run("re10k", raw, tmp_path / "out")
    assert _numbers(tmp_path / "out/re10k", outcome) == [[0, 1, 2, 3], [6, 7, 8], [9, 10, 11]]
    assert outcome.skipped == [
        ("0000000000000001_c003", "fewer than 2 good frames (pose is not a rotation with a translation)")
    ]


def test_every_second_frame_is_no_pause(tmp_path):
    raw = realestate10k.write(tmp_path / "raw", frames=8)
    for i in range(1, 8, 2):
        (raw / CLIP / f"{realestate10k.FIRST + realestate10k.STEP * i}.png").unlink()
    outcome = run("re10k", raw, tmp_path / "out")
    assert _numbers(tmp_path / "out/re10k", outcome) == [[0, 2, 4, 6]]
    assert outcome.dropped == {"no picture of its time": 4}


def _reverse(rows):
    rows.reverse()


def _repeat(rows):
    rows.insert(1, list(rows[0]))


def _cut_short(rows):
    rows.append(rows[0][:5])


def _no_stamp(rows):
    rows.append(["nan", *rows[0][1:]])


@pytest.mark.parametrize(
    "edit, dropped",
    [
        (_reverse, {}),
        (_cut_short, {}),
        (_repeat, {"a second frame of the same time": 1}),
        (_no_stamp, {"no picture of its time": 1}),
    ],
)
@pytest.mark.parametrize("media", ["frames", "video"])
def test_odd_lists_give_the_same_scene(tmp_path, edit, dropped, media):
    raw = realestate10k.write(tmp_path / "raw", media=media)
    _edit_rows(raw, edit)
    outcome = run("re10k", raw, tmp_path / "out")
    assert outcome.dropped == dropped
    _assert_scene(read_scene_folder(tmp_path / "out/re10k" / outcome.scenes[0]["id"]))


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda text: shutil.rmtree(text.with_suffix("")), "neither its frames nor its video are there"),
        (lambda text: text.write_text(""), "does not begin with the address of a video"),
        (lambda text: text.write_text(text.read_text().split("\n", 1)[1]), "does not begin with the address"),
        (lambda text: text.write_text(text.read_text().split("\n")[0]), "its file lists no frames"),
        (lambda text: text.write_text(text.read_text().replace(" 0.78125 ", " ")), "has 18 columns instead of 19"),
        (lambda text: text.write_bytes(b"\xff\xfe\x00"), "is not UTF-8 text"),
        (lambda text: text.write_text(text.read_text().replace("33367", "00000").replace("66734", "00000")), "fewer"),
    ],
)
def test_a_clip_that_cannot_be_used_is_skipped(tmp_path, damage, reason):
    raw = realestate10k.write(tmp_path / "raw")
    realestate10k.write(raw, clip="0000000000000002", video="other")
    damage(raw / f"{CLIP}.txt")
    outcome = run("re10k", raw, tmp_path / "out")
    assert [scene["id"] for scene in outcome.scenes] == ["0000000000000002"]
    (skipped,) = outcome.skipped
    assert skipped[0] == "0000000000000001" and reason in skipped[1]


def test_an_unreadable_video_is_a_skipped_clip(tmp_path):
    raw = realestate10k.write(tmp_path / "raw", media="video")
    (raw / "videos" / "a_b-c.mp4").write_bytes(b"no video")
    (skipped,) = run("re10k", raw, tmp_path / "out").skipped
    assert "a_b-c.mp4" in skipped[1]


# pixelSplat's chunks of both

CHUNK = REPOSITORY / "tests/recorded/chunks/000000.torch"  # torch 2.14 wrote it, with two clips of the shared camera


@pytest.mark.parametrize(("name", "split"), [("re10k", "test"), ("acid", "test")])
def test_chunks_hold_clips_with_their_frames(name, split, tmp_path):
    (tmp_path / "raw" / split).mkdir(parents=True)
    shutil.copy(CHUNK, tmp_path / "raw" / split)
    outcome = run(name, tmp_path / "raw", tmp_path / "out")
    assert [scene["id"] for scene in outcome.scenes] == ["000000000000000a", "000000000000000b"]
    assert name == "acid" or all(scene["split"] == split for scene in outcome.scenes)
    scene = read_scene_folder(tmp_path / "out" / name / "000000000000000b")
    shared.assert_camera(scene.cameras)
    assert np.abs(scene.frames[2] - shared.picture(2).astype(int)).mean() < 6  # JPEG, as they were
    assert scene.description["group"] == "abc_b"


def rebuilt(pickled):
    """A file as torch.save writes it, of this pickle."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (rebuilt(pickle.dumps(os.system)), "names posix.system, which is no tensor"),
        (rebuilt(b"cbuiltins\neval\n(V1\ntR."), "names builtins.eval"),
        (rebuilt(pickle.dumps([{"key": "a"}])), "is no chunk of pixelSplat"),
        (rebuilt(b"")[:-5], "cannot read"),
        (CHUNK.read_bytes()[:9000], "cannot read"),
    ],
)
def test_chunks_that_are_none_run_nothing(content, reason, tmp_path):
    (tmp_path / "raw/train").mkdir(parents=True)
    (tmp_path / "raw/train/000000.torch").write_bytes(content)
    outcome = run("re10k", tmp_path / "raw", tmp_path / "out")
    assert not outcome.scenes and reason in outcome.skipped[0][1]


# ACID


def test_acid_clips_have_intrinsics_of_their_own_size(tmp_path):
    raw = acid.write(tmp_path / "raw")
    acid.write(raw, clip="0000000000000002", size=(48, 60))
    first, second = prepare_set("acid", raw, tmp_path / "out")
    _assert_scene(read_scene_folder(first))
    scene = read_scene_folder(second)
    np.testing.assert_array_equal(scene.cameras.sizes, [(48, 60)] * 3)
    expected = [[46.875, 0, 30.9375], [0, 50, 23.5], [0, 0, 1]]
    np.testing.assert_allclose(scene.cameras.intrinsics, [expected] * 3, rtol=1e-6)


def test_acid_splits_by_video(tmp_path):
    raw = tmp_path / "raw"
    for number in range(12):
        folder = ("train", "test", "validation")[number % 3]
        acid.write(raw, folder=folder, clip=f"{number // 3:016x}", video=f"video{number % 4}")
    acid.write(raw, clip="once", video="video0")
    outcome = run("acid", raw, tmp_path / "out")
    assert {scene["split"] for scene in outcome.scenes} <= {"train", "test"}
    assert all(scene["split"] == hashed_split(f"acid/{scene['group']}") for scene in outcome.scenes)
    ids = {scene["id"] for scene in outcome.scenes}
    assert len(ids) == 13 and {"once", "train_0000000000000000", "test_0000000000000000"} < ids


def test_a_picture_of_another_shape_is_dropped(tmp_path):
    raw = acid.write(tmp_path / "raw", frames=4)
    shared.write_picture(raw / "validation/0000000000000001/1100101.png", 3, size=(48, 60))
    outcome = run("acid", raw, tmp_path / "out")
    assert outcome.dropped == {"another size than most": 1}
    _assert_scene(read_scene_folder(tmp_path / "out/acid" / outcome.scenes[0]["id"]))


# DL3DV-10K


@pytest.mark.parametrize(
    "scene, pictures, shrunk, name",
    [
        (SCENE, "images_4", 4, f"1K_{dl3dv.HASH}"),
        (SCENE, "images_8", 8, f"1K_{dl3dv.HASH}"),
        (SCENE, "images_4", 2, f"1K_{dl3dv.HASH}"),  # filmed in 2K: half of what the folder's name says
        (f"{dl3dv.HASH}/nerfstudio", "images", 1, dl3dv.HASH),
        (f"DL3DV-ALL-960P/11K/{dl3dv.HASH}", "images_2", 2, f"11K_{dl3dv.HASH}"),
    ],
)
def test_dl3dv(tmp_path, scene, pictures, shrunk, name):
    raw = dl3dv.write(tmp_path / "raw", scene=scene, pictures=pictures, shrunk=shrunk)
    outcome = run("dl3dv", raw, tmp_path / "out")
    assert outcome.dropped == {"no picture": 1, "no pose": 1}
    prepared = read_scene_folder(tmp_path / "out/dl3dv" / name)
    _assert_scene(prepared)
    assert prepared.description["order"] == [1, 2, 3] and prepared.description["group"] == dl3dv.HASH


def test_dl3dv_takes_pictures_of_a_good_size(tmp_path):
    raw = dl3dv.write(tmp_path / "raw")
    shutil.copytree(raw / SCENE / "images_4", raw / SCENE / "images")
    (raw / SCENE / "images_8").mkdir()
    for image in (raw / SCENE / "images_4").iterdir():
        Image.open(image).resize((32, 24)).save(raw / SCENE / "images_8" / image.name)
    for image in (raw / SCENE / "images").iterdir():
        Image.open(image).resize((128, 96)).save(image)
    _assert_scene(_scene("dl3dv", raw, tmp_path / "out"))
    shutil.rmtree(raw / SCENE / "images_4")
    np.testing.assert_array_equal(_scene("dl3dv", raw, tmp_path / "again").cameras.sizes, [(96, 128)] * 3)


def _bend(picture: np.ndarray) -> float:
    """How far the drawn line is from a straight one, in pixels."""
    light = picture[..., 0].astype(float)
    rows = (light * (np.arange(len(light)) + 0.5)[:, None]).sum(0) / light.sum(0)
    columns = np.arange(len(rows))
    return np.abs(rows - np.polyval(np.polyfit(columns, rows, 1), columns)).max()


def test_dl3dv_lines_become_straight(tmp_path):
    raw = dl3dv.write(tmp_path / "raw", k1=0.05)
    for image in (raw / SCENE / "images_4").iterdir():
        dl3dv.draw_line(image, 0.05)
    bent = _scene("dl3dv", raw, tmp_path / "bent", undistort=False)
    original = np.array(Image.open(raw / SCENE / "images_4/frame_00001.png"))
    np.testing.assert_array_equal(bent.frames[0], original)
    np.testing.assert_allclose(bent.cameras.intrinsics[0], [[200, 0, 132], [0, 200, 94], [0, 0, 1]])
    assert _bend(bent.frames[0]) > 0.7
    straight = _scene("dl3dv", raw, tmp_path / "straight")
    assert _bend(straight.frames[0]) < 0.3
    light = straight.frames[0][..., 0].astype(float).sum(1)
    row = (light * (np.arange(len(light)) + 0.5)).sum() / light.sum()
    assert row == pytest.approx(straight.cameras.intrinsics[0, 1, 2] - 60, abs=0.1), "the line is where it was drawn"
    np.testing.assert_allclose(np.diagonal(straight.cameras.intrinsics[0]), (200, 200, 1))


def _edit_transforms(raw: Path, edit) -> None:
    path = raw / SCENE / "transforms.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_dl3dv_scenes_end_at_gaps(tmp_path):
    raw = dl3dv.write(tmp_path / "raw", frames=12)

    def edit(content):
        kept = [frame for frame in content["frames"] if int(frame["file_path"][-8:-4]) not in (3, 6, 7)]
        kept[1]["transform_matrix"][0][3] = float("nan")  # the last of them has no picture
        content["frames"] = kept

    _edit_transforms(raw, edit)
    outcome = run("dl3dv", raw, tmp_path / "out")
    orders = [read_scene_folder(tmp_path / "out/dl3dv" / scene["id"]).description["order"] for scene in outcome.scenes]
    assert orders == [[1, 2, 4, 5], [8, 9, 10, 11]]
    assert outcome.dropped == {"no picture": 1, "no pose": 4, "pose is not a rotation with a translation": 1}


@pytest.mark.parametrize(
    "damage, reason",
    [
        (lambda folder: (folder / "transforms.json").unlink(), "no transforms.json"),
        (lambda folder: (folder / "transforms.json").write_text('{"w": 256, '), "is not JSON"),
        (lambda folder: (folder / "transforms.json").write_text("[]"), "holds no JSON object"),
        (lambda folder: (folder / "transforms.json").write_text('{"frames": [{}]}'), "frame 0 lacks w, h, fl_x"),
        (lambda folder: shutil.rmtree(folder / "images_4"), "no pictures (images_4, images_2, images, images_8)"),
        (lambda folder: folder.rename(folder.parents[1] / "problem" / folder.name), "of the batch of problems"),
    ],
)
def test_a_dl3dv_scene_that_cannot_be_used_is_skipped(tmp_path, damage, reason):
    raw = dl3dv.write(tmp_path / "raw")
    dl3dv.write(raw, scene=f"2K/{'f' * 64}")
    (raw / "problem").mkdir()
    damage(raw / SCENE)
    outcome = run("dl3dv", raw, tmp_path / "out")
    assert [scene["id"] for scene in outcome.scenes] == [f"2K_{'f' * 64}"]
    (skipped,) = outcome.skipped
    assert dl3dv.HASH in skipped[0] and reason in skipped[1]


def test_dl3dv_with_another_lens_is_skipped(tmp_path):
    raw = dl3dv.write(tmp_path / "raw")
    _edit_transforms(raw, lambda content: content.update(camera_model="OPENCV_FISHEYE"))
    (skipped,) = run("dl3dv", raw, tmp_path / "out").skipped
    assert "its camera is no pinhole (OPENCV_FISHEYE)" in skipped[1]


def test_dl3dv_is_given_once(tmp_path):
    raw = dl3dv.write(tmp_path / "raw")
    dl3dv.write(raw, scene=f"{dl3dv.HASH}/nerfstudio")
    with pytest.raises(UserError, match="more than once; give one copy of DL3DV-10K"):
        run("dl3dv", raw, tmp_path / "out")
