"""Preparing data sets: what all sets share, tried on Virtual KITTI 2."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data.format import find_scenes
from gen3r_jax.data.images import read_image
from gen3r_jax.data.prepare import run as running
from gen3r_jax.data.prepare.__main__ import main as prepare_main
from gen3r_jax.data.prepare.__main__ import summary
from gen3r_jax.data.prepare.frames import Developing, develop
from gen3r_jax.data.prepare.recording import RawFrame, Recording
from gen3r_jax.data.prepare.registry import NAMES, data_set
from gen3r_jax.data.prepare.scenes import GUARD_FRAMES, hashed_split, rigid, write_recording
from gen3r_jax.errors import UserError
from gen3r_jax.storage.locks import locked
from tests.helpers.raw_sets import shared, vkitti
from tests.helpers.raw_sets.prepared import prepare_set, read_scene_folder, run, short


def test_the_shared_camera_comes_out(tmp_path):
    scene = read_scene_folder(prepare_set("vkitti", vkitti.write(tmp_path / "raw"), tmp_path / "out")[0])
    shared.assert_camera(scene.cameras)
    np.testing.assert_allclose(scene.depth[:, 1, 1], [2.0, 1.5, 1.0], rtol=1e-3)
    assert (scene.depth[:, 0, 0] == 0).all(), "the sky has no depth"
    assert scene.description["scale"] == "metric"


def test_without_the_half_pixel(tmp_path):
    raw = vkitti.write(tmp_path / "raw", archives=True)
    scene = read_scene_folder(prepare_set("vkitti", raw, tmp_path / "out", half_pixel=False)[0])
    np.testing.assert_allclose(scene.cameras.intrinsics[0, :2, 2], (32.5, 23.0))


def test_the_second_camera(tmp_path):
    raw = vkitti.write(tmp_path / "raw")
    scene = read_scene_folder(prepare_set("vkitti", raw, tmp_path / "out", cameras=("1",))[0])
    np.testing.assert_allclose(scene.cameras.c2w[0, :3, 3], (1, 2, 3 - 0.5327), atol=1e-6)


def test_jpeg_files_are_taken_as_they_are(tmp_path):
    raw = vkitti.write(tmp_path / "raw")
    folder = prepare_set("vkitti", raw, tmp_path / "out")[0]
    written = (folder / "images" / "frame_00000.jpg").read_bytes()
    assert written == (raw / "Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg").read_bytes()


def test_all_conditions_of_a_place_are_in_one_split(tmp_path):
    raw = tmp_path / "raw"
    for condition in ("Scene01/clone", "Scene01/fog", "Scene02/rain"):
        vkitti.write(raw, condition=condition)
    outcome = run("vkitti", raw, tmp_path / "out")
    splits = {scene["group"]: set() for scene in outcome.scenes}
    for scene in outcome.scenes:
        splits[scene["group"]].add(scene["split"])
    assert sorted(splits) == ["Scene01/c0", "Scene02/c0"]
    assert all(len(found) == 1 for found in splits.values())


# What all recordings go through, whatever set they come from.


def _frame(index: float, **changes) -> RawFrame:
    frame = RawFrame(f"f{index}", index, partial(shared.picture, index), shared.c2w(index), shared.FOCAL, shared.CENTRE)
    return replace(frame, **changes)


def _write(tmp_path: Path, frames: list[RawFrame], *, set_changes=None, how=None, **recording):
    chosen = replace(short("vkitti"), **{"chunk_frames": 0, "split_by_chunk": False} | (set_changes or {}))
    how = how or Developing(format="png")
    outcome = write_recording(
        Recording("clip", "video", frames, **recording), chosen, how, "all", tmp_path / "out", tmp_path / "scratch"
    )
    assert not (tmp_path / "scratch").exists()
    return outcome, [read_scene_folder(tmp_path / "out" / scene["id"]) for scene in outcome.scenes]


def _raise() -> bytes:
    raise UserError("the video is cut short")


def _turned(pose: np.ndarray, error: float) -> np.ndarray:
    result = pose.copy()
    result[:3, 0] *= 1 + error
    return result


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"c2w": np.full((4, 4), np.nan)}, "pose is not a rotation with a translation"),
        ({"c2w": np.diag([1.0, 1.0, -1.0, 1.0])}, "pose is not a rotation with a translation"),
        ({"c2w": _turned(shared.c2w(1), 0.05)}, "pose is not a rotation with a translation"),
        ({"focal": (0.0, 50.0)}, "focal length or size is not a number above 0"),
        ({"focal": (float("nan"), 50.0)}, "focal length or size is not a number above 0"),
        ({"size": (0, 64)}, "focal length or size is not a number above 0"),
        ({"centre": (70.0, 20.0)}, "picture or depth cannot be used"),
        ({"image": Path("not there.png")}, "picture or depth cannot be used"),
        ({"image": lambda: b"\x89PNG cut short"}, "picture or depth cannot be used"),
        ({"image": _raise}, "picture or depth cannot be used"),
        ({"depth": lambda: np.ones((3, 3))}, "picture or depth cannot be used"),
        ({"size": (64, 48)}, "picture or depth cannot be used"),
        ({"image": lambda: shared.picture(1, (40, 64))}, "another size than most"),
        ({"order": 0}, "a second frame of the same time"),
    ],
)
def test_a_bad_frame_is_dropped_with_a_reason(tmp_path, changes, reason):
    outcome, scenes = _write(tmp_path, [_frame(0), _frame(1, **changes), _frame(2)])
    assert outcome.dropped == {reason: 1}
    assert "f1" in outcome.examples[reason]
    np.testing.assert_array_equal(scenes[0].cameras.c2w, [shared.c2w(0), shared.c2w(2)])
    np.testing.assert_array_equal(scenes[0].frames[1], shared.picture(2))
    assert scenes[0].description["source_frames"] == ["f0", "f2"]


@pytest.mark.parametrize("fits_as_shown", [False, True])
def test_pictures_with_poses_stay_as_they_are_stored(tmp_path, fits_as_shown):
    """Unless their camera's size says that poses are of the shown ones; what is written carries no EXIF tag."""
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = 6
    picture = np.rot90(shared.picture(1)) if fits_as_shown else shared.picture(1)
    Image.fromarray(picture).save(buffer, "JPEG", quality=100, subsampling=0, exif=exif)
    _, scenes = _write(tmp_path, [_frame(0), _frame(1, image=buffer.getvalue, size=shared.SIZE), _frame(2)])
    assert np.abs(scenes[0].frames[1].astype(int) - shared.picture(1)).max() < 12


