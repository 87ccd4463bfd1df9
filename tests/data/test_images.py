"""Pictures of every kind become upright 8-bit RGB; what cannot be read is the user's error, in one line."""

import struct
import warnings
import wave

import av
import numpy as np
import pytest
from PIL import Image

from gen3r_jax import errors
from gen3r_jax.data import images
from gen3r_jax.data.images import Video, encode_image, list_images, read_frames, read_image, read_image_and_mask
from gen3r_jax.errors import UserError
from tests.helpers.toy_videos import number_of, numbered_frames, write_video


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    monkeypatch.setattr(errors, "_told", set())


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
    monkeypatch.setattr(images, "FULL_PIXELS", 50_000)
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


def test_missing_image(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "none.png")


def test_images_are_listed_by_number(tmp_path, ramp):
    for name in ("frame10.png", "frame2.PNG", "frame1.jpeg", ".hidden.png", "notes.txt"):
        (tmp_path / name).write_bytes(encode_image(ramp))
    (tmp_path / "frame3.png").mkdir()
    assert [path.name for path in list_images(tmp_path)] == ["frame1.jpeg", "frame2.PNG", "frame10.png"]


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_keeps_times_of_decoding_alone(tmp_path, codec):
    """With frames that refer to later ones they are not those of showing."""
    write_video(tmp_path / "clip.avi", numbered_frames(20), codec, bf="2", g="6", b="4M")
    video = Video(tmp_path / "clip.avi")
    assert len(video) == 20
    assert [number_of(frame) for frame in video.read([0, 1, 7, 13, 19])] == [0, 1, 7, 13, 19]


def test_a_damaged_frame_of_an_avi_is_the_only_one(tmp_path):
    write_video(tmp_path / "clip.avi", numbered_frames(9), "mpeg4", g="1", bf="0", b="4M")
    with av.open(tmp_path / "clip.avi") as container:
        packets = [packet for packet in container.demux() if packet.size]
    data = bytearray((tmp_path / "clip.avi").read_bytes())
    where = data.index(bytes(packets[4]))
    data[where : where + packets[4].size] = bytes(packets[4].size)
    (tmp_path / "clip.avi").write_bytes(data)
    found = Video(tmp_path / "clip.avi").read(range(9))
    assert found[4] is None and [number_of(found[i]) for i in (0, 3, 5, 8)] == [0, 3, 5, 8]


def test_video_frames_by_number(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, numbered_frames(20), g="6", bf="2")  # several key frames, and frames out of decoding order
    video = Video(path)
    assert len(video) == 20
    numbers = [0, 5, 6, 13, 13, 2, 19]
    assert [number_of(frame) for frame in video.read(numbers)] == numbers
    assert video.read([3])[0].shape == (32, 48, 3)
    np.testing.assert_allclose(video.times, np.arange(20) / 12, atol=1e-4)
    assert [(number, number_of(frame)) for number, frame in video.stream([13, 4, 5])] == [(4, 4), (5, 5), (13, 13)]


def test_a_window_of_a_video(tmp_path):
    """Counts from the key frame before it; times and frames are the same."""
    write_video(tmp_path / "clip.mp4", numbered_frames(30), g="6", bf="2")
    whole, part = Video(tmp_path / "clip.mp4"), Video(tmp_path / "clip.mp4", (14 / 12 - 0.01, 20 / 12 + 0.01))
    assert len(part) < 16
    numbers = [int(np.argmin(np.abs(part.times - whole.times[number]))) for number in range(14, 21)]
    np.testing.assert_allclose(part.times[numbers], whole.times[14:21])
    assert [number_of(frame) for frame in part.read(numbers)] == list(range(14, 21))


def test_video_rotation(tmp_path):
    """A phone's portrait video: stored lying down, with a display matrix that turns it."""
    frames = numbered_frames(3)
    for frame in frames:
        frame[:8, :8] = 255  # top left
    path = tmp_path / "phone.mp4"
    write_video(path, frames)
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    identity = struct.unpack(">9i", data[matrix : matrix + 36])
    assert identity[0] == identity[4] == 1 << 16
    quarter_clockwise = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = quarter_clockwise
    path.write_bytes(data)
    upright = Video(path).read([1])[0]
    assert upright.shape == (48, 32, 3)
    assert upright[:8, -8:].min() > 200 > upright[:8, :8].max()


def test_damaged_video_frames_are_none(tmp_path):
    path = tmp_path / "torn.mkv"
    write_video(path, numbered_frames(30), g="5")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    video = Video(path)
    assert 5 < len(video) < 30
    frames = video.read(range(len(video)))
    assert [number_of(frame) for frame in frames[:5]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"not a video at all", None])
def test_unreadable_video(tmp_path, content):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.mp4") as error:
        Video(path)
    assert "\n" not in str(error.value)


def test_sound_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "sound.avi"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(UserError, match="has no video stream"):
        Video(tmp_path / "sound.avi")


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
    (tmp_path / "notes.txt").write_text("words")
    with pytest.raises(UserError, match="of a kind that cannot be read"):
        read_frames([tmp_path / "notes.txt"])
