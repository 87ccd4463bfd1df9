"""Camera files that other programs wrote, each with a value that is known; and paths resampled to other lengths."""

import json
import math

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.kitti import read_kitti, write_kitti
from gen3r_jax.geometry.camera_files.read import read_camera_file
from gen3r_jax.geometry.cameras import OPENGL_AXES
from gen3r_jax.geometry.trajectories import camera_path, frame_places, resampled

SIZE = (112, 224)  # height, width
C2W = camera_path("spiral", 4, 2.0)
W2C = np.linalg.inv(C2W)


def colmap_model(folder, binary, model, parameters):
    """Has COLMAP itself write a model; its pictures lie in two folders."""
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed (extra: dev)")
    reconstruction = pycolmap.Reconstruction()
    camera = pycolmap.Camera(model=model, width=448, height=224, params=parameters, camera_id=5)
    reconstruction.add_camera_with_trivial_rig(camera)
    for number, name in ((3, "b/10.jpg"), (2, "b/9.jpg"), (0, "a/1.jpg"), (1, "a/2.jpg")):
        image = pycolmap.Image(name=name, camera_id=5, image_id=number + 1)
        reconstruction.add_image_with_trivial_frame(image, pycolmap.Rigid3d(W2C[number, :3]))
    (folder / "sparse" / "0").mkdir(parents=True)
    (reconstruction.write_binary if binary else reconstruction.write_text)(folder / "sparse" / "0")
    return folder


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("SIMPLE_RADIAL", [400, 224, 110, 0]),
        ("RADIAL", [400, 224, 110, 0, 0]),
        ("FULL_OPENCV", [400, 400, 224, 110, *[0] * 8]),
    ],
)
def test_models_of_colmap(tmp_path, binary, model, parameters):
    c2w, intrinsics = read_camera_file(colmap_model(tmp_path, binary, model, parameters), 4, SIZE)
    np.testing.assert_allclose(c2w, C2W, atol=1e-12)
    np.testing.assert_allclose(intrinsics, np.tile([[200, 0, 112], [0, 200, 55], [0, 0, 1]], (4, 1, 1)))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("model", "parameters", "message"),
    [
        ("FULL_OPENCV", [400, 400, 224, 110, *[0] * 7, 0.1], "a/1.jpg\\) has a distorted lens"),
        ("OPENCV_FISHEYE", [400, 400, 224, 110, 0, 0, 0, 0], "camera 5 is OPENCV_FISHEYE; undistort the pictures"),
        ("EUCM", [400, 400, 224, 110, 0.5, 1], "camera 5 is EUCM; undistort the pictures"),
    ],
)
def test_lenses_of_colmap_that_are_no_pinholes(tmp_path, binary, model, parameters, message):
    with pytest.raises(UserError, match=message):
        read_camera_file(colmap_model(tmp_path, binary, model, parameters), 4, SIZE)