def test_frames_are_put_in_the_order_of_time(tmp_path):
    _, scenes = _write(tmp_path, [_frame(2), _frame(0), _frame(1)])
    shared.assert_camera(scenes[0].cameras)


def test_a_rotation_that_is_nearly_one_is_made_one(tmp_path):
    _, scenes = _write(tmp_path, [_frame(0, c2w=_turned(shared.c2w(0), 0.003)), _frame(1), _frame(2)])
    rotation = scenes[0].cameras.c2w[0, :3, :3]
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(3), atol=1e-9)
    assert rigid(shared.c2w(0)) is not None


def test_nothing_good_is_a_skipped_scene(tmp_path):
    outcome, scenes = _write(tmp_path, [_frame(i, c2w=np.zeros((4, 4))) for i in range(3)])
    assert not scenes
    assert outcome.skipped == [("clip", "no good frame (pose is not a rotation with a translation)")]


def test_scenes_end_at_gaps_and_at_the_longest(tmp_path):
    frames = [_frame(i / 10, order=i) for i in (0, 1, 2, 3, 4, 8, 9, 20)]
    outcome, scenes = _write(
        tmp_path, frames, continues=lambda a, b: b.order - a.order == 1, set_changes={"chunk_frames": 4}
    )
    assert [scene["id"] for scene in outcome.scenes] == ["clip_c000", "clip_c001", "clip_c002"]
    assert [scene.description["order"] for scene in scenes] == [[0, 1], [2, 3, 4], [8, 9]]
    assert outcome.skipped == [("clip_c003", "fewer than 2 good frames")]
    assert "1 scenes: fewer than 2 good frames; the longest has 1 (first: clip_c003)" in summary(outcome, tmp_path)


def test_a_camera_that_stands_still_makes_no_scene(tmp_path):
    outcome, _ = _write(tmp_path, [_frame(i, c2w=shared.c2w(0)) for i in range(3)], set_changes={"min_path": 2.0})
    assert outcome.skipped == [("clip", "the camera moves less than 2")]


