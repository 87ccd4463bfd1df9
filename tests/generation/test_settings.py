"""What a folder of weights and a call may say of how scenes are sampled."""

import json

import numpy as np
import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.generation.settings import GenerationSettings, read_settings, read_shift
from gen3r_jax.generation.weights import default_dtype


def test_numbers_of_numpy_are_numbers():
    settings = GenerationSettings().take(seed=np.int64(3), guidance_scale=np.float32(2), num_inference_steps=4)
    assert settings == GenerationSettings(seed=3, guidance_scale=2.0, num_inference_steps=4)
    assert type(settings.seed) is int and type(settings.guidance_scale) is float


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1.5}, "seed must be a whole number, not 1.5"),
        ({"num_inference_steps": 2.5}, "num_inference_steps must be a whole number, not 2.5"),
        ({"num_inference_steps": True}, "num_inference_steps must be a whole number, not True"),
        ({"guidance_scale": "5"}, "guidance_scale must be a number, not '5'"),
        ({"negative_prompt": 3}, "negative_prompt must be a text, not 3"),
        ({"num_frames": 0}, "0 frames are not 4 k"),
        ({"seed": 2**32}, "seed must be at least 0 and below 4294967296"),
        ({"solver": "eular"}, "did you mean euler"),
    ],
    ids=str,
)
def test_other_kinds_of_values_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        GenerationSettings().take(**changes)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"num_frames": 8}, "generation.json: 8 frames are not 4 k"),
        ({"height": 100}, "generation.json: side 100 is not a multiple of 112"),
        ({"seed": True}, "generation.json: settings.seed must be a whole number, not True"),
    ],
    ids=str,
)
def test_a_folder_that_no_clip_fits_is_named(tmp_path, content, message):
    (tmp_path / "generation.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        read_settings(tmp_path)


@pytest.mark.parametrize("shift", [True, 0, "2", None])
def test_a_shift_is_a_number_above_0(tmp_path, shift):
    (tmp_path / "scheduler.json").write_text(json.dumps({"shift": shift}))
    with pytest.raises(UserError, match="has no shift above 0"):
        read_shift(tmp_path)


@pytest.mark.parametrize("dtype", ["foo", "int8", 3])
def test_weights_have_floating_point_numbers(dtype):
    with pytest.raises(UserError, match="give float32 or bfloat16"):
        default_dtype(dtype)
