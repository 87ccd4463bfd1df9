"""Every format of a scene folder, read back by the tools that it is for."""

import dataclasses
import json
import re
import shutil

import av
import numpy as np
import pytest
import trimesh
from PIL import Image

from gen3r_jax.data.video import Video
from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import FORMATS, scene_folder, unique_folder, write_scene
from gen3r_jax.export.gaussians import SH_C0, scene_gaussians
from gen3r_jax.export.glb import write_glb
from gen3r_jax.export.gltf import linear_colors
from gen3r_jax.export.pointcloud import CloudFilter, confident_pixels, scene_cloud
from gen3r_jax.export.read import read_scene
from gen3r_jax.export.viewer_page import write_viewer
from gen3r_jax.geometry.camera_files.read import read_camera_file
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.geometry.trajectories import camera_path
from gen3r_jax.scene import Scene
from tests.helpers.node_tools import needs_node_tools, read_gltf

SIZE, FRAMES = (48, 64), 4
EVERYTHING = CloudFilter(confidence_percentile=0.0, outliers=False, voxel_size=None)


@pytest.fixture(scope="module")
def scene():
    """A coloured, tilted wall seen by a camera that goes round it."""
    v, u = np.mgrid[: SIZE[0], : SIZE[1]]
    w2c = invert_se3(camera_path("orbit_left", FRAMES, 2.0)).astype(np.float32)
    depth = np.tile(2 + u / SIZE[1], (FRAMES, 1, 1)).astype(np.float32)
    intrinsics = np.tile(np.array([[50, 0, 32], [0, 52, 24], [0, 0, 1]], np.float32), (FRAMES, 1, 1))
    rgb = np.tile(np.stack([3 * u, 5 * v, 128 + 0 * u], axis=-1).astype(np.uint8), (FRAMES, 1, 1, 1))
    rgb[..., 2] = 60 * np.arange(FRAMES)[:, None, None]
    return Scene(
        rgb=rgb,
        depth=depth,
        confidence=(1 + 10 * np.random.default_rng(0).random(depth.shape)).astype(np.float32),
        w2c=w2c,
        intrinsics=intrinsics,
        points=unproject_depth(depth, w2c, intrinsics, offset=0.5),
        prompt="a wall <script>",
    )


@pytest.fixture(scope="module")
def folder(scene, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scene")
    write_scene(scene, folder, cloud=EVERYTHING)
    return folder


def test_all_formats_are_written(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        *("rgb.mp4", "depth.mp4", "depth.npz", "confidence.npz", "cameras.json", "prompts.txt", "points.ply"),
        *("sheet.png", "transforms.json", "images", "sparse", "scene.glb", "gaussians.ply", "viewer.html"),
    }


def test_a_shorter_scene_leaves_no_frame_of_a_longer_one(scene, tmp_path):
    write_scene(scene, tmp_path, formats=["nerfstudio"])
    arrays = {name: getattr(scene, name)[:2] for name in ("rgb", "depth", "confidence", "w2c", "intrinsics", "points")}
    write_scene(dataclasses.replace(scene, **arrays), tmp_path, formats=["nerfstudio"])
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["frame_00000.png", "frame_00001.png"]


def test_formats_can_be_chosen(scene, tmp_path):
    write_scene(scene, tmp_path / "alone", formats=["nerfstudio"])
    assert "ply_file_path" not in json.loads((tmp_path / "alone" / "transforms.json").read_text())
    shutil.rmtree(tmp_path / "alone")
    write_scene(scene, tmp_path, formats=["nerfstudio", "ply"])
    assert json.loads((tmp_path / "transforms.json").read_text())["ply_file_path"] == "points.ply"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("cameras.json", "prompts.txt", "points.ply", "transforms.json", "images"),
    }
    assert {name for name, form in FORMATS.items() if form.default} == {
        *("video", "sheet", "maps", "ply", "nerfstudio", "colmap", "glb", "gaussians", "viewer"),
    }
    assert {name for name, form in FORMATS.items() if not form.default} == {"spz", "splat_glb", "usd", "mesh"}


@pytest.mark.parametrize(
    ("name", "form"), [("cameras.json", "official"), ("transforms.json", "nerfstudio"), ("sparse/0", "colmap")]
)
def test_cameras_are_the_same_in_every_format(scene, folder, name, form):
    c2w, intrinsics = read_camera_file(folder / name, FRAMES, SIZE, form)
    np.testing.assert_allclose(c2w, invert_se3(scene.w2c.astype(np.float64)), atol=1e-6)
    np.testing.assert_allclose(intrinsics, scene.intrinsics, atol=1e-5)
    unnamed, _ = read_camera_file(folder / name, FRAMES, SIZE)  # our own files say what they are
    np.testing.assert_array_equal(unnamed, c2w)


