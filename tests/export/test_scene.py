"""Scenes and what is written of them."""

import dataclasses
import json
import os

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import trimesh

from gen3r_jax.data.video import Video
from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import write_scene
from gen3r_jax.export.pointcloud import CloudFilter, scene_cloud
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.export.video import colorize_depth, write_video
from gen3r_jax.geometry.camera_files.official import read_cameras, write_cameras
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import replacing

HEIGHT, WIDTH = 30, 41  # one even, one odd


@pytest.fixture
def scene() -> Scene:
    """A camera that steps to the right in front of a tilted, coloured wall."""
    v, u = np.mgrid[:HEIGHT, :WIDTH]
    depth = np.tile(2 + u / WIDTH, (3, 1, 1)).astype(np.float32)
    w2c = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
    w2c[:, 0, 3] = [0, -0.1, -0.2]
    intrinsics = np.tile(np.array([[40, 0, 20], [0, 40, 15], [0, 0, 1]], np.float32), (3, 1, 1))
    rgb = np.stack([4 * u, 6 * v, 128 + 0 * u], axis=-1).astype(np.uint8)
    return Scene(
        rgb=np.tile(rgb, (3, 1, 1, 1)),
        depth=depth,
        confidence=np.linspace(1, 1e5, depth.size, dtype=np.float32).reshape(depth.shape),
        w2c=w2c,
        intrinsics=intrinsics,
        points=unproject_depth(depth, w2c, intrinsics),
        prompt="a wall",
    )


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("rgb", np.zeros((0, 4, 4, 3), np.uint8), r"rgb needs the shape \[t, h, w, 3\]"),
        ("rgb", np.zeros((3, HEIGHT, WIDTH, 3), np.float32), "rgb needs to be uint8"),
        (
            "depth",
            np.zeros((3, HEIGHT, WIDTH, 1), np.float32),
            r"depth .* float32 \[3, 30, 41\], not float32 \[",
        ),
        ("w2c", np.zeros((3, 3, 4), np.float32), r"w2c needs to be float32 \[3, 4, 4\]"),
        ("points", jnp.zeros((3, HEIGHT, WIDTH, 3)).tolist(), "points needs to be float32 .* not list"),
    ],
)
def test_scenes_refuse_arrays_that_do_not_fit(scene, field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(scene, **{field: value})


def test_a_scene_folder_holds_the_scene(scene, tmp_path):
    write_scene(scene, tmp_path / "out", fps=24)
    names = {path.name for path in (tmp_path / "out").glob("[!.]*")}
    assert names == {
        "rgb.mp4", "depth.mp4", "depth.npz", "confidence.npz", "cameras.json", "points.ply", "prompts.txt", "images",
        "transforms.json", "sparse", "scene.glb", "gaussians.ply", "viewer.html", "sheet.png",
    }  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "out/depth.npz")["depth"], scene.depth)
    confidence = np.load(tmp_path / "out/confidence.npz")["confidence"]
    assert confidence.dtype == np.float16 and np.isfinite(confidence).all()  # 1e5 is beyond half precision
    np.testing.assert_allclose(confidence[0, 0, :9], scene.confidence[0, 0, :9], rtol=1e-3)
    cameras = read_cameras(tmp_path / "out/cameras.json")
    np.testing.assert_array_equal(cameras.w2c, scene.w2c)
    np.testing.assert_array_equal(cameras.intrinsics, scene.intrinsics)
    assert cameras.image_size == (HEIGHT, WIDTH)
    assert (tmp_path / "out/prompts.txt").read_text() == "a wall\n"


def test_videos_keep_their_frames_and_pad_odd_sides(scene, tmp_path):
    write_video(tmp_path / "clip.mp4", scene.rgb, fps=24)
    frames = np.stack(Video(tmp_path / "clip.mp4").read(range(3)))
    assert frames.shape == (3, HEIGHT, WIDTH + 1, 3)
    assert np.abs(frames[:, :, :WIDTH].astype(int) - scene.rgb).mean() < 3  # measured 1.6
    np.testing.assert_allclose(frames[:, :, WIDTH], frames[:, :, WIDTH - 1], atol=8)


def test_videos_say_their_colours_and_keep_them(tmp_path):
    colours = np.concatenate(
        [np.arange(0, 256, 15)[:, None].repeat(3, 1), np.random.default_rng(0).integers(0, 256, (20, 3))]
    )
    write_video(tmp_path / "clip.mp4", np.tile(colours.astype(np.uint8)[:, None, None], (1, 32, 32, 1)))
    frames = np.array(Video(tmp_path / "clip.mp4").read(range(len(colours))), int)
    assert np.abs(frames - colours[:, None, None]).max() <= 1
    with av.open(tmp_path / "clip.mp4") as container:
        codec = container.streams.video[0].codec_context
        assert (codec.colorspace, codec.color_primaries, codec.color_trc, codec.color_range) == (1, 1, 1, 1)


def test_depth_colours_are_bright_where_it_is_near_and_hold_for_the_clip():
    depth = np.stack([np.full((4, 4), 1.0), np.full((4, 4), 2.0), np.full((4, 4), 4.0)])
    depth[0, 0, 0], depth[0, 0, 1] = np.nan, 0
    brightness = colorize_depth(depth).sum(axis=-1, dtype=int)
    assert brightness[0, 1, 1] > brightness[1, 1, 1] > brightness[2, 1, 1] == brightness[0, 0, 0] == brightness[0, 0, 1]
    np.testing.assert_array_equal(colorize_depth(depth[:1], limits=(1.0, 4.0))[0, 1, 1], colorize_depth(depth)[0, 1, 1])
    assert colorize_depth(np.full((2, 2), 3.0)).shape == (2, 2, 3)
    assert colorize_depth(np.zeros((2, 2))).shape == (2, 2, 3)


