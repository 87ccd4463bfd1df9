"""Captures of one's own become scenes like those of the ten sets, whoever found their cameras."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from gen3r_jax.data.prepare.__main__ import main
from gen3r_jax.data.prepare.capture import find, find_videos
from gen3r_jax.errors import UserError
from gen3r_jax.export.video import write_video
from gen3r_jax.generation import captures
from gen3r_jax.geometry.cameras import crop_intrinsics
from gen3r_jax.scene import Scene
from tests.helpers.raw_sets import capture, shared
from tests.helpers.raw_sets.prepared import prepare_set, read_scene_folder, run


@pytest.mark.parametrize(("form", "found_by"), [("nerfstudio", ""), ("colmap", "COLMAP"), ("scene", "gen3r")])
def test_every_form_gives_the_same_scene(form, found_by, tmp_path):
    (folder,) = prepare_set("capture", capture.write(tmp_path / "raw", form=form), tmp_path / "root")
    scene = read_scene_folder(folder)
    shared.assert_camera(scene.cameras)
    for i, frame in enumerate(scene.frames):
        np.testing.assert_array_equal(frame, shared.picture(i))
    assert folder.name == "hall" and scene.description["cameras_found_by"] == found_by


def test_the_source_may_be_the_capture_itself(tmp_path):
    raw = capture.write(tmp_path / "raw") / "hall"
    assert [unit.key for unit in find(raw)] == ["hall"] and find_videos(raw) == []


def test_lens_distortion_is_taken_out(tmp_path):
    raw = capture.write(tmp_path / "raw", form="colmap")
    model = raw / "hall/sparse/0"
    line = "SIMPLE_RADIAL 64 48 50 33 23.5 -0.1"
    (model / "cameras.txt").write_text("".join(f"{number} {line}\n" for number in (1, 2, 3)))
    (folder,) = prepare_set("capture", raw, tmp_path / "root")
    scene = read_scene_folder(folder)
    assert scene.description["first_camera"]["distortion"] == [-0.1, 0, 0, 0]
    np.testing.assert_allclose(scene.cameras.intrinsics[:, 0, 0], 50)
    assert not np.array_equal(scene.frames[0], shared.picture(0)[: len(scene.frames[0]), : scene.frames[0].shape[1]])


def test_folders_called_test_are_for_tests(tmp_path):
    for name in ("hall", "test/yard", "best/test"):
        capture.write(tmp_path / "raw", capture=name)
    outcome = run("capture", tmp_path / "raw", tmp_path / "root")
    assert {scene["id"]: scene["split"] for scene in outcome.scenes} == {
        "hall": "train", "test_yard": "test", "best_test": "train",
    }  # fmt: skip


def test_sub_folders_are_recordings_and_jumps_end_scenes(tmp_path):
    raw = capture.write(tmp_path / "raw", frames=8)
    file = raw / "hall/transforms.json"
    document = json.loads(file.read_text())
    frames = sorted(document["frames"], key=lambda frame: frame["file_path"])
    for i, frame in enumerate(frames):
        if i >= 4:
            frame["transform_matrix"][0][3] += 100
        place = frame["file_path"]
        frame["file_path"] = place.replace("images/", f"images/cam{i % 2}/") if i < 2 else place
        (raw / "hall/images" / f"cam{i % 2}").mkdir(exist_ok=True)
        shutil.move(raw / "hall" / place, raw / "hall" / frame["file_path"])
    (raw / "hall" / frames[-1]["file_path"]).unlink()
    file.write_text(json.dumps(document))
    outcome = run("capture", raw, tmp_path / "root")
    assert {scene["id"]: scene["frames"] for scene in outcome.scenes} == {"hall_c000": 2, "hall_c001": 3}
    assert outcome.dropped["no picture"] == 1
    assert {scene for scene, _ in outcome.skipped} == {"hall_cam0", "hall_cam1"}


def test_names_lead_to_no_other_place(tmp_path):
    raw = capture.write(tmp_path / "raw")
    file = raw / "hall/transforms.json"
    file.write_text(file.read_text().replace("images/frame_00001", "../../secret"))
    outcome = run("capture", raw, tmp_path / "root")
    assert not outcome.scenes and "has a part .." in outcome.skipped[0][1]


@pytest.fixture
def reconstruct(monkeypatch):
    """Stands for VGGT: knows the cameras of frames that are cropped to 28 x 28."""

    def scene(clip, progress):
        count, size = len(clip.frames), (28, 28)
        intrinsics = crop_intrinsics(np.tile(shared.intrinsics(), (count, 1, 1)), shared.SIZE, size)
        maps = np.ones((count, *size), np.float32)
        w2c = np.stack([np.vstack([shared.w2c(i)[:3], [0, 0, 0, 1]]) for i in range(count)])
        colors = np.zeros((*maps.shape, 3), np.uint8)
        arrays = maps, maps, w2c.astype(np.float32), intrinsics.astype(np.float32), colors.astype(np.float32)
        return SimpleNamespace(scene=Scene(colors, *arrays), pictures=clip.frames)

    monkeypatch.setattr(captures.VGGT, "from_pretrained", lambda weights: SimpleNamespace(reconstruct=scene))


def test_cameras_of_videos_are_found_for_their_own_pixels(tmp_path, reconstruct, monkeypatch, capsys):
    raw = capture.write(tmp_path / "raw", frames=9)
    write_video(raw / "street/walk.mp4", np.stack([shared.picture(i / 3) for i in range(9)]))
    command = ["prepare", "capture", "--source", str(raw), "--output", str(tmp_path / "root")]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(UserError, match="is a video: add --weights"):
        main()
    monkeypatch.setattr("sys.argv", [*command, "--weights", "anywhere"])
    assert main() == 0 and "2 scenes" in capsys.readouterr().out
    scene = read_scene_folder(tmp_path / "root/capture/street_walk.mp4")
    shared.assert_camera(scene.cameras, frames=9)
    assert scene.description["cameras_found_by"] == "gen3r"
    monkeypatch.setattr(captures, "VGGT", None)  # what is there is kept
    assert main() == 0
