"""Checking prepared scenes: every kind of damage is found and named, and what is sound passes."""

import functools
import json
import re
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from gen3r_jax.data.check.__main__ import main
from gen3r_jax.data.check.checks import Job, SceneResult, check_scene
from gen3r_jax.data.check.lists import check_duplicates
from gen3r_jax.data.check.pictures import draw_path
from gen3r_jax.data.check.reprojection import READINGS, forward_share, judge
from gen3r_jax.data.check.sets import SetResult, check_root
from gen3r_jax.data.depth import encode_depth
from gen3r_jax.data.images import encode_image, read_image
from gen3r_jax.data.procedural import look_at, render_clip
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.transforms import read_transforms, write_transforms
from gen3r_jax.geometry.cameras import OPENGL_AXES, Cameras
from tests.helpers.raw_sets import shared, vkitti
from tests.helpers.raw_sets.prepared import run
from tests.helpers.toy_scenes import write_root

SIZE, FRAMES = (48, 64), 9
MISTAKES = {
    "as they are": lambda c2w: c2w,
    "with the poses inverted": np.linalg.inv,
    "with OpenGL axes": lambda c2w: c2w @ OPENGL_AXES,
    "with the poses inverted and OpenGL axes": lambda c2w: np.linalg.inv(c2w @ OPENGL_AXES),
}

clip = functools.cache(functools.partial(render_clip, num_frames=FRAMES, size=SIZE, kinds=("rooms",)))


def write_scene(folder: Path, seed: int = 0, *, poses=MISTAKES["as they are"], **description) -> Path:
    """A room with depth, as `gen3r prepare` would write it."""
    made = clip(seed)
    names = [f"frame_{i:05d}.png" for i in range(FRAMES)]
    for part in ("images", "depth"):
        (folder / part).mkdir(parents=True)
    for i, name in enumerate(names):
        (folder / "images" / name).write_bytes(encode_image(made.frames[i], ".png"))
        (folder / "depth" / name).write_bytes(encode_depth(made.depth[i]))
    write_transforms(folder / "transforms.json", names, Cameras(poses(made.c2w), made.intrinsics, _sizes()))
    (folder / "captions.txt").write_text("A room.\n")
    description = {"source_frames": names, "order": list(range(FRAMES)), "depth": True, "scale": "metric"} | description
    (folder / "scene.json").write_text(json.dumps(description))
    return folder


def _sizes() -> np.ndarray:
    return np.tile(SIZE, (FRAMES, 1))


def _check(folder: Path, **how) -> SceneResult:
    return check_scene(Job(folder.name, folder, **{"sampled": True} | how))


def _found(findings) -> set[tuple[str, str]]:
    return {(finding.level, finding.reason) for finding in findings}


# Depth against poses


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("words", MISTAKES)
def test_mixed_up_poses_are_named(words, seed):
    made = clip(seed)
    cameras = Cameras(MISTAKES[words](made.c2w), made.intrinsics, _sizes())
    verdict = judge(cameras, lambda i: (made.depth[i], made.frames[i]))
    assert READINGS[verdict.best].words == words
    assert verdict.state == ("agree" if words == "as they are" else "wrong")
    assert verdict.best == 0 or verdict.times > 5


@pytest.mark.parametrize("words", ["as they are", "with the poses inverted"])
def test_sparse_and_noisy_depth_is_enough(words):
    made, rng = clip(1), np.random.default_rng(0)
    known = rng.random(made.depth.shape) < 0.3
    depth = (made.depth * rng.normal(1, 0.02, made.depth.shape) * known).astype(np.float32)
    cameras = Cameras(MISTAKES[words](made.c2w), made.intrinsics, _sizes())
    verdict = judge(cameras, lambda i: (depth[i], made.frames[i]))
    assert (verdict.state, READINGS[verdict.best].words) == ("agree" if words == "as they are" else "wrong", words)


@pytest.mark.parametrize("words", ["as they are", "with the poses inverted"])
def test_what_is_hidden_does_not_count(words):
    """Something near that moves by itself covers a fifth of each frame."""
    made = clip(1)
    depth, frames = made.depth.copy(), made.frames.copy()
    for i in range(FRAMES):
        covered = np.s_[i, :, 13 * i % 52 : 13 * i % 52 + 13]
        depth[covered], frames[covered] = 0.2, 255
    cameras = Cameras(MISTAKES[words](made.c2w), made.intrinsics, _sizes())
    verdict = judge(cameras, lambda i: (depth[i], frames[i]))
    assert (verdict.state, READINGS[verdict.best].words) == ("agree" if words == "as they are" else "wrong", words)


