"""Forms of arguments that a call takes, and those that it refuses in words."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.errors import UserError
from gen3r_jax.export.run_report import describe
from gen3r_jax.generation.cameras import camera_file, refuse_other_options
from gen3r_jax.generation.inputs import as_prompts, as_size, given_images, load_images, read_pictures
from tests.helpers.toy_videos import numbered_frames, write_video

SIZE = (112, 112)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("home") / "photo.png"
    Image.new("RGB", (120, 112), "red").save(path)
    return path


@pytest.mark.parametrize("size", [56, np.int64(56), 56.0, (56, 56.0), np.array([56, 56])], ids=repr)
def test_sizes_are_whole_numbers_of_any_kind(size):
    assert as_size(size) == (56, 56)


@pytest.mark.parametrize("size", [True, 56.5, "56", (56,), (56, None), np.inf], ids=repr)
def test_other_sizes_are_refused(size):
    with pytest.raises(UserError, match="is neither a side nor"):
        as_size(size)


def test_prompts_are_stripped_as_the_command_does():
    assert as_prompts(" a red table\n") == as_prompts(["a red table "]) == ("a red table",)
    for prompt in ([], None, [1], 3):
        with pytest.raises(UserError, match="prompt must be a text, or a list of at least one"):
            as_prompts(prompt)


@pytest.mark.parametrize(("samples", "form"), [(1, "path"), (1, "list"), (1, "of each"), (2, "of each")])
def test_images_of_each_sample(photo, samples, form):
    images = {"path": photo, "list": [photo], "of each": [[photo]] * samples}[form]
    assert given_images(images, samples, SIZE, 9, None).images.shape == (samples, 1, *SIZE, 3)


@pytest.mark.parametrize("images", [3, [["a.png"]], "a.png"], ids=repr)
def test_several_samples_need_a_list(images):
    with pytest.raises(UserError, match="2 prompts need a list with the images of each"):
        given_images(images, 2, SIZE, 9, None)


@pytest.mark.parametrize("control_frames", [3, [0.5], "0"], ids=repr)
def test_control_frames_are_numbers(photo, control_frames):
    with pytest.raises(UserError, match="control_frames must be a list of numbers of frames"):
        given_images(photo, 1, SIZE, 9, control_frames)


@pytest.mark.parametrize("listed", [False, True])
def test_a_longer_video_is_spread_over_the_clip(tmp_path, listed):
    video = tmp_path / "clip.mp4"
    write_video(video, numbered_frames(21))
    given = given_images([video] if listed else video, 1, SIZE, 5, None)
    assert given.places == (0, 1, 2, 3, 4) and given.images.shape[1] == 5
    every = read_pictures(video, at=(0, 5, 10, 15, 20)).frames
    np.testing.assert_array_equal(given.images, given_images(every, 1, SIZE, 5, None).images)


def test_paths_may_begin_with_the_home_folder(photo, monkeypatch):
    monkeypatch.setenv("HOME", str(photo.parent))
    assert load_images("~/photo.png", 56).shape == (1, 56, 56, 3)
    with pytest.raises(UserError, match="images '' is no path"):
        load_images("")


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        (3, "cameras must be a path, not int"),
        ("orbit_lft", r"'orbit_lft' \(did you mean orbit_left\?\) is neither a file"),
    ],
)
def test_what_is_no_camera_is_refused(cameras, message):
    with pytest.raises(UserError, match=message):
        camera_file(cameras)


def test_a_scale_is_above_0():
    with pytest.raises(UserError, match="camera_scale must be above 0"):
        refuse_other_options("cameras.json", camera_scale=0)


def test_a_record_says_what_was_given():
    given = ["a.png", Path("b.png"), np.zeros((2, 3), np.uint8), np.int64(3), 15, None, Image.new("RGB", (4, 2))]
    assert describe(given) == ["a.png", "b.png", "array of uint8 [2, 3]", 3, 15, None, "Image (4, 2)"]