def test_points_fall_on_the_centres_of_their_pixels(scene, folder):
    cloud = trimesh.load(folder / "points.ply")
    points, colors = np.asarray(cloud.vertices), np.asarray(cloud.colors)[:, :3]
    assert len(points) == FRAMES * SIZE[0] * SIZE[1]
    c2w, intrinsics = read_camera_file(folder / "transforms.json", FRAMES, SIZE, "nerfstudio")
    per_frame = np.split(np.arange(len(points)), FRAMES)
    for index in range(FRAMES):
        local = (points[per_frame[index]] - c2w[index, :3, 3]) @ c2w[index, :3, :3]
        pixels = local @ intrinsics[index].T
        pixels = pixels[:, :2] / pixels[:, 2:]
        np.testing.assert_allclose(pixels % 1, 0.5, atol=0.01)
        pixels = np.floor(pixels).astype(int)
        assert pixels.min() >= 0 and (pixels < (SIZE[1], SIZE[0])).all()
        np.testing.assert_array_equal(colors[per_frame[index]], scene.rgb[index][pixels[:, 1], pixels[:, 0]])


def test_colmap_reads_the_model(scene, folder):
    pycolmap = pytest.importorskip("pycolmap")
    model = pycolmap.Reconstruction(str(folder / "sparse" / "0"))
    assert model.num_images() == model.num_cameras() == FRAMES
    images = sorted(model.images.values(), key=lambda image: image.name)
    assert all((folder / "images" / image.name).exists() for image in images)
    points = np.stack([point.xyz for point in model.points3D.values()])
    assert len(points) == FRAMES * SIZE[0] * SIZE[1]
    for image, w2c, intrinsics in zip(images, scene.w2c, scene.intrinsics, strict=True):
        np.testing.assert_allclose(image.cam_from_world().matrix(), w2c[:3], atol=1e-6)
        np.testing.assert_allclose(model.cameras[image.camera_id].calibration_matrix(), intrinsics, atol=1e-5)


def test_glb_holds_points_and_cameras(scene, folder):
    loaded = trimesh.load(folder / "scene.glb")
    kinds = {type(geometry).__name__ for geometry in loaded.geometry.values()}
    assert kinds == {"PointCloud", "Path3D"}
    cloud = next(geometry for geometry in loaded.dump() if isinstance(geometry, trimesh.PointCloud))
    points, _ = scene_cloud(scene, EVERYTHING)
    np.testing.assert_allclose(np.asarray(cloud.vertices) * [1, -1, -1], points, atol=1e-5)


@needs_node_tools
def test_colours_of_the_glb_are_read(scene, folder):
    """By Babylon.js: trimesh cuts colours of 16 bits to their lower 8."""
    read = read_gltf(folder / "scene.glb")
    points, colors = scene_cloud(scene, EVERYTHING)
    np.testing.assert_allclose(np.reshape(read["points"]["positions"], (-1, 3)) * [1, -1, -1], points, atol=1e-5)
    linear = np.reshape(read["points"]["colors"], (-1, 4))[:, :3]
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(255 * srgb, colors, atol=0.03)
    assert len(read["cameras"]["positions"]) == FRAMES * 8 * 2 * 3


def test_colours_of_vertices_are_in_linear_light():
    """Every one of the 256 levels is told from its neighbours."""
    grey = np.array([[0, 1, 188], [255, 128, 64]], np.uint8)
    np.testing.assert_array_equal(linear_colors(grey), [[0, 20, 32957, 65535], [65535, 14146, 3360, 65535]])
    assert len(np.unique(linear_colors(np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1))[:, 0])) == 256


