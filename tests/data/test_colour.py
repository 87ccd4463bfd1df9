"""Colours of pictures and videos become sRGB by the exact formulas."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from gen3r_jax.data.images import read_image
from gen3r_jax.data.video import Video
from tests.helpers.icc import D50, D65, PRIMARIES, cmyk_profile, grey_profile, matrix_to_d50, rgb_profile

SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
COLOURS = np.array([(200, 80, 60), (60, 160, 70), (50, 90, 190), (128, 128, 128), (220, 180, 150), (240, 200, 40)])


def to_linear(levels):
    signal = np.asarray(levels) / 255
    return np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize(
    "name, white, gamma", [("Display P3", D65, 2.2), ("Adobe RGB", D65, 2.2), ("ProPhoto", D50, 1.8)]
)
def test_profiles_of_wide_gamuts_are_converted(tmp_path, capsys, name, white, gamma, suffix):
    to_device = np.linalg.inv(matrix_to_d50(PRIMARIES[name], white)) @ matrix_to_d50(SRGB, D65)
    stored = np.rint(255 * (to_linear(COLOURS) @ to_device.T) ** (1 / gamma)).astype(np.uint8)
    assert np.abs(stored.astype(int) - COLOURS).max() > 10  # what would be seen without the profile
    path = tmp_path / f"picture{suffix}"
    options = {"lossless": True} if suffix == ".webp" else {}
    Image.fromarray(stored[None]).save(path, icc_profile=rgb_profile(PRIMARIES[name], white, gamma), **options)
    assert np.abs(read_image(path)[0].astype(int) - COLOURS).max() <= 2
    read_image(path)
    assert capsys.readouterr().err == f"{path}: colours are converted from made to sRGB\n"


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_a_grey_profile(tmp_path, mode):
    levels = np.arange(0, 256, 5)
    stored = np.rint(255 * to_linear(levels) ** (1 / 1.8)).astype(np.uint16)
    path = tmp_path / "grey.png"
    image = Image.fromarray(stored[None] * 257) if mode == "I;16" else Image.fromarray(stored[None].astype(np.uint8))
    image.convert(mode).save(path, icc_profile=grey_profile(1.8))
    bright = levels > 20  # a level is many levels of sRGB in the dark
    assert np.abs(read_image(path)[0, bright] - levels[bright, None]).max() <= 1


def test_a_cmyk_profile(tmp_path):
    labs = np.full((16, 3), 128)
    labs[:, 0] = 255 * (15 - np.arange(16)) / 15  # grey, by the ink
    Image.new("CMYK", (4, 4), (255, 0, 0, 0)).save(tmp_path / "ink.tif", icc_profile=cmyk_profile(labs))
    lightness = 100 * 7 / 15
    grey = 255 * (1.055 * (((lightness + 16) / 116) ** 3) ** (1 / 2.4) - 0.055)
    assert np.abs(read_image(tmp_path / "ink.tif") - grey).max() <= 3


def test_an_srgb_profile_changes_nothing(tmp_path, capsys):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.fromarray(COLOURS[None].astype(np.uint8)).save(tmp_path / "plain.png", icc_profile=profile)
    np.testing.assert_array_equal(read_image(tmp_path / "plain.png")[0], COLOURS)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("profile", [b"no profile", rgb_profile(SRGB)[:200], cmyk_profile(np.zeros((16, 3)))])
def test_a_profile_that_does_not_fit_is_told_and_ignored(tmp_path, capsys, profile):
    path = tmp_path / "odd.png"
    Image.fromarray(COLOURS[None].astype(np.uint8)).save(path, icc_profile=profile)
    np.testing.assert_array_equal(read_image(path)[0], COLOURS)
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and f"{path}: its ICC colour profile is ignored" in told


WEIGHTS = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114), 9: (0.2627, 0.0593)}
"""Of red and blue in luma, by the number of the matrix in ITU-T H.273."""


def to_rgb(planes, matrix, full):
    """The exact formula, for 8-bit planes of one size: `[h, w, 3]` to R'G'B' on 0..255."""
    red, blue = WEIGHTS[matrix]
    y, cb, cr = np.moveaxis(planes.astype(float), -1, 0) - np.array([0 if full else 16, 128, 128])[:, None, None]
    y, cb, cr = (y / 255, cb / 255, cr / 255) if full else (y / 219, cb / 224, cr / 224)
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    return np.clip(255 * np.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1), 0, 255)


