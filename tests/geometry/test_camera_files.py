"""Camera files of other tools: the same cameras from each, and what is refused."""

import json

import numpy as np
import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.export.camera_plot import plot_cameras
from gen3r_jax.geometry.camera_files.camera_path import write_camera_path
from gen3r_jax.geometry.camera_files.kitti import write_kitti
from gen3r_jax.geometry.camera_files.official import write_cameras
from gen3r_jax.geometry.camera_files.read import FORMATS, read_camera_file
from gen3r_jax.geometry.camera_files.realestate10k import Rows, write_realestate10k
from gen3r_jax.geometry.camera_files.transforms import write_transforms
from gen3r_jax.geometry.camera_files.tum import read_tum, write_tum
from gen3r_jax.geometry.cameras import OPENGL_AXES, Cameras, matrix_to_quaternion
from gen3r_jax.geometry.trajectories import camera_path
from tests.helpers.raw_sets import mvimgnet, shared

SIZE = (112, 224)  # height, width
C2W = camera_path("spiral", 6, 2.0)
MANY = Cameras(
    camera_path("spiral", 12, 2.0),
    np.tile(np.array([[200.0, 0, 110], [0, 190.0, 57], [0, 0, 1]]), (12, 1, 1)),
    np.tile(SIZE, (12, 1)),
)
K = np.tile(np.array([[200.0, 0, 110], [0, 190.0, 57], [0, 0, 1]]), (6, 1, 1))
MANY = Cameras(camera_path("spiral", 12, 2.0), np.tile(K[0], (12, 1, 1)), np.tile(SIZE, (12, 1)))


def transforms(path, c2w, statement=False):
    write_transforms(path, [f"{i}.png" for i in range(len(c2w))], Cameras(c2w, K, np.tile(SIZE, (len(c2w), 1))))
    if not statement:
        document = json.loads(path.read_text())
        del document["camera_convention"]
        path.write_text(json.dumps(document))
    return path


def colmap(folder, model="PINHOLE", name="{:03}.png"):
    folder.mkdir()
    (folder / "cameras.txt").write_text(f"# comment\n7 {model} 224 112 200 190 110 57\n")
    lines = ["# comment"]
    for i in reversed(range(len(C2W))):  # images come in any order
        w2c = np.linalg.inv(C2W[i])
        x, y, z, w = matrix_to_quaternion(w2c[:3, :3])
        lines += [
            " ".join(map(repr, map(float, (w, x, y, z, *w2c[:3, 3])))).join((f"{i + 1} ", f" 7 {name.format(i)}"))
        ]
        lines += ["1.0 2.0 -1" if i % 2 else ""]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    return folder


def tum(path, rows=C2W):
    lines = ["# time tx ty tz qx qy qz qw"]
    for i, pose in enumerate(rows):
        numbers = (i / 12, *pose[:3, 3], *matrix_to_quaternion(pose[:3, :3]))
        lines.append(" ".join(str(float(number)) for number in numbers))
    path.write_text("\n".join(lines))
    return path


def write(form, folder):
    if form == "official":
        write_cameras(folder / "cameras.json", np.linalg.inv(C2W), K, SIZE)
        return folder / "cameras.json"
    if form == "nerfstudio":
        return transforms(folder / "transforms.json", C2W @ OPENGL_AXES)
    if form == "opencv-transforms":
        return transforms(folder / "transforms.json", C2W)
    if form == "colmap":
        return colmap(folder / "model")
    if form == "npz":
        np.savez(folder / "cameras.npz", w2c=np.linalg.inv(C2W)[:, :3], K=K[0], height=SIZE[0], width=SIZE[1])
        return folder / "cameras.npz"
    if form == "camera-path":
        write_camera_path(folder / "camera_path.json", Cameras(C2W, K, np.tile(SIZE, (6, 1))), fps=24)
        return folder / "camera_path.json"
    if form == "realestate10k":
        rows = Rows(np.arange(6) * 33_367.0, np.tile([0.9, 1.6, 0.5, 0.5], (6, 1)), C2W)
        write_realestate10k(folder / "clip.txt", "https://www.youtube.com/watch?v=x", rows)
        return folder / "clip.txt"
    if form == "kitti":
        write_kitti(folder / "00.txt", C2W)
        return folder / "00.txt"
    if form in ("c2w", "w2c"):
        np.save(folder / "poses.npy", C2W if form == "c2w" else np.linalg.inv(C2W))
        return folder / "poses.npy"
    return tum(folder / "poses.txt")


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_gives_the_same_cameras(form, tmp_path):
    c2w, intrinsics = read_camera_file(write(form, tmp_path), 6, SIZE, form)
    np.testing.assert_allclose(c2w, C2W, atol=1e-12)
    if form in ("tum", "kitti", "c2w", "w2c"):
        assert intrinsics is None
    elif form not in ("camera-path", "realestate10k"):  # which have square pixels: test_camera_forms.py
        np.testing.assert_allclose(intrinsics, K, atol=1e-9)


