"""Colours of pictures and videos become sRGB by the exact formulas."""

import numpy as np
import pytest
from PIL import Image, ImageCms

from gen3r_jax import errors
from gen3r_jax.data.images import read_image
from tests.helpers.icc import D50, D65, PRIMARIES, cmyk_profile, grey_profile, matrix_to_d50, rgb_profile

SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
COLOURS = np.array([(200, 80, 60), (60, 160, 70), (50, 90, 190), (128, 128, 128), (220, 180, 150), (240, 200, 40)])


@pytest.fixture(autouse=True)
def untold(monkeypatch):
    monkeypatch.setattr(errors, "_TOLD", set())


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
