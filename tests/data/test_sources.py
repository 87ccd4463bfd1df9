"""Data sets on disk, as folders and as shards: what is found, what is read, what is said when something is wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data import video
from gen3r_jax.data.pack import pack
from gen3r_jax.data.shards import ShardWriter, list_shards, read_index, read_record
from gen3r_jax.data.sources import Folders, Procedural, Shards, Videos, open_source
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.transforms import picture_name, read_transforms, write_transforms
from gen3r_jax.geometry.cameras import OPENGL_AXES
from gen3r_jax.verify import main as verify
from tests.helpers.damage import flip_bit
from tests.helpers.toy_scenes import SIZE, frame_number, write_root, write_scene
from tests.helpers.toy_videos import number_of, numbered_frames, write_video

SETTINGS = {"split": "train", "scenes_per_shard": 2, "num_frames": 0, "format": "png"}


def test_transforms_round_trip(tmp_path):
    cameras = write_scene(tmp_path / "scene")
    names, read = read_transforms(tmp_path / "scene" / "transforms.json")
    assert names[1] == "frame00001.png"
    for key in ("c2w", "intrinsics", "sizes"):
        np.testing.assert_array_equal(getattr(read, key), getattr(cameras, key))


def test_transforms_as_others_write_them(tmp_path):
    """Shared intrinsics at the top, a frame that overrides them, poses of three rows; the order is that of names."""
    pose = np.eye(4)[:3].tolist()
    document = {"w": 60, "h": 40, "fl_x": 50, "fl_y": 51, "cx": 30, "cy": 20, "k1": 0, "frames": []}
    document["frames"] = [
        {"file_path": "./images/b.png", "transform_matrix": pose},
        {"file_path": "elsewhere\\a.png", "transform_matrix": pose, "fl_x": 70.5},
    ]
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    names, cameras = read_transforms(tmp_path / "transforms.json")
    assert names == ["a.png", "b.png"]
    assert cameras.c2w.shape == (2, 4, 4)
    np.testing.assert_array_equal(cameras.intrinsics[:, 0, 0], [70.5, 50])
    np.testing.assert_array_equal(cameras.sizes, [[40, 60], [40, 60]])


FRAME = {"w": 4, "h": 4, "fl_x": 1, "fl_y": 1, "cx": 2, "cy": 2, "file_path": "a"}
FRAME["transform_matrix"] = np.eye(4).tolist()


@pytest.mark.parametrize(
    "content, message",
    [
        ("{", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"frames": []}', "lists no frames"),
        (json.dumps({"frames": [FRAME, {**FRAME, "cx": "middle"}]}), "frame 1 has intrinsics that are not numbers"),
        (json.dumps({"frames": [{k: v for k, v in FRAME.items() if k not in ("w", "cy")}]}), "frame 0 lacks w, cy"),
        (json.dumps({"frames": [{**FRAME, "transform_matrix": [[1, 2], [3, 4]]}]}), "not 4 x 4 numbers"),
        (
            json.dumps({"frames": [{**FRAME, "transform_matrix": [[float("nan")] * 4] * 4}]}),
            "camera 0 .a. has numbers that are not finite",
        ),
        (json.dumps({"frames": [{**FRAME, "transform_matrix": "eye"}]}), "not 4 x 4 numbers"),
        (json.dumps({"frames": [7]}), "frame 0 lacks"),
    ],
)
def test_wrong_transforms(tmp_path, content, message):
    (tmp_path / "transforms.json").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        read_transforms(tmp_path / "transforms.json")
    assert "\n" not in str(error.value)


def test_the_axes_of_a_scene_are_those_that_it_declares(tmp_path):
    cameras = write_scene(tmp_path / "scene", frames=3)
    path = tmp_path / "scene" / "transforms.json"
    document = json.loads(path.read_text())

    def read(**entries):
        path.write_text(json.dumps({key: value for key, value in (document | entries).items() if value is not None}))
        return read_transforms(path)[1].c2w

    np.testing.assert_array_equal(read(camera_convention=None), cameras.c2w)  # Gen3R's own layout
    np.testing.assert_array_equal(read(), cameras.c2w)
    np.testing.assert_array_equal(read(camera_convention="opengl_c2w"), cameras.c2w @ OPENGL_AXES)
    np.testing.assert_array_equal(read(camera_model="OPENCV", applied_transform=[]), cameras.c2w)
    for marks in ({"applied_transform": []}, {"camera_model": "OPENCV"}, {"ply_file_path": "points.ply"}):
        with pytest.raises(UserError, match=r"but does not say its axes; add .*opengl_c2w.* or .*opencv_c2w"):
            read(camera_convention=None, **marks)
    for entries, message in (
        ({"camera_convention": "blender"}, "says camera_convention 'blender'; known are"),
        ({"k1": -0.2}, "has a distorted lens"),
        ({"camera_model": "OPENCV_FISHEYE"}, "is no pinhole"),
        ({"is_fisheye": True}, "is no pinhole"),
        ({"frames": [{**frame, "p2": 0.01} for frame in document["frames"]]}, "has a distorted lens"),
    ):
        with pytest.raises(UserError, match=message):
            read(**entries)


def test_names_below_images_keep_their_folders():
    names = ("images/a/1.png", "/data/s/images/1.png", "elsewhere/1.png", "1.png", "my_images/a/1.png")
    assert [picture_name(name) for name in names] == ["a/1.png", "1.png", "1.png", "1.png", "1.png"]


def test_a_root_with_lists(tmp_path):
    root = write_root(tmp_path / "root", {"re10k": 2, "co3d": 1})
    write_scene(root / "co3d" / "not_listed")
    source = open_source(root, cameras=True)
    assert isinstance(source, Folders) and len(source) == 3
    scene = source.scene(2)
    assert scene.id == "co3d/scene0" and scene.length == 6 and len(scene.captions) == 2
    pictures = scene.read([4, 0])
    assert [frame_number(picture) for picture in pictures] == [4, 0] and pictures[0].shape == (*SIZE, 3)
    assert len(open_source(root / "re10k")) == 2
    for path in root.glob("*.txt"):
        path.unlink()
    assert len(open_source(root)) == 3  # the lists of the sets, put together


def test_frame_order(tmp_path):
    """It is that of the names, and cameras stay with their pictures, whatever the order of the JSON."""
    cameras = write_scene(tmp_path / "set" / "scene", frames=3)
    path = tmp_path / "set" / "scene" / "transforms.json"
    names, _ = read_transforms(path)
    write_transforms(path, names[::-1], cameras.take([2, 1, 0]))
    with_cameras, without = (open_source(tmp_path / "set", cameras=c).scene(0) for c in (True, False))
    assert [frame_number(x) for x in with_cameras.read(range(3))] == [0, 1, 2]
    np.testing.assert_array_equal(with_cameras.cameras.c2w, cameras.c2w)
    assert [frame_number(x) for x in without.read(range(3))] == [0, 1, 2]
    assert without.cameras is None


def test_paths_relative_to_the_list(tmp_path, monkeypatch):
    """Before those relative to the working folder, which may be another root with scenes of these names."""
    monkeypatch.chdir(tmp_path)
    write_scene(tmp_path / "scene", frames=3)
    write_scene(tmp_path / "set" / "scene")
    (tmp_path / "set" / "train_videos_dirs.txt").write_text("\n  scene/images  \n")
    assert open_source(tmp_path / "set").scene(0).length == 6


def test_lists_as_others_write_them(tmp_path):
    write_scene(tmp_path / "set" / "a", frames=3)
    write_scene(tmp_path / "set" / "b", frames=2)
    (tmp_path / "set" / "b" / "images").rename(tmp_path / "set" / "c")
    shutil.copytree(tmp_path / "set" / "a" / "images", tmp_path / "set" / "b" / "images")
    lines = ["", f"  {tmp_path}/set/a/images ", "b/images", "c"]
    (tmp_path / "set" / "train_videos_dirs.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    source = open_source(tmp_path / "set")
    assert [scene.id for scene in source.scenes] == ["set/a", "set/b", "set/c"]
    assert [source.scene(index).length for index in range(3)] == [3, 3, 2] and source.scene(0).captions == ()


def test_scenes_without_lists(tmp_path):
    for name in ("a/1", "a/2", "b/1"):
        write_scene(tmp_path / name, frames=2)
    assert len(open_source(tmp_path)) == 3
    assert len(open_source(tmp_path / "a")) == 2
    assert open_source(tmp_path / "a" / "1", cameras=True).scene(0).cameras is not None


def test_splits(tmp_path, caplog):
    root = write_root(tmp_path, {"a": 2})
    assert len(open_source(root, split="test")) == 2 and "training scenes are used" in caplog.text
    (root / "test_videos_dirs.txt").write_text(str(root / "a" / "scene1" / "images"))
    assert [open_source(root, split="test").scene(0).id] == ["a/scene1"]
    train, test = (open_source("procedural", split=split, num_frames=1).scene(0) for split in ("train", "test"))
    assert not np.array_equal(train.read([0])[0], test.read([0])[0])


def test_videos_and_folders(tmp_path):
    (tmp_path / "videos").mkdir()
    for number in (1, 2):
        write_video(tmp_path / "videos" / f"{number}.mp4", numbered_frames(4 + number))
    source = open_source(tmp_path / "videos")
    assert isinstance(source, Videos) and [source.scene(i).length for i in range(2)] == [5, 6]
    assert len(open_source(tmp_path / "videos" / "1.mp4")) == 1
    write_scene(tmp_path / "scene")
    assert open_source(tmp_path / "scene" / "images").scene(0).length == 6


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda root: root / "gone", "does not exist"),
        (lambda root: root, "holds no scenes; looked for"),
        (lambda root: _touch(root / "notes.txt"), r"is not a video \("),
        (lambda root: _touch(root / "picture.png"), "for images give their folder"),
        (lambda root: _uneven_lists(root), "lists of .* are not parallel: 2 in train_videos_dirs.txt, 1 in train_cam"),
        (lambda root: _no_camera_list(root), "has no train_cameras_paths.txt; .*data.cameras=False"),
        (lambda root: _touch(root / "train-00000.array_record").parent, "is not a whole shard"),
    ],
)
def test_wrong_sources(tmp_path, make, message):
    with pytest.raises(UserError, match=message) as error:
        open_source(make(tmp_path), cameras=True)
    assert "\n" not in str(error.value)


def _touch(path):
    path.write_bytes(b"")
    return path


def _uneven_lists(root):
    write_root(root, {"a": 2})
    (root / "train_cameras_paths.txt").write_text("a/scene0/transforms.json")
    return root


def test_damaged_lists_of_one_set_cost_that_set(tmp_path, capsys):
    root = write_root(tmp_path / "root", {"a": 2, "b": 1, "c": 1})
    for file in root.glob("*.txt"):
        file.unlink()
    (root / "b" / "train_videos_dirs.txt").write_bytes(b"sc\xe9ne/images\n")
    assert [scene.id for scene in open_source(root, cameras=True).scenes] == ["a/scene0", "a/scene1", "c/scene0"]
    assert f"{root}/b is left out: {root}/b/train_videos_dirs.txt is not UTF-8 text" in capsys.readouterr().err
    with pytest.raises(UserError, match="is not UTF-8 text"):
        open_source(root / "b", cameras=True)


@pytest.mark.parametrize("packed", [False, True])
def test_scenes_that_are_all_too_short_are_told_with_the_longest(tmp_path, packed):
    root = write_root(tmp_path / "root", {"a": 3}, frames=12) / "a"
    lines = [{"id": f"scene{i}", "split": "train", "group": str(i), "frames": 12 - i} for i in range(3)]
    (root / "scenes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if packed:
        pack(open_source(root, cameras=True), tmp_path / "packed", SETTINGS)
        root = tmp_path / "packed"
    assert len(open_source(root, min_frames=12)) == (3 if packed else 1)
    with pytest.raises(UserError, match="3 scenes, the longest of which has 12 frames; at least 13 are needed"):
        open_source(root, min_frames=13)


def _no_camera_list(root):
    write_root(root, {"a": 1})
    (root / "train_cameras_paths.txt").unlink()
    return root


def test_packing_keeps_everything(tmp_path):
    root = write_root(tmp_path / "root", {"a": 3})
    summary = pack(open_source(root, cameras=True), tmp_path / "packed", SETTINGS)
    assert str(summary) == "3 scenes packed"
    assert [path.name for path in sorted((tmp_path / "packed").glob("[!.]*"))] == [
        "train-00000.array_record",
        "train-00001.array_record",
    ]
    folders, packed = open_source(root, cameras=True), open_source(tmp_path / "packed")
    assert isinstance(packed, Shards) and len(packed) == 3
    for i in range(3):
        a, b = folders.scene(i), packed.scene(i)
        assert (a.id, a.length, a.captions) == (b.id, b.length, b.captions)
        for key in ("c2w", "intrinsics", "sizes"):
            np.testing.assert_array_equal(getattr(a.cameras, key), getattr(b.cameras, key))
        assert a.encoded(2) == b.encoded(2)  # files go in as they are
        np.testing.assert_array_equal(a.read([5, 1]), b.read([5, 1]))
    again = pack(packed, tmp_path / "repacked", SETTINGS)
    assert again.scenes == 3


def test_packing_rendered_frames_and_videos(tmp_path):
    source = Procedural(2, 3, (112, 112))
    pack(source, tmp_path / "png", SETTINGS)
    np.testing.assert_array_equal(open_source(tmp_path / "png").scene(1).read([2]), source.scene(1).read([2]))
    pack(source, tmp_path / "jpg", SETTINGS | {"format": "jpg"})
    difference = open_source(tmp_path / "jpg").scene(1).read([2])[0].astype(int) - source.scene(1).read([2])[0]
    assert np.abs(difference).mean() < 3  # measured 1.2
    write_video(tmp_path / "clip.mp4", numbered_frames(20))
    pack(open_source(tmp_path / "clip.mp4"), tmp_path / "video", SETTINGS | {"num_frames": 17})
    scene = open_source(tmp_path / "video").scene(0)
    assert scene.length == 17 and scene.cameras is None
    assert [number_of(picture) for picture in scene.read(range(17))] == list(range(17))


def test_shards_of_several_sets_lie_in_folders(tmp_path):
    for name in ("a", "b"):
        pack(open_source("procedural", num_scenes=1), tmp_path / name, SETTINGS)
    source = open_source(tmp_path)
    assert [source.scene(i).id.split("/")[0] for i in range(len(source))] == ["a", "b"]
    write_root(tmp_path / "root", {"set": 2})
    pack(open_source("procedural", num_scenes=1), tmp_path / "root" / "packed", SETTINGS)
    assert isinstance(open_source(tmp_path / "root"), Folders)  # folders are what its lists name


def test_a_video_is_decoded_once_while_it_is_packed(tmp_path, monkeypatch):
    write_video(tmp_path / "clip.mp4", numbered_frames(25), g="25")  # one key frame
    decoded, decode = [], video._decode
    monkeypatch.setattr(video, "_decode", lambda packets: (decoded.append(1) or frame for frame in decode(packets)))
    pack(open_source(tmp_path / "clip.mp4"), tmp_path / "video", SETTINGS)
    assert len(decoded) == 25


def _start(command: list[str]) -> subprocess.Popen:
    """As a terminal would; in the background of a shell, as tests may run, Ctrl-C is ignored from the start."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        process_group=0,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_the_command_that_packs(tmp_path, number):
    arguments = ["procedural", tmp_path, "--num_scenes", 400, "--scenes_per_shard", 2, "--size", 112, 112]
    command = [sys.executable, "-m", "gen3r_jax.data.pack", *map(str, arguments), "--num_frames", "1", "--workers", "2"]
    process = _start(command)
    while len(list_shards(tmp_path, "train")) < 2:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.01)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as Ctrl-C does
    else:
        process.send_signal(number)
    said = process.communicate(timeout=60)[0]  # returns when the workers, too, have let go of the pipe
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    assert "Traceback" not in said


