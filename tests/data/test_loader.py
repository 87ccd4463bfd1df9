"""The loader: what a batch holds, that the seed alone decides it, that it resumes, that damage is replaced."""

import itertools
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gen3r_jax
from gen3r_jax.data.loader import make_loader
from gen3r_jax.data.pack import pack
from gen3r_jax.data.sources import open_source
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.transforms import read_transforms
from gen3r_jax.geometry.cameras import crop_intrinsics
from tests.helpers.toy_scenes import frame_number, write_root, write_scene
from tests.helpers.toy_videos import numbered_frames, write_video


def loader(source="procedural", *, num_frames=5, side=112, batch_size=2, seed=0, split="train", part=(0, 1), **options):
    options = {"num_scenes": 6, "prefetch": 1} | options
    index, count = part
    return make_loader(
        {"source": str(source) if isinstance(source, Path) else source, **options},
        batch_size=batch_size,
        num_frames=num_frames,
        side=side,
        seed=seed,
        split=split,
        process_index=index,
        process_count=count,
    )


def take(loader, count):
    batches = list(itertools.islice(loader, count))
    loader.close()
    return batches


def assert_same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert x.keys() == y.keys()
        for key in x:
            np.testing.assert_array_equal(x[key], y[key], err_msg=key)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Six scenes of twelve frames in two sets. Read only."""
    return write_root(tmp_path_factory.mktemp("data") / "root", {"a": 4, "b": 2}, frames=12)


def test_what_a_batch_holds(root):
    (batch,) = take(loader(root, cameras=True), 1)
    shapes = {key: (value.shape, value.dtype.kind + str(value.dtype.itemsize)) for key, value in batch.items()}
    assert shapes.pop("caption")[0] == shapes.pop("sample_id")[0] == (2,)
    assert shapes == {
        "frames": ((2, 5, 112, 112, 3), "u1"),
        "intrinsics": ((2, 5, 3, 3), "f4"),
        "c2w": ((2, 5, 4, 4), "f4"),
        "has_cameras": ((2,), "b1"),
        "num_replaced": ((2,), "i4"),
    }
    np.testing.assert_array_equal(batch["c2w"][:, 0], [np.eye(4)] * 2)
    assert batch["num_replaced"].sum() == 0
    for sample in range(2):
        name, _, place = batch["sample_id"][sample].partition("[")
        start, stop, stride = map(int, place.rstrip("]").split(":"))
        indices = np.arange(start, stop, stride)
        assert [frame_number(frame) for frame in batch["frames"][sample]] == indices.tolist()
        _, cameras = read_transforms(root / name.removeprefix("root/") / "transforms.json")
        c2w = np.linalg.inv(cameras.c2w[start]) @ cameras.c2w[indices]
        np.testing.assert_allclose(batch["c2w"][sample], c2w, atol=1e-6)
        intrinsics = crop_intrinsics(cameras.intrinsics[indices], (40, 56), (112, 112))
        np.testing.assert_allclose(batch["intrinsics"][sample], intrinsics, rtol=1e-6)


def test_the_seed_decides_the_data():
    a, b, other = (take(loader(num_frames=1, num_scenes=1000, seed=seed), 4) for seed in (1, 1, 2))
    assert_same(a, b)
    assert not set(a[0]["sample_id"]) & set(other[0]["sample_id"])


def test_epochs_differ(root):
    """Every epoch shows each scene once, in another order, with other strides and starts."""
    ids = np.concatenate([batch["sample_id"] for batch in take(loader(root, batch_size=3), 8)]).reshape(4, 6)
    scenes = np.array([[name.partition("[")[0] for name in epoch] for epoch in ids])
    assert all(len(set(epoch)) == 6 for epoch in scenes)
    assert len({tuple(epoch) for epoch in scenes}) == 4
    assert len(set(ids.ravel())) > 12
    assert {name[-2] for name in ids.ravel()} == {"1", "2"}


def test_processes_share_the_same_order(root):
    """Two processes of batch 2 see together what one of batch 4 sees, clip by clip."""
    (whole,) = [take(loader(root, batch_size=4), 3)]
    parts = [take(loader(root, batch_size=2, part=(index, 2)), 3) for index in range(2)]
    joined = [
        {key: np.stack([a[key], b[key]], axis=1).reshape(4, *a[key].shape[1:]) for key in a}
        for a, b in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


def test_sources_that_grew_since_the_checkpoint_are_refused(root):
    state = loader(root).get_state() | {"scenes": [5]}
    with pytest.raises(UserError, match=r"have \[6\] scenes, and had \[5\] .* data\.changed=True"):
        loader(root).set_state(state)
    loader(root, changed=True).set_state(state)
    loader(root).set_state({"next_index": 1})  # of a version that did not keep it


@pytest.mark.parametrize("workers", [0, 2])
def test_resume(workers):
    """The position is exact whatever is prefetched and whoever works; signals to the workers change nothing."""
    expected = take(loader(num_frames=1), 6)
    first = loader(num_frames=1, prefetch=2)
    head = [next(first) for _ in range(3)]
    state = json.loads(json.dumps(first.get_state()))  # as a checkpoint keeps it
    first.close()
    second = loader(num_frames=1, workers=workers, prefetch=2)
    second.set_state(state)
    head.append(next(second))
    for child in multiprocessing.active_children():
        os.kill(child.pid, signal.SIGINT)
        os.kill(child.pid, signal.SIGTERM)
    assert_same(head + take(second, 2), expected)


def test_going_back(root):
    running = loader(root)
    start = running.get_state()
    first = [next(running) for _ in range(3)]
    running.set_state(start)
    assert_same(take(running, 3), first)


def test_test_split_takes_no_chances(root):
    a, b = (take(loader(root, split="test", seed=seed), 3) for seed in (0, 1))
    assert_same(a, b)
    ids = np.concatenate([batch["sample_id"] for batch in a])
    assert ids[0] == "root/a/scene0[0:9:2]" and ids[5] == "root/b/scene1[0:9:2]"


def test_a_mixture_keeps_its_weights(root):
    source = ((str(root / "a"), 1.0), (str(root / "b"), 0.25))
    batches = take(loader(source, batch_size=10), 4)
    names = np.concatenate([batch["sample_id"] for batch in batches])
    assert sum(name.startswith("a/") for name in names) == 32
    whole = take(loader(source, batch_size=4), 2)
    parts = [take(loader(source, batch_size=2, part=(index, 2)), 2) for index in range(2)]
    assert sorted(np.concatenate([batch["sample_id"] for batch in whole])) == sorted(
        np.concatenate([batch["sample_id"] for part in parts for batch in part])
    )


def test_a_corrupt_frame_is_replaced_with_its_camera(tmp_path):
    root = write_root(tmp_path / "root", {"a": 1}, frames=5)
    for bad in (0, 3):
        path = root / "a" / "scene0" / "images" / f"frame{bad:05d}.png"
        path.write_bytes(path.read_bytes()[:200])
    (batch,) = take(loader(root, split="test", batch_size=1, cameras=True), 1)
    assert [frame_number(frame) for frame in batch["frames"][0]] == [1, 2, 4, 4, 4]
    assert batch["num_replaced"].tolist() == [2]
    _, cameras = read_transforms(root / "a" / "scene0" / "transforms.json")
    expected = np.linalg.inv(cameras.c2w[1]) @ cameras.c2w[[1, 2, 4, 4, 4]]
    np.testing.assert_allclose(batch["c2w"][0], expected, atol=1e-6)
    np.testing.assert_array_equal(batch["c2w"][0, 0], np.eye(4))  # re-based after the repair


def test_a_corrupt_scene_is_replaced_by_another(tmp_path):
    root = write_root(tmp_path / "root", {"a": 4}, frames=5)
    (root / "a" / "scene1" / "transforms.json").write_text("{")
    for path in (root / "a" / "scene2" / "images").iterdir():
        path.unlink()
    (batch,) = take(loader(root, split="test", batch_size=4, cameras=True), 1)
    assert [name.split("/")[2][:6] for name in batch["sample_id"]] == ["scene0", "scene3", "scene3", "scene3"]
    assert batch["num_replaced"].tolist() == [0, 2, 1, 0]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_corrupt_scenes(tmp_path, workers):
    root = write_root(tmp_path / "root", {"a": 2}, frames=5)
    running = loader(root, workers=workers)
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no scene of root can be read \(2 tried\); the first: .* no readable frame"):
        next(running)
    running.close()


def test_short_scenes_are_filled_up(root):
    """Thirteen frames from scenes of twelve."""
    batches = take(loader(root, num_frames=13, batch_size=4), 3)
    numbers = {tuple(frame_number(frame) for frame in clip) for batch in batches for clip in batch["frames"]}
    assert numbers == {(0, *range(12)), (*range(12), 11)}
    assert {name.partition("[")[2] for batch in batches for name in batch["sample_id"]} == {"0:12:1]"}


def test_mixed_sizes_and_suffixes(tmp_path):
    """Pictures of different sizes, grey ones and such with transparency, in one folder."""
    kinds = [((40, 30), "RGB"), ((31, 77), "L"), ((50, 50), "RGBA"), ((20, 90), "P")]
    for number, (size, mode) in enumerate(kinds * 2):
        image = Image.new("RGB", size, (100, 100, 100)).convert(mode, palette=Image.Palette.ADAPTIVE)
        image.save(tmp_path / f"{number}.png")
    (batch,) = take(loader(tmp_path, batch_size=1), 1)
    assert np.abs(batch["frames"].astype(int) - 100).max() <= 1


def test_shards_give_the_same_clips(root, tmp_path):
    settings = {"split": "train", "scenes_per_shard": 4, "num_frames": 0, "format": "jpg"}
    pack(open_source(root, cameras=True), tmp_path / "root", settings)
    assert_same(take(loader(tmp_path / "root"), 3), take(loader(root, cameras=True), 3))


def test_a_video(tmp_path):
    write_video(tmp_path / "clip.mp4", numbered_frames(11))
    (batch,) = take(loader(tmp_path / "clip.mp4"), 1)
    np.testing.assert_array_equal(batch["c2w"], np.tile(np.eye(4), (2, 5, 1, 1)))
    assert batch["caption"].tolist() == ["", ""]
    np.testing.assert_array_equal(batch["intrinsics"][0, 0, :2, 2], [56, 56])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"side": 500}, "side 500 is not a multiple of 112; nearest: 448, 560"),
        ({"num_frames": 24}, "24 frames are not 4 k . 1; nearest: 21, 25"),
        ({"max_stride": 0}, "data.max_stride must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"workers": -1}, "data.workers must be at least 0, not -1"),
        ({"wrokers": 1}, "unknown key config.data.wrokers"),
        ({"source": "gone.mp4"}, "gone.mp4 does not exist"),
        ({"source": ()}, "data.source is a name or"),
        ({"source": ("procedural", "b")}, "data.source is a name or"),
        ({"source": (("procedural", 0.0),)}, "with weights above 0"),
        ({"difficulty": "hard"}, "config.data.difficulty must be one of 'easy', 'full'"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(UserError, match=message):
        loader(**options)


def test_a_lone_video_must_be_long_enough(tmp_path):
    write_video(tmp_path / "short.mp4", numbered_frames(4))
    with pytest.raises(UserError, match=r"short.mp4 has 4 frames, 5 are needed"):
        loader(tmp_path / "short.mp4")


SCRIPT = """
import multiprocessing, signal, sys
from gen3r_jax.data.loader import DataOptions, make_loader
if __name__ == "__main__":
    loader = make_loader(DataOptions(workers=1, num_scenes=4), batch_size=1, num_frames=1, side=112, seed=0)
    print(next(loader)["frames"].shape, flush=True)
    if sys.argv[1:]:
        print(multiprocessing.active_children()[0].pid, flush=True)
        signal.pause()