@pytest.mark.parametrize("form", ["official", "camera-path", "colmap", "tum", "kitti", "realestate10k", "npz"])
def test_forms_that_cannot_be_mistaken_need_no_name(form, tmp_path):
    np.testing.assert_allclose(read_camera_file(write(form, tmp_path), 6, SIZE)[0], C2W, atol=1e-12)


def test_axes_are_not_guessed(tmp_path):
    with pytest.raises(UserError, match="does not say its axes: add --camera_format nerfstudio"):
        read_camera_file(write("nerfstudio", tmp_path), 6, SIZE)
    told = transforms(tmp_path / "told.json", C2W, statement=True)
    np.testing.assert_allclose(read_camera_file(told, 6, SIZE)[0], C2W, atol=1e-12)
    with pytest.raises(UserError, match="says that its axes are opencv_c2w; leave"):
        read_camera_file(told, 6, SIZE, "nerfstudio")
    told.write_text(told.read_text().replace("opencv_c2w", "opengl_c2w"))
    np.testing.assert_allclose(read_camera_file(told, 6, SIZE)[0], C2W @ OPENGL_AXES, atol=1e-12)
    told.write_text(told.read_text().replace('"frames"', '"k1": 0.1, "frames"'))
    with pytest.raises(UserError, match="distorted"):
        read_camera_file(told, 6, SIZE)


def test_intrinsics_follow_the_images_to_another_size(tmp_path):
    _, intrinsics = read_camera_file(write("official", tmp_path), 1, (224, 224))
    # Twice as large, then the middle 224 of 448 columns.
    np.testing.assert_allclose(intrinsics[0], [[400, 0, 108], [0, 380, 114], [0, 0, 1]])


def test_colmap_files_as_people_write_them(tmp_path):
    folder = colmap(tmp_path / "model")
    text = (folder / "images.txt").read_text()
    (folder / "images.txt").write_text("\n\n" + text)
    np.testing.assert_allclose(read_camera_file(folder, 6, SIZE)[0], C2W, atol=1e-12)
    first = text.splitlines()[1].split()
    (folder / "images.txt").write_text(" ".join([first[0], "0", "0", "0", "0", *first[5:]]) + "\n\n")
    with pytest.raises(UserError, match="which is no rotation"):
        read_camera_file(folder, 1, SIZE)


def shuffled(path, change=lambda frames: frames):
    """The frames of a transforms.json, called 1.png to 12.png, in another order."""
    write_transforms(path, [f"{i + 1}.png" for i in range(12)], MANY)
    document = json.loads(path.read_text())
    document["frames"] = change([document["frames"][i] for i in (10, 3, 0, 11, 7, 1, 2, 9, 4, 6, 5, 8)])
    path.write_text(json.dumps(document))
    return path