def test_ctrl_c_reaches_workers_of_large_sources_through_the_command():
    """What does not fit into a pipe makes workers start one after the other."""
    script = (
        "import time; from gen3r_jax.data.workers import worker_pool; from gen3r_jax.errors import main_guard\n"
        "def main():\n    with worker_pool(3, len, bytes(1 << 20)) as pool:\n"
        "        done = pool.map(time.sleep, [0] * 9 + [60] * 3); next(done); print('ready', flush=True); list(done)\n"
        "if __name__ == '__main__': main_guard(main)"
    )
    process = _start([sys.executable, "-c", script])
    assert process.stdout.readline() == "ready\n"
    os.killpg(process.pid, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted\n"
    assert process.returncode == 130


def test_packing_leaves_out_what_is_damaged(tmp_path):
    root = write_root(tmp_path / "root", {"a": 3})
    (root / "a" / "scene0" / "images" / "frame00001.png").write_bytes(b"damaged")
    (root / "a" / "scene1" / "transforms.json").write_text("{")
    for path in (root / "a" / "scene2" / "images").iterdir():
        path.write_bytes(b"")
    summary = pack(open_source(root, cameras=True), tmp_path / "packed", SETTINGS)
    assert (summary.scenes, summary.frames_left_out, summary.scenes_left_out) == (1, 1, 2)
    assert "is not JSON" in str(summary)
    scene = open_source(tmp_path / "packed").scene(0)
    assert [frame_number(picture) for picture in scene.read(range(5))] == [0, 2, 3, 4, 5]
    _, cameras = read_transforms(root / "a" / "scene0" / "transforms.json")
    np.testing.assert_array_equal(scene.cameras.c2w, cameras.c2w[[0, 2, 3, 4, 5]])
    (root / "a" / "scene0" / "transforms.json").write_text("{")
    with pytest.raises(UserError, match="no scene of root could be packed"):
        pack(open_source(root, cameras=True), tmp_path / "none", SETTINGS)


def test_packing_goes_on_where_it_was_stopped(tmp_path):
    source = Procedural(5, 2, (16, 16))
    pack(source, tmp_path / "whole", SETTINGS)

    class Stopped(Exception):
        pass

    class Stopping(Procedural):
        def scene(self, index):
            if index == 3:
                raise Stopped
            return super().scene(index)

    with pytest.raises(Stopped):
        pack(Stopping(5, 2, (16, 16)), tmp_path / "parts", SETTINGS)
    assert [path.name for path in (tmp_path / "parts").glob("[!.]*")] == [
        "train-00000.array_record"
    ]  # nothing half-written
    pack(source, tmp_path / "parts", SETTINGS)
    for whole, part in zip(
        list_shards(tmp_path / "whole", "train"), list_shards(tmp_path / "parts", "train"), strict=True
    ):
        assert whole.read_bytes() == part.read_bytes()
    with pytest.raises(UserError, match="made with other settings"):
        pack(source, tmp_path / "parts", SETTINGS | {"scenes_per_shard": 3})


def test_a_shard_cut_short(tmp_path):
    pack(Procedural(4, 3, (112, 112)), tmp_path, SETTINGS | {"scenes_per_shard": 4})
    file = tmp_path / "train-00000.array_record"
    file.write_bytes(file.read_bytes()[:-70_000])
    with pytest.raises(UserError, match="is not a whole shard"):
        read_index(file)


FULL_DISK = """
import resource, signal
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
from gen3r_jax.data.pack import pack
from gen3r_jax.data.sources import Procedural
from gen3r_jax.errors import main_guard
main_guard(lambda: print(pack(Procedural(4, 9, (112, 112)), Path("packed"), SETTINGS)))
"""


def test_every_flipped_bit_of_a_shard_is_found(tmp_path, capsys):
    """By reading, and by gen3r verify."""
    pack(Procedural(2, 3, (112, 112)), tmp_path / "whole", SETTINGS | {"scenes_per_shard": 2})
    (file,) = list_shards(tmp_path / "whole", "train")
    records = [read_record(file, index) for index in range(9)]
    assert verify([str(file.parent)]) == 0 and "9 records are as they were written" in capsys.readouterr().out
    rng, found = np.random.default_rng(0), 0
    for number in range(40):
        flipped = tmp_path / f"{number}" / file.name
        flipped.parent.mkdir()
        shutil.copy(file, flipped)
        flip_bit(flipped, rng)
        status, line = verify([str(flipped.parent)]), capsys.readouterr().out
        if status == 1:
            found += 1
            assert len(line) < 400 and str(flipped) in line and line.count("\n") == 1
        else:  # between the records
            assert [read_record(flipped, index) for index in range(9)] == records
    assert found > 5  # the others left every record as it was


def test_a_full_disk(tmp_path):
    code = FULL_DISK.replace("SETTINGS", repr(SETTINGS | {"scenes_per_shard": 4}))
    result = _run(["-c", code], tmp_path)
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1].endswith("train-00000.array_record; is the disk full?")
    assert not list((tmp_path / "packed").glob("[!.]*"))


