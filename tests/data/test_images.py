"""Pictures of every kind become upright 8-bit RGB; what cannot be read is the user's error, in one line."""

import struct
import warnings

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data import decoding
from gen3r_jax.data.images import encode_image, list_images, read_clip, read_frames, read_image, read_image_and_mask
from gen3r_jax.errors import UserError
from tests.helpers.damage import flipped
from tests.helpers.toy_videos import number_of, numbered_frames, write_video


@pytest.fixture
def ramp():
    """17 x 23 pixels (odd on purpose), every one different."""
    y, x = np.mgrid[:17, :23]
    return np.stack([x * 11, y * 15, x + y], -1).astype(np.uint8)


def test_common_modes(tmp_path, ramp):
    grey = ramp[..., 0]
    alpha = np.concatenate([ramp, np.full((17, 23, 1), 7, np.uint8)], -1)
    cases = {
        "rgb.png": (Image.fromarray(ramp), ramp),
        "rgba.png": (Image.fromarray(alpha), np.rint(255 + (ramp - 255.0) * 7 / 255)),  # blended with white
        "grey.png": (Image.fromarray(grey), np.stack([grey] * 3, -1)),
        "opaque.png": (Image.fromarray(np.dstack([grey, grey | 255])), np.stack([grey] * 3, -1)),
        "palette.png": (Image.fromarray(grey // 32 * 32).convert("P"), np.stack([grey // 32 * 32] * 3, -1)),
        "rgb.webp": (Image.fromarray(ramp), ramp),
        "rgb.bmp": (Image.fromarray(ramp), ramp),
        "black_and_white.png": (Image.fromarray(grey > 99), np.stack([(grey > 99) * np.uint8(255)] * 3, -1)),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        result = read_image(tmp_path / name)
        assert result.dtype == np.uint8
        np.testing.assert_array_equal(result, expected, err_msg=name)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits(tmp_path, ramp, suffix):
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(ramp[..., 0].astype(np.uint16) * 257).save(path)
    np.testing.assert_array_equal(read_image(path), np.stack([ramp[..., 0]] * 3, -1))


@pytest.mark.parametrize("largest", [255, 65535, 2**31 - 1, 2**32 - 1])
def test_thirty_two_bits_are_taken_as_what_they_need(tmp_path, capsys, largest):
    levels = np.array([[0, 1, 60, 128, 254, 255]])
    stored = np.rint(levels / 255 * largest).astype(np.uint32)
    image = Image.fromarray(stored.view(np.int32))
    image.save(tmp_path / "deep.tif")
    if largest > 2**31:  # unsigned, which Pillow reads and does not write
        data = (tmp_path / "deep.tif").read_bytes()
        signed, unsigned = (struct.pack("<HHII", 339, 3, 1, kind) for kind in (2, 1))
        assert signed in data
        (tmp_path / "deep.tif").write_bytes(data.replace(signed, unsigned))
    np.testing.assert_array_equal(read_image(tmp_path / "deep.tif")[..., 1], levels)
    assert f"{largest.bit_length()} bits" in capsys.readouterr().err


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "light.tif")
    with pytest.raises(UserError, match="convert it to 8 or 16 bits"):
        read_image(tmp_path / "light.tif")


def _cut_out(mode):
    """A red square in the middle of transparent pixels with green hidden under them."""
    if mode == "P":
        image = Image.new("P", (8, 8), 1)
        image.putpalette([255, 0, 0, 0, 255, 0])
        image.paste(0, (2, 2, 6, 6))
        return image, {"transparency": 1}
    image = Image.new("RGBA", (8, 8), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (2, 2, 6, 6))
    return (image.convert("RGB"), {"transparency": (0, 255, 0)}) if mode == "RGB" else (image.convert(mode), {})


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_transparent_pixels_are_white_and_known(tmp_path, capsys, mode):
    image, options = _cut_out(mode)
    image.save(tmp_path / "cut.png", **options)
    picture, mask = read_image_and_mask(tmp_path / "cut.png")
    inside = np.zeros((8, 8), bool)
    inside[2:6, 2:6] = True
    np.testing.assert_array_equal(mask, inside)
    assert (picture[~inside] == 255).all()
    assert (picture[inside] == ((76, 76, 76) if mode == "LA" else (255, 0, 0))).all()
    assert "transparent pixels (75% of the picture) are shown on white" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(tmp_path, ramp, orientation, suffix):
    turned = (ramp, ramp[:, ::-1], ramp[::-1, ::-1], ramp[::-1], *(np.rot90(ramp, k)[::f] for k, f in
              ((1, -1), (3, 1), (3, -1), (1, 1))))[orientation - 1]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    options = {"jpg": {"quality": 100, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(ramp).save(path, exif=exif, **options)
    np.testing.assert_allclose(read_image(path).astype(int), turned, atol=3 * (suffix == "jpg"))
    np.testing.assert_allclose(read_image(path, upright=False).astype(int), ramp, atol=3 * (suffix == "jpg"))


def test_damaged_exif_is_told_and_ignored(tmp_path, ramp, capsys):
    Image.fromarray(ramp).save(tmp_path / "odd.png", exif=b"Exif\0\0damaged!")
    np.testing.assert_array_equal(read_image(tmp_path / "odd.png"), ramp)
    assert "EXIF tags are ignored" in capsys.readouterr().err


def test_cmyk_without_a_profile(tmp_path):
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "ink.jpg", quality=100)
    assert (np.abs(read_image(tmp_path / "ink.jpg") - np.array([255, 0, 0])) <= 2).all()


@pytest.mark.parametrize("suffix, mode", [("jpg", "RGB"), ("jpg", "L"), ("png", "RGB"), ("tif", "I;16"), ("png", "P")])
def test_huge_pictures_are_shrunk_as_they_are_decoded(tmp_path, monkeypatch, capsys, suffix, mode):
    monkeypatch.setattr(decoding, "FULL_PIXELS", 50_000)
    slope = np.repeat(np.arange(0, 250, dtype=np.uint8)[None].repeat(500, 0), 2, 1)  # 500 x 500
    image = Image.fromarray(slope * np.uint16(257)) if mode == "I;16" else Image.fromarray(slope).convert(mode)
    image.save(tmp_path / f"huge.{suffix}")
    picture = read_image(tmp_path / f"huge.{suffix}")
    assert picture.shape == (125, 125, 3)
    assert np.abs(picture[3, :, 0] - (np.arange(125) * 2 + 0.5)).max() <= 3
    assert "its 500 x 500 pixels are shrunk to 125 x 125" in capsys.readouterr().err
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)
    with pytest.raises(UserError, match="has over 300 megapixels; shrink it"):
        read_image(tmp_path / f"huge.{suffix}")


@pytest.mark.parametrize("damage", ["truncated", "garbage", "empty"])
def test_damaged_image(tmp_path, ramp, damage):
    path = tmp_path / "bad.jpg"
    data = encode_image(ramp)
    path.write_bytes({"truncated": data[: len(data) // 2], "garbage": b"not an image", "empty": b""}[damage])
    with warnings.catch_warnings(), pytest.raises(UserError, match=r"cannot read .*bad\.jpg") as error:
        warnings.simplefilter("ignore")
        read_image(path)
    assert "\n" not in str(error.value)


def test_a_png_is_as_it_was_written_or_refused(tmp_path, ramp):
    whole, path, rng = encode_image(ramp, ".png"), tmp_path / "bad.png", np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        path.write_bytes(flipped(whole, rng))
        try:
            np.testing.assert_array_equal(read_image(path), ramp)
        except UserError as error:
            assert "bad.png" in str(error)
            refused += 1
    assert refused > 30  # the others are in the chunk that ends the file


def test_missing_image(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "none.png")


def test_images_are_listed_by_number(tmp_path, ramp):
    for name in ("frame10.png", "frame2.PNG", "frame1.jpeg", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(encode_image(ramp))
    (tmp_path / "frame3.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["frame1.jpeg", "frame2.PNG", "frame10.png"]


def test_read_frames(tmp_path, ramp):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(encode_image(ramp + np.uint8(number), ".png"))
    write_video(tmp_path / "clip.mp4", numbered_frames(6))
    assert [frame[0, 0, 0] for frame in read_frames([folder])] == [0, 1, 2]
    assert [frame[0, 0, 0] for frame in read_frames([folder / "2.png", folder / "0.png"])] == [2, 0]
    assert len(read_frames([tmp_path / "clip.mp4"], 5)) == 5
    assert [frame[0, 0, 0] for frame in read_frames([folder], at=(0, 2))] == [0, 2]
    assert [frame[0, 0, 0] for frame in read_frames([folder], at=(0, -1))] == [0, 2]
    assert [frame[0, 0, 0] for frame in read_frames([folder], at=(0, 4, 8))] == [0, 1, 2]  # as many as there are
    with pytest.raises(UserError, match="has 3 frames, 5 are needed"):
        read_frames([folder], at=(0, 4))
    (tmp_path / "empty").mkdir()
    for inputs, count, message in [
        ([tmp_path / "empty"], None, "holds no images"),
        ([tmp_path / "gone"], None, "does not exist"),
        ([tmp_path / "clip.mp4"], 9, "has 6 frames, 9 are needed"),
        ([folder], 5, "has 3 frames, 5 are needed"),
    ]:
        with pytest.raises(UserError, match=message):
            read_frames(inputs, count)
    with pytest.raises(UserError, match="2 apart from number 1 on, has 1 frames, 2 are needed"):
        read_frames([folder], 2, stride=2, first=1)
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(UserError, match="of a kind that cannot be read"):
        read_frames([tmp_path / "notes.txt"])


@pytest.mark.parametrize(
    "choice, chosen, how",
    [
        ({"at_most": 5}, [0, 5, 10, 14, 19], "5 of 20 frames are used, spread evenly from the first to the last"),
        ({"num_frames": 2}, [0, 19], "2 of 20 frames are used, spread evenly"),
        ({"num_frames": 1}, [0], "1 of 20 frames are used"),
        ({"at_most": 3, "stride": 4}, [0, 4, 8], "3 of 20 frames are used, 4 apart from number 0 on"),
        ({"num_frames": 3, "first": 7}, [7, 8, 9], "3 of 20 frames are used, 1 apart from number 7 on"),
        ({"first": 15, "stride": 2}, [15, 17, 19], "3 of 20 frames are used, 2 apart from number 15 on"),
        ({"at": (0, -1)}, [0, 19], "2 of 20 frames are used, those with the numbers 0 19"),
        ({}, list(range(20)), ""),
        ({"at_most": 20}, list(range(20)), ""),
    ],
)
def test_which_frames_of_many_are_used_is_told(tmp_path, capsys, choice, chosen, how):
    write_video(tmp_path / "clip.mp4", numbered_frames(20))
    clip = read_clip([tmp_path / "clip.mp4"], **choice)
    assert [number_of(frame) for frame in clip.frames] == chosen
    told = capsys.readouterr().err
    assert how in told and bool(told) == bool(how)
    speed = 12 * (len(chosen) - 1) / (chosen[-1] - chosen[0]) if len(chosen) > 1 and "at" not in choice else None
    assert clip.fps == (None if speed is None else pytest.approx(speed, rel=1e-3))


def test_a_clip_of_pictures_has_masks_and_no_speed(tmp_path, ramp):
    Image.fromarray(ramp).save(tmp_path / "1.png")
    _cut_out("RGBA")[0].save(tmp_path / "2.png")
    clip = read_clip([tmp_path])
    assert clip.fps is None and clip.masks[0] is None and clip.masks[1].sum() == 16