def test_a_gap_between_train_and_test_parts_of_a_drive(tmp_path):
    """Parts of one drive go to both splits; frames beside a test part are in neither."""
    longest = 2 * GUARD_FRAMES + 4
    parts = 14
    name = next(
        f"drive{i}" for i in range(1000)
        if [hashed_split(f"vkitti/6/drive{i}/c{c}") for c in range(4)] == ["train", "test", "train", "train"]
    )  # fmt: skip
    picture = shared.picture(0)
    frames = [_frame(i, image=lambda: picture) for i in range(3 * longest)]
    chosen = replace(short("vkitti"), chunk_frames=longest)
    outcome = write_recording(
        Recording(name, name, frames), chosen, Developing(), "all", tmp_path / "out", tmp_path / "scratch"
    )
    ranges = {}
    for scene in outcome.scenes:
        order = read_scene_folder(tmp_path / "out" / scene["id"]).description["order"]
        ranges[scene["split"], scene["id"][-4:]] = (order[0], order[-1])
    assert ranges == {
        ("train", "c000"): (0, longest - GUARD_FRAMES - 1),
        ("test", "c001"): (longest, 2 * longest - 1),
        ("train", "c002"): (2 * longest + GUARD_FRAMES, 3 * longest - 1),
    }, parts


def test_a_flat_picture_stays_flat_to_its_edges_when_it_is_undistorted():
    flat = np.full((270, 480, 3), 200, np.uint8)
    lens = {"image": lambda: flat, "focal": (400.0, 400.0), "centre": (240.0, 135.0), "size": (270, 480)}
    developed = develop(_frame(0, **lens, distortion=(0.05, 0.0, 0.0, 0.0)), Developing(format="png"))
    assert (read_image(developed.encoded) == 200).all()


def test_about_one_group_in_ten_is_for_tests():
    tests = sum(hashed_split(f"set/{i}") == "test" for i in range(5000))
    assert 430 < tests < 570


# Developing a frame


def test_intrinsics_are_scaled_to_the_file_axis_by_axis():
    frame = _frame(0, size=(96, 128), focal=(100.0, 100.0), centre=(66.0, 47.0))
    np.testing.assert_allclose(develop(frame, Developing()).intrinsics, shared.intrinsics())
    normalised = _frame(0, size=(1, 1), focal=(50 / 64, 50 / 48), centre=(33 / 64, 23.5 / 48))
    np.testing.assert_allclose(develop(normalised, Developing()).intrinsics, shared.intrinsics())


def test_scaling_down_moves_no_point():
    """A point keeps its place relative to the picture; depth keeps its values."""
    frame = _frame(0, depth=partial(shared.depth, 0))
    developed = develop(frame, Developing(short_side=24))
    assert developed.size == (24, 32) and developed.depth.shape == (24, 32)
    np.testing.assert_allclose(developed.intrinsics, np.diag([0.5, 0.5, 1]) @ shared.intrinsics())
    assert set(np.unique(developed.depth)) == {2.0}


def test_undistorting_is_the_inverse_of_the_lens():
    """A distorted picture of the plane, undistorted, is what a pinhole sees of it."""
    k1, (height, width) = -0.1, shared.SIZE
    y, x = np.meshgrid(np.arange(height) + 0.5, np.arange(width) + 0.5, indexing="ij")
    u, v = (x - shared.CENTRE[0]) / 50, (y - shared.CENTRE[1]) / 50
    undistorted_u, undistorted_v = u, v
    for _ in range(30):  # the lens, solved for the ray of each pixel
        factor = 1 + k1 * (undistorted_u**2 + undistorted_v**2)
        undistorted_u, undistorted_v = u / factor, v / factor
    distorted = shared.paint(2 * undistorted_u, 2 * undistorted_v)
    developed = develop(_frame(0, image=lambda: distorted, distortion=(k1, 0.0, 0.0, 0.0)), Developing(format="png"))
    from gen3r_jax.data.images import read_image

    result = read_image(developed.encoded).astype(float)
    left, top = shared.CENTRE[0] - developed.intrinsics[0, 2], shared.CENTRE[1] - developed.intrinsics[1, 2]
    expected = shared.picture(0)[int(top) : int(top) + developed.size[0], int(left) : int(left) + developed.size[1]]
    assert np.abs(result - expected)[1:-1, 1:-1].mean() < 1.5
    assert np.abs(distorted.astype(float) - shared.picture(0)).mean() > 4, "the lens shows"
    kept = develop(_frame(0, image=lambda: distorted, distortion=(k1, 0, 0, 0)), Developing(undistort=False))
    assert kept.size == shared.SIZE


