"""KITTI-360 and Waymo Open."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from gen3r_jax.data.prepare import run as running
from gen3r_jax.data.prepare.frames import Developing
from gen3r_jax.data.prepare.recording import ReadOptions
from gen3r_jax.data.prepare.registry import data_set
from gen3r_jax.errors import UserError
from tests.helpers.raw_sets import kitti360, shared, waymo
from tests.helpers.raw_sets.prepared import prepare_set, read_scene_folder, run

NO_ROTATION = "pose is not a rotation with a translation"


def _prepare(chosen, raw: Path, root: Path, split: str = "all"):
    """With the set's own limits where :func:`run` has lower ones."""
    settings = running.Settings(ReadOptions(chosen.cameras[:1]), Developing(), split)
    return running.prepare(chosen, raw, root, settings, quiet=True)


# KITTI-360

POSES = f"data_poses/{kitti360.DRIVE}"
PICTURES = f"data_2d_raw/{kitti360.DRIVE}/image_00/data_rect"


def _edit_rows(file: Path, edit) -> None:
    rows = [row.split() for row in file.read_text().splitlines()]
    file.write_text("\n".join(" ".join(map(str, row)) for row in edit(rows)) + "\n")


@pytest.mark.parametrize("columns", (17, 13))
def test_kitti360_gives_the_shared_camera(tmp_path, columns):
    outcome = run("kitti360", kitti360.write(tmp_path / "raw", columns=columns), tmp_path / "out")
    (scene,) = outcome.scenes
    assert scene["id"] == "0000_cam0_c000" and scene["group"] == "0000/c0"
    assert outcome.dropped == {"no pose": 7}
    prepared = read_scene_folder(tmp_path / "out/kitti360" / scene["id"])
    shared.assert_camera(prepared.cameras)
    assert prepared.description["order"] == [5, 6, 9] and prepared.description["scale"] == "metric"
    for i, frame in enumerate(prepared.frames):
        np.testing.assert_array_equal(frame, shared.picture(i))


@pytest.mark.parametrize("degrees", (0.0, 2.0))
def test_kitti360_by_the_poses_of_the_car(tmp_path, degrees):
    raw = kitti360.write(tmp_path / "raw", cam0_to_world=False, rectify_degrees=(degrees, 0.0))
    shared.assert_camera(read_scene_folder(prepare_set("kitti360", raw, tmp_path / "out")[0]).cameras)


def test_kitti360_rectification_as_worked_out_by_hand(tmp_path):
    """Where the pictures are turned by 2 degrees, this pose of the car puts camera 00 at the shared camera's place."""
    raw = kitti360.write(tmp_path / "raw", cam0_to_world=False)
    calibration = raw / "calibration"
    text = (calibration / "perspective.txt").read_text()
    turned = "R_rect_00: 0.9993908 0 0.0348995 0 1 0 -0.0348995 0 0.9993908"
    lines = [turned if line.startswith("R_rect_00") else line for line in text.splitlines()]
    (calibration / "perspective.txt").write_text("\n".join(lines))
    car = (0.9993908, -0.0348995, 0, -0.5095561, 0, 0, 1, 3, -0.0348995, -0.9993908, 0, 2.752532)
    _edit_rows(raw / POSES / "poses.txt", lambda rows: [
        [row[0], *car[:3], car[3] + 0.5 * i, *car[4:]] for i, row in enumerate(rows)
    ])  # fmt: skip
    cameras = read_scene_folder(prepare_set("kitti360", raw, tmp_path / "out")[0]).cameras
    np.testing.assert_allclose(cameras.c2w, [shared.c2w(i) for i in range(3)], atol=1e-6)


def test_kitti360_the_second_camera(tmp_path):
    """Its pictures are rectified to look where those of camera 00 look, from the baseline further right."""
    outcome = run("kitti360", kitti360.write(tmp_path / "raw"), tmp_path / "out", cameras=("00", "01"))
    assert [scene["id"] for scene in outcome.scenes] == ["0000_cam0_c000", "0000_cam1_c000"]
    assert len({scene["split"] for scene in outcome.scenes}) == 1, "both cameras show the same"
    cameras = read_scene_folder(tmp_path / "out/kitti360/0000_cam1_c000").cameras
    expected = np.stack([shared.c2w(i) for i in range(3)])
    expected[:, 2, 3] -= kitti360.BASELINE
    np.testing.assert_allclose(cameras.c2w, expected, atol=1e-6)
    np.testing.assert_allclose(cameras.intrinsics[0], shared.intrinsics())