def test_frames_come_by_their_names(tmp_path, capsys):
    """Numbers count as numbers, folders belong to names, and what is missing is said."""
    np.testing.assert_allclose(read_camera_file(shuffled(tmp_path / "a.json"), 12, SIZE)[0], MANY.c2w, atol=1e-12)
    assert not capsys.readouterr().err

    def without_5_and_6(frames):
        return [frame for frame in frames if frame["file_path"] not in ("images/5.png", "images/6.png")]

    c2w, _ = read_camera_file(shuffled(tmp_path / "b.json", without_5_and_6), 10, SIZE)
    np.testing.assert_allclose(c2w, MANY.c2w[[0, 1, 2, 3, *range(6, 12)]], atol=1e-12)
    assert "b.json: its frames are not evenly spaced: images/7.png follows images/4.png" in capsys.readouterr().err

    def in_two_folders(frames):
        names = {f"images/{i + 1}.png": f"images/{'left' if i < 6 else 'right'}/{i % 6}.png" for i in range(12)}
        return [{**frame, "file_path": names[frame["file_path"]]} for frame in frames]

    c2w, _ = read_camera_file(shuffled(tmp_path / "c.json", in_two_folders), 12, SIZE)
    np.testing.assert_allclose(c2w, MANY.c2w, atol=1e-12)
    assert "images/right/0.png follows images/left/5.png;" in capsys.readouterr().err


def test_trajectories_come_by_their_times(tmp_path, capsys):
    path = tum(tmp_path / "poses.txt")
    first, *lines = path.read_text().splitlines()
    path.write_text("\n".join([first, *lines[::-1]]))
    np.testing.assert_allclose(read_camera_file(path, 6, SIZE)[0], C2W, atol=1e-12)
    assert not capsys.readouterr().err
    path.write_text("\n".join(lines[:2] + lines[3:]))
    read_camera_file(path, 5, SIZE)
    assert "0.25 s follows 0.0833333 s" in capsys.readouterr().err


def test_a_trajectory_is_read_back(tmp_path):
    stamps = np.arange(6) / 7
    write_tum(tmp_path / "poses.txt", stamps, C2W)
    read = read_tum(tmp_path / "poses.txt")
    np.testing.assert_array_equal(read.stamps, stamps)
    np.testing.assert_allclose(read.c2w, C2W, atol=1e-12)


@pytest.mark.parametrize("inner", ["", "0", "sparse/0", "colmap/sparse/0"])
def test_colmap_models_where_they_lie(tmp_path, inner):
    """In the folder, or where projects have them; as text or as binary files."""
    text, binary = tmp_path / "text" / inner, tmp_path / "binary" / inner
    for folder in (text, binary):
        folder.parent.mkdir(parents=True, exist_ok=True)
    colmap(text)
    np.testing.assert_allclose(read_camera_file(tmp_path / "text", 6, SIZE)[0], C2W, atol=1e-12)
    binary.mkdir()
    (binary / "cameras.bin").write_bytes(mvimgnet.cameras_file(2, (50, 33, 23.5, 0)))
    (binary / "images.bin").write_bytes(mvimgnet.images_file([2, 0, 1]))
    c2w, intrinsics = read_camera_file(tmp_path / "binary", 3, shared.SIZE)
    np.testing.assert_allclose(c2w, [shared.c2w(i) for i in range(3)], atol=1e-7)
    np.testing.assert_array_equal(intrinsics[0], shared.intrinsics())


def test_lenses_of_colmap(tmp_path):
    """Terms of zero are a pinhole's."""
    folder = colmap(tmp_path / "model", model="OPENCV")
    for terms, message in (("0 0 0 0", ""), ("0 -0.1 0 0", "distorted lens"), ("0 0 0", "needs fx, fy, cx, cy, k1")):
        (folder / "cameras.txt").write_text(f"7 OPENCV 224 112 200 190 110 57 {terms}\n")
        if not message:
            np.testing.assert_allclose(read_camera_file(folder, 6, SIZE)[1], K, atol=1e-9)
            continue
        with pytest.raises(UserError, match=message):
            read_camera_file(folder, 6, SIZE)