def test_a_transforms_file_of_nerf(tmp_path):
    """`camera_angle_x` for all, no sizes: the picture beside the file, whose name lacks its suffix, tells them."""
    Image.new("RGB", (448, 224)).save(tmp_path / "r_0.png")
    frames = [{"file_path": "./r_0", "rotation": 0.1, "transform_matrix": (C2W[0] @ OPENGL_AXES).tolist()}]
    document = {"camera_angle_x": 2 * math.atan(224 / 400), "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(document))
    c2w, intrinsics = read_camera_file(tmp_path / "transforms.json", 1, SIZE, "nerfstudio")
    np.testing.assert_allclose(c2w, C2W[:1], atol=1e-12)
    np.testing.assert_allclose(intrinsics[0], [[200, 0, 112], [0, 200, 56], [0, 0, 1]])
    (tmp_path / "r_0.png").unlink()
    with pytest.raises(UserError, match="frame 0 lacks w, h, fl_x, fl_y, cx, cy"):
        read_camera_file(tmp_path / "transforms.json", 1, SIZE, "nerfstudio")


def test_intrinsics_of_each_frame(tmp_path):
    """Those of a frame stand before those of the file, whose angles give the rest."""
    shared = {"w": 448, "h": 224, "camera_angle_x": math.pi / 2, "camera_angle_y": 2 * math.atan(112 / 300)}
    frames = [
        {"file_path": "0.png", "transform_matrix": C2W[0].tolist()},
        {"file_path": "1.png", "transform_matrix": C2W[1].tolist(), "fl_x": 100.0, "fl_y": 110.0, "cx": 220.0},
    ]
    (tmp_path / "transforms.json").write_text(json.dumps({**shared, "frames": frames}))
    _, intrinsics = read_camera_file(tmp_path / "transforms.json", 2, SIZE, "opencv-transforms")
    np.testing.assert_allclose(intrinsics[0], [[112, 0, 112], [0, 150, 56], [0, 0, 1]])
    np.testing.assert_allclose(intrinsics[1], [[50, 0, 110], [0, 55, 56], [0, 0, 1]])


def test_a_camera_path_of_nerfstudio(tmp_path):
    """As its viewer writes them: row by row, OpenGL axes, a vertical angle of view."""
    frames = [{"camera_to_world": (c2w @ OPENGL_AXES).ravel().tolist(), "fov": 90, "aspect": 2} for c2w in C2W]
    document = {"camera_type": "perspective", "render_height": 100, "render_width": 200, "camera_path": frames}
    path = tmp_path / "camera_path.json"
    path.write_text(json.dumps(document | {"fps": 24, "seconds": 1, "is_cycle": False, "keyframes": []}))
    c2w, intrinsics = read_camera_file(path, 4, SIZE)
    np.testing.assert_allclose(c2w, C2W, atol=1e-12)
    np.testing.assert_allclose(intrinsics[3], [[56, 0, 112], [0, 56, 56], [0, 0, 1]])
    for change, message in (
        ({"camera_type": "fisheye"}, r"is no pinhole \(fisheye\)"),
        ({"camera_path": []}, "lists no cameras"),
        ({"render_width": None}, "needs render_height and render_width"),
        ({"camera_path": [{**frames[0], "fov": 180}]}, "camera 0 needs fov"),
        ({"camera_path": [{**frames[0], "camera_to_world": [1, 2]}]}, "camera 0 needs camera_to_world, 16 numbers"),
    ):
        path.write_text(json.dumps(document | change))
        with pytest.raises(UserError, match=message):
            read_camera_file(path, 1, SIZE)


def test_a_clip_of_realestate10k(tmp_path):
    """As NumPy writes its lines. Pixels are square, so pictures are as wide as the parts of the focal lengths say."""
    rows = [[33_367 * i, 0.5, 1, 0.5, 0.5, 0, 0, *w2c[:3].ravel()] for i, w2c in enumerate(W2C)]
    np.savetxt(tmp_path / "clip.txt", rows, header="https://www.youtube.com/watch?v=x", comments="", fmt="%.17g")
    c2w, intrinsics = read_camera_file(tmp_path / "clip.txt", 4, SIZE)
    np.testing.assert_allclose(c2w, C2W, atol=1e-12)
    np.testing.assert_allclose(intrinsics[0], [[112, 0, 112], [0, 112, 56], [0, 0, 1]])


def test_poses_of_kitti(tmp_path):
    np.savetxt(tmp_path / "00.txt", C2W[:, :3].reshape(-1, 12))
    np.testing.assert_allclose(read_camera_file(tmp_path / "00.txt", 4, SIZE)[0], C2W, atol=1e-12)
    write_kitti(tmp_path / "01.txt", C2W)
    np.testing.assert_array_equal(read_kitti(tmp_path / "01.txt").c2w, C2W)


@pytest.mark.parametrize(
    "arrays",
    [
        # What VGGT's demo and Depth Anything 3 save, in their shapes and types.
        {"extrinsic": W2C[:, :3], "intrinsic": "K", "depth": np.ones((4, 224, 448, 1)), "images": np.ones(3)},
        {"extrinsic": W2C[None, :, :3], "intrinsic": "K", "depth_conf": np.ones((1, 4, 224, 448))},
        {"extrinsics": W2C[:, :3].astype(np.float32), "intrinsics": "K", "depth": np.ones((4, 224, 448), np.float16)},
        {"c2w": C2W, "K": "one", "height": 224, "width": 448},
    ],
)
def test_archives_of_numpy(tmp_path, arrays):
    k = np.array([[400.0, 0, 220], [0, 380, 112], [0, 0, 1]])
    given = {name: value for name, value in arrays.items() if not isinstance(value, str)}
    given |= {
        name: k if value == "one" else np.tile(k, (4, 1, 1)) for name, value in arrays.items() if name not in given
    }
    np.savez(tmp_path / "predictions.npz", **given)
    c2w, intrinsics = read_camera_file(tmp_path / "predictions.npz", 4, SIZE)
    np.testing.assert_allclose(c2w, C2W, atol=1e-6)
    np.testing.assert_allclose(intrinsics, np.tile([[200, 0, 110], [0, 190, 56], [0, 0, 1]], (4, 1, 1)))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"depth": np.ones((1, 2, 2))}, "holds no poses; needed is one of extrinsic"),
        ({"c2w": C2W, "w2c": W2C}, "holds w2c and c2w"),
        ({"c2w": C2W[:, :2]}, r"holds an array \[4, 2, 4\]"),
        ({"c2w": C2W, "K": np.eye(2)}, "needs intrinsics of 3 x 3 numbers"),
        ({"c2w": np.array([None])}, "cannot read the arrays"),
    ],
)
def test_archives_that_hold_something_else(tmp_path, arrays, message):
    np.savez(tmp_path / "other.npz", **arrays)
    with pytest.raises(UserError, match=message):
        read_camera_file(tmp_path / "other.npz", 4, SIZE)
    content = (tmp_path / "other.npz").read_bytes()
    (tmp_path / "other.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="cannot read the arrays"):
        read_camera_file(tmp_path / "other.npz", 4, SIZE)


@pytest.mark.parametrize("shape", [(16,), (12,), (4, 4), (3, 4)])
def test_matrices_as_text(tmp_path, shape):
    """A matrix a line, or a line for each of its rows; which way they map is never guessed."""
    rows = C2W[:, : math.prod(shape) // 4].reshape(-1, shape[-1])
    np.savetxt(tmp_path / "poses.txt", rows, header="a comment")
    np.testing.assert_allclose(read_camera_file(tmp_path / "poses.txt", 4, SIZE, "c2w")[0], C2W, atol=1e-12)
    np.testing.assert_allclose(read_camera_file(tmp_path / "poses.txt", 4, SIZE, "w2c")[0], W2C, atol=1e-12)
    if shape != (12,):  # KITTI's
        with pytest.raises(UserError, match="add --camera_format c2w or w2c"):
            read_camera_file(tmp_path / "poses.txt", 4, SIZE)


def keys():
    """Three poses: a quarter turn while moving by 1, then straight on by 2."""
    c2w = np.tile(np.eye(4), (3, 1, 1))
    c2w[1:, :3, :3] = Rotation.from_euler("y", 90, degrees=True).as_matrix()
    c2w[:, 0, 3] = [0, 1, 3]
    return c2w


def test_fewer_poses_than_frames_are_resampled(tmp_path, capsys):
    """Positions on lines, rotations on the sphere; a line says so."""
    np.savez(tmp_path / "keys.npz", c2w=keys(), K=[[[w, 0, 112], [0, w, 56], [0, 0, 1]] for w in (100.0, 200, 200)])
    c2w, intrinsics = read_camera_file(tmp_path / "keys.npz", 5, SIZE)
    assert "keys.npz: 3 poses are resampled along their path to 5 frames" in capsys.readouterr().err
    np.testing.assert_allclose(c2w[:, 0, 3], [0, 0.5, 1, 2, 3], atol=1e-12)
    half = math.sqrt(0.5)
    np.testing.assert_allclose(c2w[1, :3, :3], [[half, 0, half], [0, 1, 0], [-half, 0, half]], atol=1e-12)
    np.testing.assert_allclose(c2w[3, :3, :3], keys()[1, :3, :3], atol=1e-12)
    np.testing.assert_allclose(intrinsics[:, 0, 0], [100, 150, 200, 200, 200])


def test_more_poses_than_frames_are_resampled(tmp_path):
    np.savez(tmp_path / "path.npz", c2w=camera_path("orbit_left", 49, 2.0))
    c2w, _ = read_camera_file(tmp_path / "path.npz", 13, SIZE)
    np.testing.assert_allclose(c2w, camera_path("orbit_left", 13, 2.0), atol=1e-12)


def test_one_pose_stays(tmp_path):
    np.savez(tmp_path / "still.npz", c2w=keys()[1])
    np.testing.assert_array_equal(read_camera_file(tmp_path / "still.npz", 3, SIZE)[0], keys()[[1, 1, 1]])


def test_frames_are_even_in_time(tmp_path):
    """Poses with times 0, 1 and 4 s: of five frames the second is shown after 1 s."""
    lines = [f"{time} {x} 0 0 0 0 0 1" for time, x in ((0, 0), (1, 1), (4, 3))]
    (tmp_path / "poses.txt").write_text("\n".join(lines))
    c2w, _ = read_camera_file(tmp_path / "poses.txt", 5, SIZE)
    np.testing.assert_allclose(c2w[:, 0, 3], [0, 1, 5 / 3, 7 / 3, 3])


@pytest.mark.parametrize(
    ("easing", "places"),
    [
        ("none", [0, 0.5, 1, 1.5, 2]),
        ("ends", [0, 2 * 0.15625, 1, 2 * 0.84375, 2]),  # 3 t^2 - 2 t^3 at a quarter is 0.15625
        ("keys", [0, 0.5, 1, 1.5, 2]),
    ],
)
def test_easing(easing, places):
    np.testing.assert_allclose(frame_places(3, 5, easing), places)
    if easing == "keys":
        np.testing.assert_allclose(frame_places(3, 9, easing)[:3], [0, 0.15625, 0.5])
    np.testing.assert_allclose(resampled(keys(), None, 3, "", easing)[0], keys(), atol=1e-12)
    x = camera_path("truck_right", 5, 1.0, distance=2, easing=easing)[:, 0, 3]
    np.testing.assert_allclose(x, 2 * frame_places(2, 5, easing))
    with pytest.raises(UserError, match="camera_easing 'fast' is none of none, ends, keys"):
        frame_places(3, 5, "fast")
