"""AVIF, HEIC, pictures that move, and masks that say which pixels are known."""

import base64
import sys

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data.images import read_clip, read_frames, read_image
from gen3r_jax.errors import UserError
from tests.helpers.toy_videos import number_of, numbered_frames, write_video

# 24 x 16 pixels, (200, 40, 40) on the left and (40, 40, 200) on the right; libheif 1.23 with x265 wrote it.
HEIC = base64.b64decode(
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAXxtZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAA"
    "AAAERAAAEAAQAAAAABoAABAAAAAAAAAHkAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/GlwcnAA"
    "AADcaXBjbwAAAHVodmNDAQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQApQgEBA3AAAAMAkA"
    "AAAwAAAwAeoCCBBZbqrprm4CGgwIAAAAyAAAADAIRiAAEABkQBwXPBiQAAABNjb2xybmNseAABAA0ABoAAAAAUaXNwZQAAAAAAAABAAAAAQAAA"
    "AChjbGFwAAAAGAAAAAEAAAAQAAAAAf///9gAAAAC////0AAAAAIAAAAQcGl4aQAAAAADCAgIAAAAGGlwbWEAAAAAAAAAAQABBYECAwWEAAAAgW"
    "1kYXQAAAB1KAGvBPIb50eAcWcJGjtm/a4yA4uluyKiGRpO5hph2ggBbsmknh/GO1ooGH9+3fu984Xv4FKTn6LQ0E0btPvdHW1b7aToR2foLfL/"
    "hJLOzu67eLvDse/WQFqkgjYzDJS8TCujVW6Ac2w7C0N99aBt2rhJxO/g"
)


def test_avif(tmp_path):
    left_red = np.zeros((16, 24, 3), np.uint8) + np.array([200, 40, 40], np.uint8)
    Image.fromarray(left_red).save(tmp_path / "a.avif", quality=90)
    assert np.abs(read_image(tmp_path / "a.avif") - [200.0, 40, 40]).max() <= 4


def test_heic(tmp_path):
    pytest.importorskip("pi_heif", reason="pi-heif is not installed (extra: heic)")
    (tmp_path / "a.heic").write_bytes(HEIC)
    picture = read_image(tmp_path / "a.heic").astype(float)
    assert picture.shape == (16, 24, 3)
    assert np.abs(picture[:, :10] - [200, 40, 40]).max() <= 6
    assert np.abs(picture[:, 14:] - [40, 40, 200]).max() <= 6
    assert len(read_frames([tmp_path])) == 1


def test_heic_without_its_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pi_heif", None)
    (tmp_path / "a.HEIC").write_bytes(HEIC)
    with pytest.raises(UserError, match=r"a.HEIC is HEIC: install pi-heif .*gen3r-jax\[heic\].* is LGPL"):
        read_frames([tmp_path / "a.HEIC"])


def write_moving(path, frames, **options):
    first, *others = (Image.fromarray(frame) for frame in frames)
    first.save(path, save_all=True, append_images=others, **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.gif", {}), ("a.webp", {"lossless": True}), ("a.png", {}), ("a.avif", {"quality": 95})],
)
def test_pictures_that_move_are_clips(tmp_path, name, options, capsys):
    write_moving(tmp_path / name, numbered_frames(7), duration=50, **options)
    clip = read_clip([tmp_path / name], 4)
    assert [number_of(frame) for frame in clip.frames] == [0, 2, 4, 6]
    assert clip.masks == [None] * 4
    assert clip.fps == pytest.approx(10)
    assert f"{name}: 4 of 7 frames are used" in capsys.readouterr().err
    assert [number_of(frame) for frame in read_frames([tmp_path / name], at=(0, -1))] == [0, 6]
    assert number_of(read_image(tmp_path / name)) == 0
    assert len(read_frames([tmp_path / name, tmp_path / name])) == 2  # of several the first frame of each


def test_a_gif_stores_what_changes(tmp_path):
    """Frames are whole, though the file holds only the square that moves; what is transparent is unknown."""
    frames = np.zeros((3, 20, 30, 4), np.uint8)
    frames[..., :3], frames[:, :, 10:, 3] = 60, 255
    for number in range(3):
        frames[number, 5:10, 12 + 4 * number : 16 + 4 * number, :3] = (250, 0, 0)
    write_moving(tmp_path / "a.gif", frames, duration=100, disposal=2)
    clip = read_clip([tmp_path / "a.gif"])
    for number, (frame, mask) in enumerate(zip(clip.frames, clip.masks, strict=True)):
        expected = np.where(frames[number, ..., 3:] > 0, frames[number, ..., :3], 255)
        np.testing.assert_allclose(frame.astype(int), expected, atol=8)
        np.testing.assert_array_equal(mask, frames[number, ..., 3] > 0)


def test_a_moving_picture_that_is_cut_off(tmp_path):
    write_moving(tmp_path / "a.webp", numbered_frames(7), duration=50)
    (tmp_path / "a.webp").write_bytes((tmp_path / "a.webp").read_bytes()[:300])
    with pytest.raises(UserError, match=r"cannot read .*a\.webp"):
        read_clip([tmp_path / "a.webp"])


def test_masks(tmp_path):
    """White is known; they are as many as the frames, go with those that are chosen, and add to transparency."""
    (tmp_path / "masks").mkdir()
    known = np.zeros((5, 32, 48), bool)
    for number in range(5):
        known[number, :, 8 * number :] = True
        Image.fromarray(known[number] * np.uint8(255)).save(tmp_path / "masks" / f"{number}.png")
    write_video(tmp_path / "a.mp4", numbered_frames(5))
    clip = read_clip([tmp_path / "a.mp4"], 3, masks=[tmp_path / "masks"])
    np.testing.assert_array_equal(clip.masks, known[[0, 2, 4]])
    assert clip.fps == pytest.approx(6)

    half = np.full((64, 96, 4), 255, np.uint8)
    half[:32, :, 3] = 0
    Image.fromarray(half).save(tmp_path / "half.png")
    (mask,) = read_clip([tmp_path / "half.png"], masks=[tmp_path / "masks" / "3.png"]).masks  # half as large
    np.testing.assert_array_equal(mask, known[3].repeat(2, 0).repeat(2, 1) & (half[..., 3] > 0))

    with pytest.raises(UserError, match=r"masks has 5 masks for 1 frames of .*half\.png"):
        read_clip([tmp_path / "half.png"], masks=[tmp_path / "masks"])
    Image.new("L", (48, 48)).save(tmp_path / "square.png")
    with pytest.raises(UserError, match="a mask of 48 x 48 for a frame of 96 x 64"):
        read_clip([tmp_path / "half.png"], masks=[tmp_path / "square.png"])