def test_swapped_intrinsics_are_named():
    made = clip(1)
    swapped = made.intrinsics[:, [1, 0, 2]][:, :, [1, 0, 2]]
    verdict = judge(Cameras(made.c2w, swapped, _sizes()), lambda i: (made.depth[i], made.frames[i]))
    assert (verdict.state, READINGS[verdict.best].words) == ("wrong", "with swapped intrinsics")


def _beside_a_wall(steps: np.ndarray, inverted: bool):
    """A camera that faces a painted wall 2 m away and moves along it: its depth is the same everywhere."""
    c2w = np.tile(np.eye(4), (len(steps), 1, 1))
    c2w[:, :3, 3] = steps
    y, x = np.meshgrid(np.arange(48) + 0.5, np.arange(64) + 0.5, indexing="ij")
    pictures = [shared.paint((x - 33) / 25 + step[0], (y - 23.5) / 25 + step[1]) for step in steps]
    cameras = Cameras(
        np.linalg.inv(c2w) if inverted else c2w,
        np.tile(shared.intrinsics(), (len(steps), 1, 1)),
        np.ones((len(steps), 2), int),
    )
    return judge(cameras, lambda i: (np.full((48, 64), 2, np.float32), pictures[i]))


def test_colors_decide_where_depth_cannot():
    verdict = _beside_a_wall(np.linspace([0, 0, 0], [1, 0.6, 0], 8), inverted=True)
    assert (verdict.state, verdict.by, verdict.best) == ("wrong", "colors", 1)


def test_too_little_motion_is_undecided():
    still = _beside_a_wall(np.linspace([0, 0, 0], [0.01, 0, 0], 8), inverted=False)
    assert (still.state, still.why) == ("undecided", "the camera hardly moves")
    # Straight to the right without turning: OpenGL's axes give the same motion, whatever is seen.
    straight = _beside_a_wall(np.linspace([0, 0, 0], [1, 0, 0], 8), inverted=False)
    assert straight.state == "undecided" and "along a line" in straight.why


def test_depth_in_another_unit_fits_no_poses(tmp_path):
    folder = write_scene(tmp_path / "scene", 1)
    for i in range(FRAMES):
        millimetres = (clip(1).depth[i] * (1 + i)).astype(np.float32)
        (folder / "depth" / f"frame_{i:05d}.png").write_bytes(encode_depth(millimetres))
    result = _check(folder)
    assert any("another unit" in reason for _, reason in _found(result.findings))


# One scene


def test_a_sound_scene_has_no_findings(tmp_path):
    result = _check(write_scene(tmp_path / "scene", group="g", split="train"), drawn=True)
    assert result.findings == []
    assert (result.frames, result.captions, result.group, result.split) == (FRAMES, 1, "g", "train")
    assert result.depth.state == "agree"
    assert read_image(result.preview.sheet).shape[0] == read_image(result.preview.depth).shape[0]
    assert result.preview.path.startswith("<svg") and " m</text>" in result.preview.path


@pytest.mark.parametrize("turn", [0.0, 2.0])
def test_the_path_is_drawn_from_above(turn):
    """Ahead of the first camera is up the page, to its right is right, however the world is turned."""
    world = np.eye(4)
    world[:3, :3] = cv2.Rodrigues(np.array([0.6, 0.0, 0.8]) * turn)[0]
    places = np.array([[0, 0, 0], [0, 0, 2], [1, 0.5, 2]], float)
    c2w = np.tile(np.eye(4), (3, 1, 1))
    c2w[:, :3, 3] = places
    points = re.search(r'points="([^"]+)"', draw_path(world @ c2w, metric=False)).group(1)
    (x0, y0), (x1, y1), (x2, y2) = (map(float, point.split(",")) for point in points.split())
    scale = y0 - y1
    np.testing.assert_allclose([x1 - x0, x2 - x1, y2 - y1], [0, scale / 2, 0], atol=0.11)  # a decimal is written
    assert scale > 100


def _edit(change):
    """Damage to the cameras: `change` gets names and cameras and returns those that are written."""

    def damage(folder: Path) -> None:
        names, cameras = read_transforms(folder / "transforms.json")
        write_transforms(folder / "transforms.json", *change(list(names), cameras))

    return damage