def test_gaussians_have_the_columns_of_the_original(scene, folder):
    cloud = trimesh.load(folder / "gaussians.ply")
    data = cloud.metadata["_ply_raw"]["vertex"]["data"]
    assert data.dtype.names == (
        *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2", "opacity"),
        *("scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
    )
    kept = scene.confidence >= np.percentile(scene.confidence, 20)
    points = np.stack([data[axis] for axis in "xyz"], axis=-1)
    np.testing.assert_allclose(points, scene.points[kept], atol=1e-6)
    colors = 0.5 + SH_C0 * np.stack([data[f"f_dc_{i}"] for i in range(3)], axis=-1)
    np.testing.assert_allclose(255 * colors, scene.rgb[kept], atol=1e-3)
    opacity = 1 / (1 + np.exp(-data["opacity"]))
    assert 0.1 <= opacity.min() < opacity.max() < 0.95
    np.testing.assert_allclose(np.exp(data["scale_0"]), scene.depth[kept] / np.sqrt(50 * 52), rtol=1e-5)


@pytest.mark.parametrize("hole", ["confidence", "depth", "points"])
def test_unknown_pixels_are_no_points(scene, hole):
    """However many they are: more than the share that is left out for its confidence."""
    value = {"confidence": 0, "depth": -1, "points": np.nan}[hole]
    array = getattr(scene, hole).copy()
    array[:, :, 16:] = value
    scene = dataclasses.replace(scene, **{hole: array})
    known = confident_pixels(scene, 20)
    assert not known[:, :, 16:].any() and 0.7 < known[:, :, :16].mean() < 0.85
    assert len(scene_gaussians(scene).centers) == known.sum()
    assert 0 < len(scene_cloud(scene, EVERYTHING)[0]) == scene.depth[:, :, :16].size


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, -1])
@pytest.mark.parametrize("share", [2, SIZE[1]])
def test_unknown_depth_reaches_neither_glb_nor_viewer(scene, tmp_path, value, share):
    """Wherever it is, and also where it is everywhere; the cameras are drawn then, too."""
    depth = scene.depth.copy()
    depth[:, :, :share] = value
    scene = dataclasses.replace(
        scene, depth=depth, points=unproject_depth(depth, scene.w2c, scene.intrinsics, offset=0.5)
    )
    cloud = scene_cloud(scene, EVERYTHING)
    write_glb(tmp_path / "scene.glb", scene, *cloud)
    write_viewer(tmp_path / "viewer.html", scene, *cloud)
    for geometry in trimesh.load(tmp_path / "scene.glb").geometry.values():
        assert np.isfinite(geometry.vertices).all() and np.ptp(geometry.vertices, axis=0).max() > 0
    assert re.search(r"\b(NaN|Infinity)\b", (tmp_path / "viewer.html").read_text().split('id="scene-data"')[-1]) is None
    assert len(cloud[0]) == depth[..., share:].size


def test_videos_keep_frames_and_their_order(scene, folder):
    video = Video(folder / "rgb.mp4")
    frames = np.stack(video.read(range(len(video))))
    assert frames.shape == scene.rgb.shape
    assert np.abs(frames.astype(int) - scene.rgb).mean() < 6
    assert len(Video(folder / "depth.mp4")) == FRAMES


def test_other_programs_read_plain_files(scene, folder):
    """Python's json, Pillow and PyAV, which know nothing of this project."""
    cameras = json.loads((folder / "cameras.json").read_text())
    np.testing.assert_array_equal(np.float32(cameras["extrinsics"]), scene.w2c)
    np.testing.assert_array_equal(np.float32(cameras["intrinsics"]), scene.intrinsics)
    capture = json.loads((folder / "transforms.json").read_text())
    for number, frame in enumerate(capture["frames"]):
        c2w = np.array(frame["transform_matrix"]) @ np.diag([1, -1, -1, 1])  # OpenGL's axes
        np.testing.assert_allclose(c2w @ scene.w2c[number], np.eye(4), atol=1e-6)
        with Image.open(folder / frame["file_path"]) as picture:
            np.testing.assert_array_equal(np.asarray(picture), scene.rgb[number])
    with Image.open(folder / "sheet.png") as sheet:
        assert sheet.mode == "RGB" and sheet.width > FRAMES * SIZE[1]
    shown = {}
    for name in ("rgb.mp4", "depth.mp4"):
        with av.open(folder / name) as container:
            shown[name] = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert shown["rgb.mp4"].shape == shown["depth.mp4"].shape == scene.rgb.shape
    assert np.abs(shown["rgb.mp4"].astype(int) - scene.rgb).mean() < 6
    bright = shown["depth.mp4"].mean(axis=(0, 1, 3))
    assert (np.diff(bright[::8]) < 0).all()  # the wall goes away to the right


def test_a_folder_is_read_back(scene, folder):
    read = read_scene(folder)
    np.testing.assert_array_equal(read.depth, scene.depth)
    np.testing.assert_allclose(read.points, scene.points, atol=1e-5)
    np.testing.assert_allclose(read.confidence, scene.confidence, rtol=1e-3)
    assert read.prompt == scene.prompt


def test_folders_that_are_not_whole(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "scene")
    (tmp_path / "scene" / "depth.npz").write_bytes(b"no")
    with pytest.raises(UserError, match="is damaged"):
        read_scene(tmp_path / "scene")
    (tmp_path / "scene" / "rgb.mp4").unlink()
    with pytest.raises(UserError, match=r"lacks rgb.mp4"):
        read_scene(tmp_path / "scene")


def test_nothing_half_written_looks_complete(tmp_path):
    with pytest.raises(RuntimeError), scene_folder(tmp_path / "scene") as partial:
        (partial / "run.json").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    first, second = unique_folder(tmp_path, "now"), unique_folder(tmp_path, "now")
    assert (first.name, second.name) == ("now", "now-2")
    with scene_folder(first) as partial:
        (partial / "run.json").touch()
    assert [path.name for path in first.glob("[!.]*")] == ["run.json"]
    with pytest.raises(UserError, match="cannot write"), scene_folder(first):
        pass
