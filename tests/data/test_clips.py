"""Frame choice, crops with their intrinsics, caption cleaning; also against the official implementation's numbers."""

import random

import numpy as np
import pytest

from conversion.comparison import verify
from gen3r_jax.data.captions import clean_caption, read_captions
from gen3r_jax.data.clips import default_intrinsics, repair_indices, resize_crop, sample_indices
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import crop_intrinsics
from gen3r_jax.models.sizes import require_clip_length, require_side


@pytest.mark.parametrize("name", ["data_utils.safetensors", "text_clean_prompt.json"])
def test_matches_the_official_implementation(recorded, name):
    report = verify(recorded / name)
    assert report.status == "pass", report
    assert len(report.tensors) > 10


def test_strides_starts_and_padding():
    assert sample_indices(20, 5, 2).tolist() == [0, 2, 4, 6, 8]
    assert sample_indices(9, 5, 2).tolist() == [0, 1, 2, 3, 4]  # too short for the stride
    assert sample_indices(3, 5, 2).tolist() == [0, 1, 2, 2, 2]  # too short for any
    rng = np.random.default_rng(0)
    starts = {int(sample_indices(12, 5, 2, rng)[0]) for _ in range(300)}
    assert starts == set(range(4))  # 0 .. L - N I + I - 1
    padded = {tuple(sample_indices(3, 5, 1, rng).tolist()) for _ in range(100)}
    assert padded == {(0, 1, 2, 2, 2), (0, 0, 1, 2, 2), (0, 0, 0, 1, 2)}


def test_repair_repeats_the_ends():
    readable = np.array([False, True, False, True, True])
    assert repair_indices(readable).tolist() == [1, 3, 4, 4, 4]
    rng = np.random.default_rng(0)
    drawn = {tuple(repair_indices(readable, rng).tolist()) for _ in range(100)}
    assert drawn == {(1, 3, 4, 4, 4), (1, 1, 3, 4, 4), (1, 1, 1, 3, 4)}
    assert repair_indices(np.ones(3, bool), rng).tolist() == [0, 1, 2]


@pytest.mark.parametrize("size", [(36, 50), (64, 64), (100, 37), (480, 641), (28, 28)])
def test_intrinsics_follow_the_pixels(size):
    """A picture that holds its own coordinates, cropped, says where each crop pixel came from; so does K."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32) + 0.5
    target = (28, 42)
    crop = resize_crop(np.stack([x, y, x * 0], -1), target)
    camera = np.array([[40.0, 0, size[1] * 0.4], [0, 44.0, size[0] * 0.6], [0, 0, 1]])
    cropped = crop_intrinsics(camera, size, target)
    assert crop.shape == (28, 42, 3)
    v, u = np.mgrid[:28, :42] + 0.5
    back = camera @ np.linalg.inv(cropped) @ np.stack([u, v, u * 0 + 1]).reshape(3, -1)
    error = (back[:2].T.reshape(28, 42, 2) - crop[..., :2])[2:-2, 2:-2]  # at the border the filter is cut off
    error /= min(size[0] / 28, size[1] / 42)  # in pixels of the crop
    # The sampled filter keeps straight lines straight on average only: mean measured 7e-7, largest 0.072. With the
    # official truncation the mean is 0.12 to 0.76 pixels where a size is rounded up.
    assert np.abs(error.mean((0, 1))).max() < 1e-4
    assert np.abs(error).max() < 0.1


def test_the_official_principal_point_is_off():
    """640 x 360 to 560: the official truncation moves the centre of the picture by most of a pixel."""
    camera = default_intrinsics((360, 640))
    ours, official = (crop_intrinsics(camera, (360, 640), (560, 560), truncate=t) for t in (False, True))
    np.testing.assert_allclose(ours[:2, 2], [280, 280])
    np.testing.assert_allclose(official[:2, 2], [0.5 * 640 * 560 / 360 - 217, 280])


def test_resizing_is_antialiased():
    fine_checks = np.indices((448, 448)).sum(0)[..., None] % 2 * np.full(3, 255, np.uint8)
    crop = resize_crop(fine_checks.astype(np.uint8), (112, 112))
    assert np.abs(crop - 127.5).max() < 8  # point sampling would give 0 and 255
    same = np.random.default_rng(0).integers(0, 256, (28, 42, 3), np.uint8)
    np.testing.assert_array_equal(resize_crop(same, (28, 42)), same)


@pytest.mark.parametrize(
    "side, message",
    [(500, "nearest: 448, 560"), (100, "nearest: 112"), (0, "nearest: 112"), (113, "nearest: 112, 224")],
)
def test_sides(side, message):
    require_side(560)
    with pytest.raises(UserError, match=message):
        require_side(side)


@pytest.mark.parametrize("count, message", [(24, "nearest: 21, 25"), (0, "nearest: 1, 5"), (3, "nearest: 1, 5")])
def test_clip_lengths(count, message):
    require_clip_length(1)
    require_clip_length(49)
    with pytest.raises(UserError, match=message):
        require_clip_length(count)


def test_captions(tmp_path):
    class Draws:
        """Keeps nothing as it is and always takes the short article."""

        def random(self):
            return 0.5

    assert clean_caption("The image shows a cat.", Draws()) == "A cat."
    assert clean_caption("The images depict an  umbrella", Draws()) == "An  umbrella"
    assert clean_caption(" The scene is of a hour glass ", Draws()) == "A hour glass"
    assert clean_caption("The image shows the inside", Draws()) == "The image shows the inside"
    assert clean_caption("x" * 1001, Draws()) == ""
    assert clean_caption("The image shows a cat.", np.random.default_rng(3)).endswith("cat.")
    kept = sum(clean_caption("The image shows a cat.", random.Random(i)).startswith("The") for i in range(1000))
    assert 150 < kept < 250
    (tmp_path / "captions.txt").write_text("one\n\n  two \n")
    assert read_captions(tmp_path / "captions.txt") == ["one", "two"]
    assert read_captions(tmp_path / "none.txt") == []