def test_kitti360_rows_out_of_order_and_frames_that_cannot_be_used(tmp_path):
    raw = kitti360.write(tmp_path / "raw", frames=6)
    (raw / PICTURES / "0000000006.png").unlink()
    picture = raw / PICTURES / "0000000012.png"
    picture.write_bytes(picture.read_bytes()[:200])

    def edit(rows):
        rows[3][4] = "nan"
        return [*rows[::-1], rows[0][:9]]  # the last line is cut short

    _edit_rows(raw / POSES / "cam0_to_world.txt", edit)
    outcome = run("kitti360", raw, tmp_path / "out")
    assert outcome.dropped == {"no pose": 7, "no picture": 1, NO_ROTATION: 1, "picture or depth cannot be used": 1}
    scene = read_scene_folder(tmp_path / "out/kitti360" / outcome.scenes[0]["id"])
    assert scene.description["order"] == [5, 9, 11]
    np.testing.assert_allclose(scene.cameras.c2w, [shared.c2w(i) for i in (0, 2, 4)], atol=1e-6)


def test_kitti360_scenes_end_where_the_car_jumps_or_rests(tmp_path):
    raw = kitti360.write(tmp_path / "raw", frames=9)
    kept = [5, 6, 9, 10, 11, 12, 13, 14, 15]

    def edit(rows):
        for row in rows[3:]:
            row[4] = float(row[4]) + 1.5  # 2 metres from the one before: four steps
        for row in rows[6:]:
            name = f"{int(row[0]):010d}.png"
            row[0] = int(row[0]) + 50  # the car stands for as many frames
            (raw / PICTURES / name).rename(raw / PICTURES / f"{row[0]:010d}.png")
        return rows

    _edit_rows(raw / POSES / "cam0_to_world.txt", edit)
    outcome = run("kitti360", raw, tmp_path / "out")
    assert [scene["id"] for scene in outcome.scenes] == ["0000_cam0_c000", "0000_cam0_c000_1", "0000_cam0_c000_2"]
    orders = [read_scene_folder(tmp_path / "out/kitti360" / s["id"]).description["order"] for s in outcome.scenes]
    assert orders == [kept[:3], kept[3:6], [63, 64, 65]]
    assert len({scene["group"] for scene in outcome.scenes}) == 1, "stretches of a part are in one split"


def test_kitti360_drives_that_cannot_be_used_are_skipped_with_a_reason(tmp_path):
    raw = tmp_path / "raw" / "KITTI-360"
    drives = {number: f"2013_05_28_drive_{number}_sync" for number in ("0000", "0008", "0009", "0010")}
    for drive in drives.values():
        kitti360.write(raw, drive=drive)
    for file in ("cam0_to_world.txt", "poses.txt"):
        (raw / "data_poses" / drives["0008"] / file).unlink()
    (raw / "data_poses" / drives["0009"] / "cam0_to_world.txt").write_text("5 1 2 3\n")
    for picture in (raw / "data_2d_raw" / drives["0010"]).rglob("*.png"):
        picture.unlink()
    outcome = run("kitti360", tmp_path / "raw", tmp_path / "out")
    assert [scene["id"] for scene in outcome.scenes] == ["0000_cam0_c000"]
    skipped = dict(outcome.skipped)
    assert skipped["0008_cam0"] == f"no poses in data_poses/{drives['0008']}"
    assert skipped["0009"].endswith("the first line has 4 columns instead of 13 or 17")
    assert skipped["0010_cam0"] == "no pictures in image_00/data_rect"


@pytest.mark.parametrize(
    "edit, reason",
    [
        (lambda text: text.replace("S_rect_00", "S_left"), "has no line S_rect_00"),
        (lambda text: text.replace("S_rect_00: 64 48", "S_rect_00: 64"), "S_rect_00 is not 2 numbers"),
    ],
)
def test_kitti360_damaged_calibration(tmp_path, edit, reason):
    raw = kitti360.write(tmp_path / "raw")
    file = raw / "calibration/perspective.txt"
    file.write_text(edit(file.read_text()))
    ((_, found),) = run("kitti360", raw, tmp_path / "out").skipped
    assert found == f"{file} {reason}" or found == f"{file}: {reason}"


# Waymo Open

BOTH = pytest.mark.parametrize("container", ("tfrecord", "parquet"))


def _file(raw: Path) -> Path:
    """The file with the pictures."""
    return next(iter([*raw.rglob("*.tfrecord"), *raw.rglob("camera_image/*.parquet")]))