def without_size(path):
    document = json.loads(path.read_text())
    for key in ("width", "height"):
        del document[key]
    path.write_text(json.dumps(document))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["extrinsics"][2][0].__setitem__(0, 5.0), "camera 2 is no rotation"),
        (lambda d: d["extrinsics"][1][0].__setitem__(3, float("nan")), "camera 1 has numbers that are not finite"),
        (lambda d: d["extrinsics"][1].__setitem__(slice(None), np.zeros((4, 4)).tolist()), "camera 1 is no rotation"),
        (lambda d: d["extrinsics"][3][3].__setitem__(0, 0.5), "camera 3 is no pose: its last row is not 0 0 0 1"),
        (lambda d: d["intrinsics"][0][0].__setitem__(0, -1.0), "positive focal"),
        (lambda d: d["extrinsics"].pop(), "as many 4x4 as 3x3"),
        (lambda d: d.update(convention="opengl"), "only 'opencv_w2c'"),
        (lambda d: d.update(width=0), "image size of positive"),
        (lambda d: d.update(width="a"), "must be numbers"),
        (lambda d: d.update(extrinsics=3, intrinsics=4), "as many 4x4 as 3x3"),
        (lambda d: d["intrinsics"][0][0].__setitem__(1, 0.5), "without skew"),
    ],
)
def test_impossible_cameras(tmp_path, change, message):
    path = write("official", tmp_path)
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(UserError, match=message) as error:
        read_camera_file(path, 3, SIZE)
    assert "\n" not in str(error.value)


def test_files_that_do_not_fit(tmp_path):
    official = write("official", tmp_path)
    cases = [
        ((without_size(official), 5, (560, 560)), "seem to be for images of 220 x 114, not of 560 x 560"),
        ((tmp_path / "no.json", 5, SIZE), "no camera file"),
        ((official, 5, SIZE, "blender"), "none of official, nerfstudio"),
        ((tmp_path, 5, SIZE), "no COLMAP model"),
        ((colmap(tmp_path / "fisheye", model="OPENCV_FISHEYE"), 5, SIZE), "undistort"),
    ]
    (tmp_path / "odd.txt").write_text("1 2 3\n")
    cases.append(((tmp_path / "odd.txt", 1, SIZE), "none of the forms"))
    (tmp_path / "deep.json").write_text(100_000 * "[")
    cases.append(((tmp_path / "deep.json", 1, SIZE), "lists or objects inside of one another above 64 deep"))
    (tmp_path / "list.json").write_text("[1, 2]")
    cases.append(((tmp_path / "list.json", 1, SIZE), "none of the forms"))
    cases.append(((tmp_path / "odd.txt", 1, SIZE, "tum"), "needs 8 numbers"))
    (tmp_path / "ragged.txt").write_text("0 1 2 3 0 0 0 1\n0 1 2\n")
    cases.append(((tmp_path / "ragged.txt", 1, SIZE, "tum"), "needs 8 numbers"))
    for name, file, text, message in (
        ("short", "cameras.txt", "7 PINHOLE 224\n", "3 columns"),
        ("few", "cameras.txt", "7 PINHOLE 224 112 200 110\n", "PINHOLE with 2 parameters"),
        ("lost", "images.txt", "1 1 0 0 0 0 0 0 8 a.png\n", "has camera 8, which cameras.txt lacks"),
        ("cut", "images.txt", "1 1 0 0\n", "4 columns"),
        ("dense", "images.txt", "1 1 0 0 0 0 0 0 7 a.png\n2 1 0 0 0 0 0 0 7 b.png\n", "needs a line of points"),
        ("words", "images.txt", "1 one 0 0 0 0 0 0 7 a.png\n", "are not numbers"),
    ):
        (colmap(tmp_path / name) / file).write_text(text)
        cases.append(((tmp_path / name, 1, SIZE), message))
    (colmap(tmp_path / "half") / "images.txt").unlink()
    cases.append(((tmp_path / "half", 1, SIZE, "colmap"), "no COLMAP model"))
    (tmp_path / "zero.txt").write_text("0 1 2 3 0 0 0 0\n")
    cases.append(((tmp_path / "zero.txt", 1, SIZE), "not finite"))
    for arguments, message in cases:
        with pytest.raises(UserError, match=message) as error:
            read_camera_file(*arguments)
        assert "\n" not in str(error.value)


def test_picture_of_a_path(tmp_path):
    from PIL import Image

    pictures = []
    for name in ("orbit_left", "truck_right"):
        plot_cameras(tmp_path / f"{name}.png", camera_path(name, 9, 2.0), K[:1].repeat(9, axis=0), SIZE)
        pictures.append(np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")).astype(int))
    assert pictures[0].shape == (500, 1000, 3)
    assert all(0.001 < (picture < 200).mean() < 0.5 for picture in pictures)
    assert np.abs(pictures[0] - pictures[1]).mean() > 0.5