def _describe(**changes):
    def damage(folder: Path) -> None:
        description = json.loads((folder / "scene.json").read_text()) | changes
        (folder / "scene.json").write_text(json.dumps(description))

    return damage


def _write(name: str, content: bytes):
    return lambda folder: (folder / name).write_bytes(content)


def _repeat(count: int):
    def damage(folder: Path) -> None:
        for i in range(1, count + 1):
            shutil.copy(folder / "images/frame_00000.png", folder / f"images/frame_{i:05d}.png")

    return damage


def _skew(names, cameras):
    cameras.c2w[2, :3, 0] *= 1.01
    return names, cameras


def _mirror(names, cameras):
    cameras.c2w[2, :3, 0] *= -1
    return names, cameras


def _change(**entries):
    def damage(folder: Path) -> None:
        path = folder / "transforms.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return damage


def _jump(names, cameras):
    cameras.c2w[5:, :3, 3] += 50
    return names, cameras


def _intrinsics(row, column, value):
    def change(names, cameras):
        cameras.intrinsics[3, row, column] = value
        return names, cameras

    return _edit(change)


def _nan_focal_length(folder: Path) -> None:
    file = folder / "transforms.json"
    file.write_text(re.sub(r'"fl_x": [\d.]+', '"fl_x": NaN', file.read_text(), count=1))


SMALL = np.ones((8, 8), np.float32)
PRINCIPAL = "a focal length, a principal point or a size cannot be meant"


@pytest.mark.parametrize(
    "damage, level, reason",
    [
        (_write("transforms.json", b"{"), "error", "transforms.json cannot be used"),
        (lambda folder: (folder / "transforms.json").unlink(), "error", "transforms.json cannot be used"),
        (_edit(_skew), "error", "poses are no rotations with translations"),
        (_intrinsics(0, 2, 64.0), "error", PRINCIPAL),
        (_intrinsics(1, 1, 0.0), "error", PRINCIPAL),
        (_nan_focal_length, "error", PRINCIPAL),
        (_write("captions.txt", "ein Café".encode("latin1")), "error", "captions.txt cannot be read"),
        (_edit(_jump), "warning", "the camera jumps (above 10 times its median step)"),
        (_edit(lambda names, cameras: (names[:1] + names[:-1], cameras)), "error", "a frame is listed twice"),
        (_edit(lambda names, cameras: (names[::-1], cameras)), "error", "frames are not in the order of their names"),
        (_edit(_mirror), "error", "poses are no rotations with translations"),
        (
            _edit(lambda names, cameras: (names[:3] + names[4:], cameras.take([0, 1, 2, *range(4, FRAMES)]))),
            "warning",
            "frames are missing between others, by their names",
        ),
        (_change(k1=-0.1), "error", "a lens is distorted"),
        (_change(camera_convention=None, applied_transform=[]), "error", "transforms.json cannot be used"),
        (_describe(order=[0, 2, 1, *range(3, FRAMES)]), "error", "frames are not in the order of time"),
        (_describe(order="late"), "error", "scene.json cannot be read"),
        (_describe(source_frames=["a"]), "error", "scene.json has another number of frames than transforms.json"),
        (_write("scene.json", b"[]"), "error", "scene.json cannot be read"),
        (lambda folder: (folder / "images/frame_00003.png").unlink(), "error", "pictures are missing"),
        (lambda folder: shutil.rmtree(folder / "images"), "error", "pictures are missing"),
        (_write("images/other.png", b""), "warning", "pictures that transforms.json does not list"),
        (_repeat(1), "warning", "a picture is the one before again"),
        (_repeat(7), "error", "most pictures are the one before again while the camera moves"),
        (lambda folder: (folder / "depth/frame_00003.png").unlink(), "error", "depth is missing"),
        (lambda folder: shutil.rmtree(folder / "depth"), "error", "depth is missing"),
        (_write("images/frame_00003.png", b"\x89PNG"), "error", "a picture cannot be decoded"),
        (_write("depth/frame_00003.png", b"\x89PNG"), "error", "a depth cannot be decoded"),
        (_write("depth/frame_00003.png", encode_depth(SMALL)), "error", "a depth has another size than its camera"),
        (
            _write("images/frame_00003.png", encode_image(np.zeros((8, 9, 3), np.uint8), ".png")),
            "error",
            "a picture has another size than its camera",
        ),
    ],
)
def test_damage_is_found(tmp_path, damage, level, reason):
    folder = write_scene(tmp_path / "scene")
    damage(folder)
    assert (level, reason) in _found(_check(folder, drawn=True).findings)