def test_a_writer_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path / "train-00000.array_record", SETTINGS) as writer:
        writer.add("a", [b"frame"], [], None)
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_the_pack_command(tmp_path):
    Image.new("RGB", (30, 20)).save(tmp_path / "lonely.png")
    command = ["-m", "gen3r_jax.data.pack"]
    result = _run([*command, "procedural", "packed", "--num_scenes", "3", "--num_frames", "2"], tmp_path)
    assert result.returncode == 0 and result.stdout == "packed: 3 scenes packed\n"
    assert len(open_source(tmp_path / "packed")) == 3
    result = _run([*command, "procedural", "other", "--kinds", "caves"], tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: kinds of procedural scenes: caves; they are")
    result = _run([*command, "gone", "other"], tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: gone does not exist")
    result = _run([*command, "procedural", "lonely.png/below"], tmp_path)
    assert result.returncode == 2 and result.stderr.startswith("error: cannot write to lonely.png/below")


def test_workers_make_no_difference(tmp_path):
    source = open_source("procedural", num_scenes=5, num_frames=1, size=(16, 16))
    results = {}
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        assert pack(source, folder, SETTINGS | {"depth": True}, workers=workers, quiet=True).scenes == 5
        results[workers] = {file.name: file.read_bytes() for file in folder.glob("[!.]*")}
    assert len(results[1]) == 3 and results[1] == results[2]
    (tmp_path / "2" / "train-00001.array_record").unlink()
    (tmp_path / "2" / "train-00002.array_record").unlink()
    assert pack(source, tmp_path / "2", SETTINGS | {"depth": True}, workers=2, quiet=True).scenes == 5
    assert {file.name: file.read_bytes() for file in (tmp_path / "2").glob("[!.]*")} == results[1]


def _run(arguments, folder):
    import gen3r_jax

    environment = {"PYTHONPATH": str(next(iter(gen3r_jax.__path__)) + "/.."), "JAX_PLATFORMS": "cpu"}
    return subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True)


def test_procedural_scenes_may_begin_anywhere_in_their_split():
    scenes = {split: open_source("procedural", split=split, first_scene=7) for split in ("train", "test")}
    assert {split: scenes[split].scene(0).id for split in scenes} == {"train": "7", "test": str(2**31 + 7)}