def test_the_cloud_lies_on_the_wall_and_has_its_colours(scene, tmp_path):
    write_scene(scene, tmp_path)
    cloud = trimesh.load(tmp_path / "points.ply")
    x, z = cloud.vertices[:, 0], cloud.vertices[:, 2]
    # depth 2 + u / 41 with x = (u - 20) depth / 40: the wall as seen by one of the cameras, at x = 0, 0.1 and 0.2.
    gap = [np.abs(x - step - (41 * (z - 2) - 20) * z / 40) for step in (0, 0.1, 0.2)]
    assert np.min(gap, axis=0).max() < 0.05
    assert 0.3 * scene.depth.size < len(x) < 0.9 * scene.depth.size
    assert (cloud.colors[:, 2] == 128).all()


def test_cloud_filters(scene):
    points = scene.points.copy()
    points[0, 0, 0] = [0, 0, 90]
    points[1, 0, 0] = np.nan
    scene = dataclasses.replace(scene, points=points)
    everything = CloudFilter(confidence_percentile=0, outliers=False, voxel_size=None, max_points=None)
    count = scene.depth.size - 1

    def cloud(**changes):
        return scene_cloud(scene, dataclasses.replace(everything, **changes))[0]

    assert len(cloud()) == count
    assert cloud().max() == 90
    assert cloud(outliers=True).max() < 10
    assert cloud(far_percentile=80)[:, 2].max() < 3
    assert len(cloud(confidence_percentile=50)) == pytest.approx(count / 2, abs=2)
    assert len(cloud(max_points=100)) == 100
    assert len(cloud(max_pixels=count // 2)) == pytest.approx(count / 2, rel=0.1)
    assert len(cloud(voxel_size=0.3)) < 200
    assert len(cloud(voxel_size="auto")) == len(cloud(voxel_size=0.005 * float(np.median(scene.depth))))
    official = scene_cloud(scene, CloudFilter.official(remove_far_points=True))[0]
    assert 0.5 * count < len(official) < 0.8 * count


def test_empty_clouds_can_be_written(scene, tmp_path):
    write_scene(dataclasses.replace(scene, points=np.full_like(scene.points, np.nan)), tmp_path)
    assert b"element vertex 0" in (tmp_path / "points.ply").read_bytes()


def test_official_camera_files_are_read(tmp_path):
    w2c = np.eye(4)
    w2c[0, 3] = 1 / 3
    path = tmp_path / "cameras.json"
    path.write_text(json.dumps({"extrinsics": [w2c.tolist()] * 2, "intrinsics": [np.eye(3).tolist()] * 2, "other": 1}))
    cameras = read_cameras(path)
    assert cameras.image_size is None
    assert cameras.w2c[1, 0, 3] == 1 / 3  # in double precision


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("nonsense", "is not JSON"),
        ("[]", "holds no JSON object"),
        ('{"extrinsics": [[1, 2], [3]], "intrinsics": []}', "is no camera file"),
        ('{"extrinsics": [], "intrinsics": []}', "as many 4x4 as 3x3"),
        ('{"extrinsics": [[[1]]], "intrinsics": [[[1]]]}', "as many 4x4 as 3x3"),
    ],
)
def test_other_files_are_not_taken_for_cameras(tmp_path, document, message):
    (tmp_path / "cameras.json").write_text(document)
    with pytest.raises(UserError, match=message):
        read_cameras(tmp_path / "cameras.json")


def test_missing_and_foreign_cameras_are_refused(tmp_path):
    with pytest.raises(UserError, match="cannot read"):
        read_cameras(tmp_path / "none.json")
    write_cameras(tmp_path / "c.json", np.eye(4)[None], np.eye(3)[None], (4, 4))
    text = (tmp_path / "c.json").read_text().replace("opencv_w2c", "opengl_c2w")
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(UserError, match="opengl_c2w"):
        read_cameras(tmp_path / "c.json")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(UserError, match="No space left on device"), replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise OSError(28, "No space left on device")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_named(scene, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot write .*file/out"):
        write_scene(scene, tmp_path / "file" / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_named(scene, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        write_scene(scene, tmp_path / "out")


def test_run_reports_time_their_stages(tmp_path, capsys):
    report = RunReport({"side": 112, "weights": tmp_path})
    with report.stage("Computing"):
        jax.jit(lambda x: jnp.linalg.inv(x) + 3)(jnp.eye(3)).block_until_ready()
    with pytest.raises(UserError), report.stage("Failing"):
        raise UserError("no")
    report.write(tmp_path / "run.json")
    document = json.loads((tmp_path / "run.json").read_text())
    assert document["options"] == {"side": 112, "weights": str(tmp_path)}
    (stage,) = document["stages"]
    assert stage["stage"] == "Computing"
    assert 0 < stage["compile_seconds"] < stage["seconds"]
    assert stage["host_peak_bytes"] > 1e7
    assert "Computing ..." in capsys.readouterr().err