# Runs: lists, rerun, kill, bad input


def _lists(root: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(root.glob("*.txt"))}


def test_lists_are_parallel_and_found_by_the_loader(tmp_path):
    for condition in ("Scene01/clone", "Scene02/clone", "Scene06/fog", "Scene18/rain", "Scene20/clone"):
        vkitti.write(tmp_path / "raw", condition=condition)
    outcome = run("vkitti", tmp_path / "raw", tmp_path / "out")
    for root in (tmp_path / "out", tmp_path / "out" / "vkitti"):
        found = {split: find_scenes(root, split, cameras=True) for split in ("train", "test")}
        assert sum(map(len, found.values())) == len(outcome.scenes) == 5
        for scene in (*found["train"], *found["test"]):
            assert scene.cameras.exists() and scene.images.is_dir() and scene.captions.exists()
    catalogue = [json.loads(line) for line in (tmp_path / "out/vkitti/scenes.jsonl").read_text().splitlines()]
    assert sorted(catalogue, key=lambda s: s["id"]) == sorted(outcome.scenes, key=lambda s: s["id"])


def test_evaluation_lists_are_the_same_choice_everywhere(tmp_path):
    scenes = [{"id": f"scene{i}", "frames": 49 + i % 2 - 2 * (i % 5 == 0)} for i in range(1000)]
    chosen = running._evaluation_subset("re10k", scenes)
    assert len(chosen) == 200 and chosen == running._evaluation_subset("re10k", scenes[::-1])
    assert not {f"scene{i}" for i in range(0, 1000, 10)} & set(chosen), "too short for a clip"


COMMAND = [sys.executable, "-m", "gen3r_jax", "prepare", "vkitti"]


def _run_command(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)


