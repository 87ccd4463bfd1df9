"""Cameras found on stored pixels turn with the picture that EXIF turns."""

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data.images import read_image, read_orientation, read_posed_image
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.contents import CameraFile, pinhole
from gen3r_jax.geometry.camera_files.orientation import StoredPicture, turned_with
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.trajectories import camera_path

SIZE = (30, 40)
C2W = camera_path("spiral", 3, 2.0)


def contents(path, size=SIZE) -> CameraFile:
    """Cameras whose pictures of `size` (height, width) show what lies around the camera of the first."""
    return CameraFile(path, C2W, intrinsics=np.stack(3 * [pinhole(50, 45, 18, 16)]), sizes=np.array(3 * [size], float))


def picture(path, tag: int, size=SIZE):
    """A picture of which every pixel differs, with EXIF's orientation."""
    pixels = np.arange(size[0] * size[1], dtype=np.uint16).view(np.uint8).reshape(*size, 2)
    exif = Image.Exif()
    exif[0x0112] = tag
    Image.fromarray(np.dstack([pixels, pixels[..., :1]])).save(path, exif=exif)
    return path


@pytest.mark.parametrize("tag", [6, 8])
def test_a_point_stays_on_its_pixel(tmp_path, tag):
    path = picture(tmp_path / "photo.png", tag)
    stored, shown = read_image(path, upright=False), read_image(path)
    before, after = contents(tmp_path), turned_with(read_orientation(path), contents(tmp_path))
    assert after.sizes.tolist() == 3 * [[40, 30]] and shown.shape == (40, 30, 3)
    points = np.random.default_rng(0).uniform((-0.5, -0.4, 3), (0.5, 0.4, 5), (50, 3))
    for frame in range(3):
        colours = []
        for file, pixels in ((before, stored), (after, shown)):
            w2c = invert_se3(file.c2w[frame])
            places = (points @ w2c[:3, :3].T + w2c[:3, 3]) @ file.intrinsics[frame].T
            columns, rows = np.floor(places[:, :2] / places[:, 2:]).astype(int).T
            colours.append(pixels[rows, columns])
        np.testing.assert_array_equal(*colours)


@pytest.mark.parametrize(
    ("tag", "size", "told"),
    [(1, SIZE, ""), (6, (40, 30), ""), (6, (40, 40), "does not show"), (6, (20, 40), "does not show"),
     (3, SIZE, "does not show"), (2, SIZE, "does not show")],
)  # fmt: skip
def test_cameras_of_shown_pictures_stay(tmp_path, capsys, tag, size, told):
    given = contents(tmp_path, size)
    assert turned_with(StoredPicture("a.jpg", SIZE, tag), given) is given
    found = capsys.readouterr().err
    assert (told in found) if told else not found


def test_a_mirrored_picture_is_refused(tmp_path):
    with pytest.raises(UserError, match="is shown turned and mirrored"):
        turned_with(StoredPicture("a.jpg", SIZE, 5), contents(tmp_path))


@pytest.mark.parametrize(
    ("tag", "camera_size", "upright"),
    [
        (6, SIZE, False),
        (6, (60, 80), False),
        (6, (40, 30), True),
        (6, None, False),
        (3, SIZE, False),
        (8, (1, 1), False),
    ],
)
def test_posed_pictures_stay_as_stored_unless_their_size_says_else(tmp_path, tag, camera_size, upright):
    path = picture(tmp_path / "photo.png", tag)
    expected = read_image(path, upright=upright)
    np.testing.assert_array_equal(read_posed_image(path, camera_size), expected)
    np.testing.assert_array_equal(read_posed_image(path.read_bytes(), camera_size), expected)