def to_planes(rgb, matrix, bits):
    """R'G'B' on 0..1 to planes of limited range, `[h, w, 3]`."""
    red, blue = WEIGHTS[matrix]
    y = rgb @ np.array([red, 1 - red - blue, blue])
    cb, cr = (rgb[..., 2] - y) / (2 - 2 * blue), (rgb[..., 0] - y) / (2 - 2 * red)
    return np.rint(np.stack([16 + 219 * y, 128 + 224 * cb, 128 + 224 * cr], -1) * 2 ** (bits - 8)).astype(np.uint16)


def write_planes(path, planes, bits=8, **tags):
    """A frame of 4:2:0 without loss, tagged; every colour of `planes` fills four pixels."""
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=12)
        stream.height, stream.width = (2 * side for side in planes.shape[:2])
        stream.pix_fmt = {8: "yuv420p", 10: "yuv420p10le"}[bits]
        for name, value in tags.items():
            setattr(stream.codec_context, name, value)
        frame = av.VideoFrame(stream.width, stream.height, stream.pix_fmt)
        large = planes[..., 0].repeat(2, 0).repeat(2, 1)
        for plane, values in zip(frame.planes, (large, planes[..., 1], planes[..., 2]), strict=True):
            dtype = np.uint8 if bits == 8 else np.uint16
            rows = np.zeros((plane.height, plane.line_size // np.dtype(dtype).itemsize), dtype)
            rows[:, : plane.width] = values
            plane.update(rows)
        frame.pts, frame.time_base = 0, Fraction(1, 12)
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize("matrix", [1, 5, 6, 9])
@pytest.mark.parametrize("full", [False, True])
def test_the_exact_formula_of_each_matrix_and_range(tmp_path, matrix, full):
    planes = np.random.default_rng(0).integers(60, 190, (48, 48, 3))
    planes[..., 1:] = (115, 140)
    write_planes(tmp_path / "flat.mkv", planes, colorspace=matrix, color_range=2 if full else 1)
    error = Video(tmp_path / "flat.mkv").read([0])[0][::2, ::2] - to_rgb(planes, matrix, full)
    assert np.abs(error).max() < 1 and np.abs(error.mean((0, 1))).max() < 0.5


@pytest.mark.parametrize("size, matrix", [((64, 64), 5), ((8, 640), 1)])
def test_untagged_videos_are_of_the_matrix_of_their_size(tmp_path, size, matrix):
    planes = np.tile(np.array([120, 100, 160]), (*size, 1))
    write_planes(tmp_path / "flat.mkv", planes)
    assert np.abs(Video(tmp_path / "flat.mkv").read([0])[0][::2, ::2] - to_rgb(planes, matrix, False)).max() < 1


def to_2020(light):
    """Linear light of sRGB's primaries in BT.2020's."""
    bt2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
    return light @ (np.linalg.inv(matrix_to_d50(bt2020, D65)) @ matrix_to_d50(SRGB, D65)).T


def hlg(nits):
    scene = (nits / 1000) ** (1 / 1.2)
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), 0.17883277 * np.log(12 * scene - 0.28466892) + 0.55991073)


def pq(nits):
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


@pytest.mark.parametrize("transfer, curve", [(18, hlg), (16, pq)])
def test_high_dynamic_range_is_tone_mapped(tmp_path, capsys, transfer, curve):
    colours = np.vstack([COLOURS - (COLOURS > 219) * (COLOURS - 219), (255, 255, 255)])
    nits = 203 * to_2020(to_linear(colours))
    nits = np.vstack([nits, (1000, 1000, 1000)])
    planes = to_planes(curve(nits), 9, 10)[:, None].repeat(16, 1).repeat(16, 0)
    path = tmp_path / "phone.mkv"
    write_planes(path, planes, 10, colorspace=9, color_primaries=9, color_trc=transfer, color_range=1)
    seen = Video(path).read([0])[0][16::32, 16].astype(int)
    assert np.abs(seen[:6] - colours[:6]).max() <= 3  # what is darker than white by a quarter stays
    assert (seen[6] > 235).all() and (seen[6] < 250).all() and (seen[7] == 255).all()  # highlights have room
    assert "of high dynamic range is tone mapped to sRGB" in capsys.readouterr().err


def test_a_wide_gamut_alone_is_converted(tmp_path):
    linear = to_2020(to_linear(COLOURS))
    signal = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    planes = to_planes(signal, 9, 10)[:, None].repeat(16, 1).repeat(16, 0)
    write_planes(tmp_path / "wide.mkv", planes, 10, colorspace=9, color_primaries=9, color_trc=14, color_range=1)
    assert np.abs(Video(tmp_path / "wide.mkv").read([0])[0][16::32, 16] - COLOURS).max() <= 2