def test_what_is_not_sampled_is_not_decoded(tmp_path):
    folder = write_scene(tmp_path / "scene")
    (folder / "images/frame_00003.png").write_bytes(b"\x89PNG")
    assert _check(folder, sampled=False).findings == []


def _drive() -> np.ndarray:
    angle = np.linspace(0, 1.5, FRAMES)
    places = np.stack([20 * np.sin(angle), np.zeros(FRAMES), 20 - 20 * np.cos(angle)], -1)
    return look_at(places, places + np.stack([np.cos(angle + 0.1), np.zeros(FRAMES), np.sin(angle + 0.1)], -1))


@pytest.mark.parametrize("words", MISTAKES)
def test_a_car_looks_where_it_drives(tmp_path, words):
    """No depth is needed to see that the poses of a drive are mixed up."""
    assert forward_share(_drive()) > 0.99
    folder = write_scene(tmp_path / "scene", poses=lambda _: MISTAKES[words](_drive()), looks_ahead=True)
    findings = [finding for finding in _check(folder, sampled=False).findings if "car" in finding.reason]
    assert len(findings) == (words != "as they are")
    assert all(f"it is {words}:" in finding.detail for finding in findings)


# Roots, lists and splits


def _root_of(tmp_path: Path, *descriptions: dict) -> Path:
    """A set with a scene for each description, and lists by their splits."""
    lines: dict[str, list[str]] = {}
    for number, description in enumerate(descriptions):
        write_scene(tmp_path / "rooms" / f"s{number}", number, **description)
        lines.setdefault(description.get("split", "train"), []).append(f"s{number}")
    for split, ids in lines.items():
        for kind, part in (("videos_dirs", "images"), ("cameras_paths", "transforms.json")):
            (tmp_path / "rooms" / f"{split}_{kind}.txt").write_text("".join(f"{i}/{part}\n" for i in ids))
    rows = [json.dumps({"id": f"s{number}", "frames": FRAMES}) for number in range(len(descriptions))]
    (tmp_path / "rooms/scenes.jsonl").write_text("\n".join(rows))
    return tmp_path


def _all(results: list[SetResult]) -> set[tuple[str, str]]:
    return _found(finding for result in results for finding in result.all_findings)


def _append(name: str, line: str):
    def damage(root: Path) -> None:
        with (root / "rooms" / name).open("a") as file:
            file.write(line)

    return damage


def _append_both(video: str, camera: str):
    def damage(root: Path) -> None:
        _append("train_videos_dirs.txt", video)(root)
        _append("train_cameras_paths.txt", camera)(root)

    return damage


def test_a_root_and_its_set_are_sound(tmp_path):
    root = _root_of(tmp_path, {"group": "a"}, {"group": "b", "split": "test"})
    for place in (root, root / "rooms"):
        whole, rooms = check_root(place, quiet=True)
        assert _all([whole, rooms]) == set()
        assert (rooms.name, len(rooms.scenes)) == ("rooms", 2)


@pytest.mark.parametrize(
    "damage, level, reason",
    [
        (_append("train_videos_dirs.txt", "s1/images\n"), "error", "lists are not parallel"),
        (_append_both("s7/images\n", "s7/transforms.json\n"), "error", "a list names what is not there"),
        (_append_both("s0/images\n", "s1/transforms.json\n"), "error", "a line is not the same scene in all lists"),
        (_append_both("s1/images\n", "s1/transforms.json\n"), "error", "a scene is both in train and in test"),
        (lambda root: (root / "rooms/train_videos_dirs.txt").write_text(""), "error", "lists are not parallel"),
        (lambda root: [f.unlink() for f in root.glob("rooms/test_*")], "warning", "a scene is in no list"),
        (
            lambda root: _describe(group="a")(root / "rooms/s1"),
            "error",
            "a group is both in train and in test",
        ),
        (
            lambda root: shutil.copy(root / "rooms/s0/images/frame_00000.png", root / "rooms/s1/images"),
            "error",
            "two scenes begin with the same picture, one in train and one in test",
        ),
        (
            _append("scenes.jsonl", '\n{"id": "s9", "frames": 9}'),
            "error",
            "scenes.jsonl names a scene that is not there",
        ),
        (_append("scenes.jsonl", '\n{"id": "s0", "frames": 8}'), "error", "scenes.jsonl has another number of frames"),
        (_append("scenes.jsonl", "\n{"), "error", "scenes.jsonl cannot be read"),
        (lambda root: (root / "rooms/scenes.jsonl").write_text(""), "warning", "scenes.jsonl does not name the scene"),
    ],
)
def test_damaged_lists_are_found(tmp_path, damage, level, reason):
    root = _root_of(tmp_path, {"group": "a", "split": "train"}, {"group": "b", "split": "test"})
    damage(root)
    assert (level, reason) in _all(check_root(root, quiet=True))