"""


def _run_script(tmp_path, *arguments):
    (tmp_path / "script.py").write_text(SCRIPT)
    # A worker that touches JAX would take hold of the trainer's accelerator; here it would fail.
    environment = {"PYTHONPATH": str(Path(gen3r_jax.__file__).parent.parent), "JAX_PLATFORMS": "no such platform"}
    command = [sys.executable, "script.py", *arguments]
    return subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_workers_in_a_plain_script(tmp_path):
    """No flags were parsed, and nobody closes the loader: it works, and ends without a word."""
    process = _run_script(tmp_path)
    assert process.communicate(timeout=100) == ("(1, 1, 112, 112, 3)\n", "")
    assert process.returncode == 0


def test_workers_end_when_the_trainer_is_killed(tmp_path):
    process = _run_script(tmp_path, "wait")
    process.stdout.readline()
    worker = int(process.stdout.readline())
    process.send_signal(signal.SIGKILL)
    try:
        process.communicate(timeout=60)  # returns when the worker, too, has let go of the pipes
    except subprocess.TimeoutExpired:
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker outlived the process that it works for")


@pytest.mark.parametrize(
    ("number", "message"),
    [(signal.SIGKILL, "worker 0 of 1 was killed"), (signal.SIGSTOP, "worker 0 of 1 has given nothing for 1 s")],
)
def test_a_worker_that_is_killed_or_hangs_is_named(number, message):
    batches = loader(workers=1, batch_size=1)
    next(batches)
    batches._worker_timeout = 1 if number == signal.SIGSTOP else 60
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, number)
    with pytest.raises(UserError, match=f"{message}.* batch"):
        list(itertools.islice(batches, 10))
    batches.close()
    assert not worker.is_alive()


def test_skipped_scenes_are_replaced_by_the_next(root):
    whole = take(loader(root), 6)
    ids = [str(name) for batch in whole for name in batch["sample_id"]]
    left_out = ids[3]
    batches = take(loader(root, skip=(left_out,)), 6)
    scene = left_out.partition("[")[0]
    for old, new in zip(whole, batches, strict=True):
        for sample, name in enumerate(old["sample_id"]):
            if str(name).startswith(f"{scene}["):
                assert new["num_replaced"][sample] == 1 and not str(new["sample_id"][sample]).startswith(f"{scene}[")
            else:
                assert new["sample_id"][sample] == name and (new["frames"][sample] == old["frames"][sample]).all()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A root with two of the sets, one as folders with a catalogue, one as shards; "b" has a scene of 3 frames."""
    root = write_root(tmp_path_factory.mktemp("data") / "prepared", {"a": 3, "b": 3}, frames=12)
    pack(open_source(root / "a", cameras=True), root / "packed", PACKING)
    lines = [{"id": f"scene{i}", "split": "train", "group": str(i), "frames": 3 if i == 1 else 12} for i in range(3)]
    (root / "b" / "scenes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root


PACKING = {"split": "train", "scenes_per_shard": 2, "num_frames": 0, "format": "png"}
SETS = (("packed", 3.0, 1, 0), ("b", 1.0, 2, 5), ("elsewhere", 1.0, 1, 0))


def test_the_sets_of_a_root(prepared, caplog):
    """Drawn by weight, with strides and scenes of their own; sets that are missing are left out with a notice."""
    batches = take(loader(prepared, sets=SETS, cameras=True, num_frames=1, batch_size=8), 10)
    assert "has no elsewhere" in caplog.text
    ids = np.concatenate([batch["sample_id"] for batch in batches])
    from_b = [name for name in ids if name.startswith("b/")]
    assert len(ids) == 80 and len(from_b) == 20
    assert {name.partition("[")[0][-1] for name in from_b} == {"0", "2"}, "scene1 is too short"
    clips = np.concatenate([batch["sample_id"] for batch in take(loader(prepared, sets=SETS, batch_size=8), 6)])
    strides = {(name.partition("/")[0], name.rstrip("]").rpartition(":")[2]) for name in clips}
    assert strides == {("b", "1"), ("b", "2"), ("packed", "1")}


def test_a_folder_without_the_sets_is_one_source(root):
    (batch,) = take(loader(root, sets=SETS[::2], batch_size=6), 1)
    assert all(name.startswith("root/") for name in batch["sample_id"])


def test_bad_sets(prepared):
    for sets in ((("b", 1.0),), (("b", 0.0, 1, 0),), (("b", 1.0, 0, 0),), (("b", 1.0, "two", 0),)):
        with pytest.raises(UserError, match=r"data.sets is \(\(folder, weight, max_stride, min_frames\)"):
            loader(prepared, sets=sets)


def test_the_crop_of_the_released_loader(tmp_path):
    write_scene(tmp_path / "scene")
    found = []
    for official in (False, True):
        (batch,) = take(loader(tmp_path, cameras=True, official_crop=official, split="test", batch_size=1), 1)
        _, cameras = read_transforms(tmp_path / "scene" / "transforms.json")
        expected = crop_intrinsics(cameras.intrinsics[:5], (40, 56), (112, 112), truncate=official)
        np.testing.assert_allclose(batch["intrinsics"][0], expected, rtol=1e-6)
        found.append(batch["intrinsics"])
    assert np.abs(found[0] - found[1]).max() > 0.05


@pytest.mark.parametrize("kind", ["procedural", "shards"])
def test_depth_belongs_to_the_frames(tmp_path, kind):
    """The depth of a batch, taken through the cropped cameras, is that of the renderer."""
    from gen3r_jax.data.procedural import make_scene

    rendered = open_source("procedural", num_scenes=2, num_frames=6, size=(80, 120), kinds=("rooms",))
    source = "procedural"
    if kind == "shards":
        pack(rendered, tmp_path / "shards", PACKING | {"depth": True})
        source = tmp_path / "shards"
    (batch,) = take(loader(source, num_scenes=2, kinds=("rooms",), depth=True, cameras=True, max_stride=1), 1)
    assert batch["depth"].shape == (2, 5, 112, 112) and batch["depth"].dtype == np.float16
    for sample, name in enumerate(batch["sample_id"]):
        seed, first = int(name.partition("/")[2].partition("[")[0]), int(name.partition("[")[2].partition(":")[0])
        scene = make_scene(seed, kinds=("rooms",))
        size = (80, 120) if kind == "shards" else (112, 112)
        c2w, _ = scene.cameras(6 if kind == "shards" else 5, size)
        _, depth = scene.render(c2w[first + 2], batch["intrinsics"][sample, 2], (112, 112))
        error = np.abs(batch["depth"][sample, 2].astype(np.float32) / depth - 1)
        assert np.median(error) < 0.01


def test_lengths_in_the_unit_of_vggt():
    """Cameras and depth shrink together, until the points are at distance 1 from the first camera on average."""
    settings = {"num_scenes": 2, "max_stride": 1, "cameras": True, "depth": True}
    (plain,), (batch,) = (take(loader("procedural", normalize=on, **settings), 1) for on in (False, True))
    unit = np.median(plain["depth"] / np.maximum(batch["depth"], 1e-3), axis=(1, 2, 3))
    assert (unit > 1).all()
    np.testing.assert_allclose(batch["c2w"][..., :3, 3] * unit[:, None, None], plain["c2w"][..., :3, 3], rtol=2e-3)
    np.testing.assert_array_equal(batch["c2w"][..., :3, :3], plain["c2w"][..., :3, :3])
    for depth, c2w, intrinsics in zip(batch["depth"], batch["c2w"], batch["intrinsics"], strict=True):
        column, row = np.meshgrid(np.arange(112) + 0.5, np.arange(112) + 0.5)
        rays = np.stack([column, row, np.ones_like(row)], axis=-1) @ np.linalg.inv(intrinsics).swapaxes(1, 2)[:, None]
        points = (rays * depth[..., None]) @ c2w[:, None, :3, :3].swapaxes(2, 3) + c2w[:, None, None, :3, 3]
        assert np.linalg.norm(points[depth > 0], axis=-1).mean() == pytest.approx(1, rel=2e-3)


def test_no_depth_to_give(root, tmp_path):
    with pytest.raises(UserError, match=r"has no depth, which data.normalize asks for"):
        take(loader(root, normalize=True), 1)
    with pytest.raises(UserError, match=r"has no depth, which data.depth asks for"):
        take(loader(root, depth=True), 1)
    with pytest.raises(UserError, match=r"no scene of .* could be packed; the first failed with: .*has no depth"):
        pack(open_source(root), tmp_path / "shards", PACKING | {"depth": True})