@BOTH
def test_waymo_gives_the_known_camera(tmp_path, container):
    """By the pose of each picture, not by that of its frame; in the order of time, from shuffled rows."""
    raw = waymo.write(tmp_path / "raw", container=container)
    outcome = run("waymo", raw, tmp_path / "out")
    (scene,) = outcome.scenes
    assert scene["id"] == f"{waymo.SEGMENT}_front_c000" and scene["group"] == waymo.SEGMENT
    assert not outcome.dropped and not outcome.skipped
    prepared = read_scene_folder(tmp_path / "out/waymo" / scene["id"])
    np.testing.assert_allclose(prepared.cameras.c2w, [waymo.c2w(i) for i in range(3)], atol=1e-6)
    np.testing.assert_allclose(prepared.cameras.intrinsics, [shared.intrinsics()] * 3, rtol=1e-6)
    np.testing.assert_allclose(np.diff(prepared.description["order"]), 0.1, atol=1e-5)
    for i in range(3):
        file = tmp_path / "out/waymo" / scene["id"] / f"images/frame_{i:05d}.jpg"
        assert file.read_bytes() == waymo._jpeg(i)


@BOTH
def test_waymo_turned_to_the_left(tmp_path, container):
    raw = waymo.write(tmp_path / "raw", container=container, yaw_degrees=90.0)
    c2w = read_scene_folder(prepare_set("waymo", raw, tmp_path / "out")[0]).cameras.c2w[0]
    np.testing.assert_allclose(c2w, [[1, 0, 0, 10], [0, 0, 1, 21.5], [0, -1, 0, 2], [0, 0, 0, 1]], atol=1e-6)
    # Ten metres ahead of the camera, one to the left, half a metre up.
    world = waymo.car2w(0, 90.0) @ waymo.c2car(1) @ (10, 1, 0.5, 1)
    np.testing.assert_allclose(np.linalg.inv(c2w) @ world, (-1, -0.5, 10, 1), atol=1e-6)


@BOTH
def test_waymo_the_second_camera(tmp_path, container):
    raw = waymo.write(tmp_path / "raw", container=container)
    outcome = run("waymo", raw, tmp_path / "out", cameras=("FRONT_LEFT", "SIDE_LEFT"))
    assert outcome.skipped == [(f"{waymo.SEGMENT}_side_left", "no calibration of camera SIDE_LEFT")]
    cameras = read_scene_folder(tmp_path / "out/waymo" / f"{waymo.SEGMENT}_front_left_c000").cameras
    np.testing.assert_allclose(cameras.c2w[0, :3, 2], (0, 1, 0), atol=1e-9)
    np.testing.assert_allclose(cameras.c2w[:, :3, 3], [(11.5 + 0.5 * i, 20.2, 2) for i in range(3)], atol=1e-6)
    assert cameras.intrinsics[0, 0, 0] == 99


def test_waymo_both_containers_give_the_same(tmp_path):
    intrinsic = (*waymo.INTRINSIC[:4], 0.2, 0.01, 0.002, -0.001, 0.003)
    written = {}
    for container in ("tfrecord", "parquet"):
        raw = waymo.write(tmp_path / container, container=container, intrinsic=intrinsic, packed=True)
        (scene,) = prepare_set("waymo", raw, tmp_path / f"{container}_out")
        written[container] = {path.name: path.read_bytes() for path in scene.rglob("*") if path.is_file()}
        prepared = read_scene_folder(scene)
        assert prepared.description["first_camera"]["distortion"] == list(intrinsic[4:])
        assert prepared.frames[0].shape[0] < shared.SIZE[0], "undistorted, without the pixels nobody saw"
    assert written["tfrecord"] == written["parquet"]


@BOTH
def test_waymo_scenes_end_at_gaps(tmp_path, container):
    times = (0.0, 0.1, 0.4, 0.8, 0.9)
    raw = waymo.write(tmp_path / "raw", container=container, frames=5, times=times)
    counts = [scene["frames"] for scene in run("waymo", raw, tmp_path / "out").scenes]
    assert counts == [3, 2]


def test_waymo_a_segment_makes_two_scenes_for_whole_clips(tmp_path):
    raw = waymo.write(tmp_path / "raw", container="parquet", frames=198, step=0.1)
    outcome = _prepare(data_set("waymo"), raw, tmp_path / "out")
    assert [scene["frames"] for scene in outcome.scenes] == [99, 99]
    assert len({scene["split"] for scene in outcome.scenes}) == 1