def test_a_scene_that_is_not_whole_may_not_be_listed(tmp_path):
    root = _root_of(tmp_path, {"group": "a"})
    write_scene(root / "rooms/.partial/s1", 1)
    _append_both(".partial/s1/images\n", ".partial/s1/transforms.json\n")(root)
    assert ("error", "a list names a scene that is not whole") in _all(check_root(root, quiet=True))


def test_the_same_beginning_within_a_split_is_a_warning():
    scenes = {name: SceneResult(name, first_frame="x") for name in "ab"}
    assert [f.level for f in check_duplicates(scenes, {"a": {"train"}, "b": {"train"}})] == ["warning"]


def test_a_plain_root_with_lists_is_sound(tmp_path):
    results = check_root(write_root(tmp_path, {"one": 2, "two": 1}), quiet=True)
    assert [(result.name, len(result.scenes)) for result in results] == [("", 0), ("one", 2), ("two", 1)]
    assert _all(results) == set()


def test_lists_at_the_top_count(tmp_path):
    root = write_root(tmp_path, {"one": 2, "two": 1})
    (root / "test_videos_dirs.txt").write_text("two/scene0/images\n")
    _, one, two = check_root(root, quiet=True)
    assert _found(one.all_findings) == set()
    assert _found(two.all_findings) == {("error", "a scene is both in train and in test")}


def test_what_prepare_writes_is_sound(tmp_path):
    run("vkitti", vkitti.write(tmp_path / "raw"), tmp_path / "out")
    results = check_root(tmp_path / "out", quiet=True)
    assert _all(results) == set()
    assert results[1].scenes[0].depth.state == "agree"


def test_workers_find_the_same_in_the_same_order(tmp_path):
    root = _root_of(tmp_path, {}, {}, {"poses": MISTAKES["with OpenGL axes"]})
    alone, together = (check_root(root, sample=2, workers=workers, quiet=True) for workers in (1, 2))
    assert alone == together
    assert sum(scene.depth is not None for scene in alone[1].scenes) == 2


# The command


def _command(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["check", *map(str, arguments)])
    return main()


def test_the_command_names_the_mistake_and_writes_a_report(tmp_path, monkeypatch, capsys):
    write_scene(tmp_path / "set" / "<good>")
    assert _command(monkeypatch, tmp_path) == 0
    write_scene(tmp_path / "set" / "bad", 1, poses=MISTAKES["with the poses inverted"], split="<b>&")
    assert _command(monkeypatch, tmp_path, "--report", tmp_path / "other.html") == 1
    out = capsys.readouterr().out
    assert "depths agree better with the poses inverted: c2w and w2c are mixed up (first: bad: " in out
    assert "depth and poses: 1 agree, 1 wrong" in out
    page = (tmp_path / "other.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 4 and page.count("<svg") == 2
    assert "&lt;good&gt;" in page and "<good>" not in page and "<b>&" not in page
    assert "http" not in page and "<script" not in page
    assert not list(tmp_path.glob(".*")), "nothing half-written stays"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["not there"], "is not a folder"),
        (["."], "holds no scenes"),
        ([".", "--sample", "-1"], "--sample must be at least 0"),
        (
            ["set", "--report", "set/scene/transforms.json/check.html"],
            "cannot write to set/scene/transforms.json/check.html",
        ),
    ],
)
def test_unusable_input_is_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    if "set" in arguments:
        write_scene(tmp_path / "set" / "scene")
    with pytest.raises(UserError, match=message):
        _command(monkeypatch, *arguments)