def _files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_killed_and_run_again_gives_the_same_as_in_one_go(tmp_path):
    for condition in ("clone", "fog", "rain", "sunset", "morning", "overcast"):
        vkitti.write(tmp_path / "raw", condition=f"Scene01/{condition}", frames=12)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = _run_command("--source", tmp_path / "raw", "--output", whole, "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert "6 scenes" in done.stdout
    arguments = ["--source", str(tmp_path / "raw"), "--output", str(killed)]
    process = subprocess.Popen([*COMMAND, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    records = killed / "vkitti" / ".prepared"
    while len(list(records.glob("*.jsonl"))) < 2:
        assert process.poll() is None, "it was too fast to be killed"
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(list(records.glob("*.jsonl"))) < 6, "it was too fast to be killed"
    assert not list(killed.rglob("train_*.txt")), "nothing is listed before the end"
    # As if it had been killed between the scene's folder and its record, and inside a scene.
    last = sorted(records.glob("*.jsonl"))[0]
    last.unlink()
    (killed / "vkitti" / ".partial" / "rest").mkdir(parents=True, exist_ok=True)
    assert _run_command(*arguments).returncode == 0
    assert _files(killed) == _files(whole)


def test_a_run_goes_on_where_it_was(tmp_path, monkeypatch):
    for condition in ("clone", "fog"):
        vkitti.write(tmp_path / "raw", condition=f"Scene01/{condition}")
    first = run("vkitti", tmp_path / "raw", tmp_path / "out")
    monkeypatch.setattr(running, "write_recording", None)  # nothing is left to do
    again = run("vkitti", tmp_path / "raw", tmp_path / "out")
    assert again.scenes == first.scenes
    with pytest.raises(UserError, match="prepared with other settings"):
        run("vkitti", tmp_path / "raw", tmp_path / "out", short_side=20)


def test_what_was_missing_is_looked_for_again(tmp_path):
    vkitti.write(tmp_path / "raw", condition="Scene01/clone")
    pictures = tmp_path / "raw" / "Scene01" / "clone" / "frames" / "rgb"
    pictures.rename(tmp_path / "later")
    assert not run("vkitti", tmp_path / "raw", tmp_path / "out").scenes
    (tmp_path / "later").rename(pictures)
    assert len(run("vkitti", tmp_path / "raw", tmp_path / "out").scenes) == 1


def test_captions_survive_another_run(tmp_path):
    vkitti.write(tmp_path / "raw", condition="Scene01/clone")
    (scene,) = prepare_set("vkitti", tmp_path / "raw", tmp_path / "out")
    (scene / "captions.txt").write_text("A street.\n")
    (record,) = (tmp_path / "out" / "vkitti" / ".prepared").glob("*.jsonl")
    record.unlink()
    assert prepare_set("vkitti", tmp_path / "raw", tmp_path / "out") == [scene]
    assert (scene / "captions.txt").read_text() == "A street.\n"


def test_two_runs_of_one_set_do_not_meet(tmp_path):
    vkitti.write(tmp_path / "raw", condition="Scene01/clone")
    run("vkitti", tmp_path / "raw", tmp_path / "out")
    lock = tmp_path / "out" / "vkitti" / ".gen3r.lock"
    with locked(lock, "this set"), pytest.raises(UserError, match=rf"vkitti is in use by .*process {os.getpid()} on"):
        run("vkitti", tmp_path / "raw", tmp_path / "out")


def test_a_damaged_record_is_named(tmp_path):
    vkitti.write(tmp_path / "raw", condition="Scene01/clone")
    run("vkitti", tmp_path / "raw", tmp_path / "out")
    (record,) = (tmp_path / "out" / "vkitti" / ".prepared").glob("*.jsonl")
    record.write_text("{}\n")
    with pytest.raises(UserError, match=f"{record.name} is damaged; delete it"):
        run("vkitti", tmp_path / "raw", tmp_path / "out")


def test_the_parts_of_virtual_kitti_for_tests_are_about_a_tenth():
    lengths = {"Scene01": 447, "Scene02": 233, "Scene06": 270, "Scene18": 339, "Scene20": 837}  # of the real set
    chosen, tests = data_set("vkitti"), 0
    for drive, length in lengths.items():
        for part, first in enumerate(range(0, length, chosen.chunk_frames)):
            if hashed_split(f"vkitti/{chosen.split_salt}/{drive}/c{part}") == "test":
                tests += min(chosen.chunk_frames, length - first)
    assert tests / sum(lengths.values()) == pytest.approx(0.1, abs=0.02)


def test_a_full_disk_stops_the_run(tmp_path):
    """RLIMIT_FSIZE stands in for the disk."""
    vkitti.write(tmp_path / "raw", frames=12)
    script = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600));"
        "from gen3r_jax.__main__ import command; command()"
    )
    arguments = ["prepare", "vkitti", "--source", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("error: cannot write to"), done.stderr
    assert not list((tmp_path / "out").rglob("transforms.json"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path):
    vkitti.write(tmp_path / "raw")
    (tmp_path / "out").mkdir(mode=0o500)
    with pytest.raises(UserError, match="cannot write to"):
        run("vkitti", tmp_path / "raw", tmp_path / "out")


def test_bad_input_is_one_line(tmp_path, monkeypatch):
    vkitti.write(tmp_path / "raw")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for arguments, message in (
        (("--source", tmp_path / "empty"), "does not look like Virtual KITTI 2: looked for Scene"),
        (("--source", tmp_path / "none"), "is not a folder"),
        (("--source", tmp_path / "raw", "--cameras", "2"), "has no camera '2'; there are 0, 1"),
        (("--source", tmp_path / "raw", "--workers", "0"), "--workers must be at least 1"),
        (("--source", tmp_path / "raw", "--output", tmp_path / "file"), "cannot write to"),
        (("--source", tmp_path / "raw"), "no scene of"),  # three frames are too few
    ):
        monkeypatch.setattr(sys, "argv", ["prepare", *map(str, ("vkitti", "--output", tmp_path / "out", *arguments))])
        with pytest.raises((UserError, OSError)) as error:
            prepare_main()
        assert message in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(UserError, match=r"no data set 'kitti'; there are re10k \(RealEstate10K\)"):
        data_set("kitti")


@pytest.mark.parametrize("name", NAMES)
def test_sets_are_found_by_both_names(name):
    chosen = data_set(name)
    assert chosen.name == name
    assert data_set(chosen.title.upper()) is chosen


def test_a_frame_without_depth_among_others_knows_nothing(tmp_path):
    frames = [_frame(i, depth=partial(shared.depth, i) if i else None) for i in range(3)]
    _, scenes = _write(tmp_path, frames)
    np.testing.assert_allclose(scenes[0].depth[:, 5, 5], [0, 1.5, 1], rtol=1e-3)
    assert scenes[0].description["depth"]