def test_waymo_a_car_that_stands_is_skipped(tmp_path):
    raw = waymo.write(tmp_path / "raw", step=0.001)
    outcome = _prepare(replace(data_set("waymo"), min_frames=2), raw, tmp_path / "out")
    assert outcome.skipped == [(f"{waymo.SEGMENT}_front_c000", "the camera moves less than 2")]


def test_waymo_a_record_file_that_was_cut_short_gives_its_whole_records(tmp_path):
    raw = waymo.write(tmp_path / "raw", frames=4)
    file = _file(raw)
    file.write_bytes(file.read_bytes()[:-2000])
    outcome = run("waymo", raw, tmp_path / "out")
    assert outcome.dropped == {"the file ends inside a record, or is damaged there": 1}
    assert [scene["frames"] for scene in outcome.scenes] == [3]


@pytest.mark.parametrize(
    "container, content, reason",
    [
        ("tfrecord", lambda old: b"", "is empty"),
        ("tfrecord", lambda old: b"\x89PNG\r\n\x1a\n" * 9, "is not a TFRecord file"),
        ("tfrecord", lambda old: b"short", "ends inside its first record"),
        ("tfrecord", lambda old: old[:1000], "ends inside its first record"),
        ("tfrecord", lambda old: waymo.record(b"no message"), "no calibration of camera FRONT"),
        ("parquet", lambda old: old[:-100], "no Parquet file, or it is damaged or cut short"),
        ("parquet", lambda old: b"", "no Parquet file, or it is damaged or cut short"),
    ],
)
def test_waymo_damaged_files_are_skipped_with_a_reason(tmp_path, container, content, reason):
    waymo.write(tmp_path / "raw", container=container)
    file = _file(tmp_path / "raw")
    file.write_bytes(content(file.read_bytes()))
    waymo.write(tmp_path / "raw", segment="good")
    outcome = run("waymo", tmp_path / "raw", tmp_path / "out")
    ((_, found),) = outcome.skipped
    assert reason in found and "\n" not in found
    assert [scene["id"] for scene in outcome.scenes] == ["good_front_c000"]


def _change_rows(file: Path, change) -> None:
    table = pyarrow.parquet.read_table(file)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(change(table.to_pylist()), table.schema), file)


def test_waymo_rows_that_cannot_be_used(tmp_path):
    raw = waymo.write(tmp_path / "raw", container="parquet", frames=7)
    image, transform = "[CameraImageComponent].image", "[CameraImageComponent].pose.transform"

    def change(rows):
        front = sorted((row for row in rows if row["key.camera_name"] == 1), key=lambda row: list(row.values())[2])
        front[1][transform] = [float("nan")] * 16
        front[2][image] = None
        front[3][image] = b""
        front[4][image] = front[4][image][:300]
        front[5][transform] = None
        return rows

    _change_rows(_file(raw), change)
    outcome = run("waymo", raw, tmp_path / "out")
    assert outcome.dropped == {"no picture": 1, NO_ROTATION: 2, "picture or depth cannot be used": 2}
    assert not outcome.scenes, "what is left is too far apart"


def test_waymo_tables_that_lack_something(tmp_path):
    raw = waymo.write(tmp_path / "raw", container="parquet")
    table = pyarrow.parquet.read_table(_file(raw))
    pyarrow.parquet.write_table(table.drop_columns("[CameraImageComponent].pose.transform"), _file(raw))
    ((_, found),) = run("waymo", raw, tmp_path / "out").skipped
    assert found == f"{_file(raw)} has no column [CameraImageComponent].pose.transform"
    raw = waymo.write(tmp_path / "raw", container="parquet")
    pose_column = pyarrow.parquet.ParquetFile(_file(raw)).metadata.row_group(1).column(5)
    with _file(raw).open("r+b") as file:
        file.seek(pose_column.dictionary_page_offset or pose_column.data_page_offset)
        file.write(bytes(60))
    ((_, found),) = run("waymo", raw, tmp_path / "out3").skipped
    assert found == f"cannot read {_file(raw)}: it is no Parquet file, or it is damaged or cut short"
    calibration = raw / "training/camera_calibration" / f"{waymo.SEGMENT}.parquet"
    calibration.unlink()
    ((_, found),) = run("waymo", raw, tmp_path / "out2").skipped
    assert found == f"cannot read {calibration}: No such file or directory"


def test_waymo_a_segment_in_both_containers_is_an_error(tmp_path):
    for container in ("tfrecord", "parquet"):
        waymo.write(tmp_path / "raw", container=container)
    with pytest.raises(UserError, match="holds 10017090168044687777_6380_000_6400_000 more than once"):
        run("waymo", tmp_path / "raw", tmp_path / "out")
