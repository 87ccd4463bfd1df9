"""Recordings of the data pipeline, replayed with the official crop of the intrinsics: frame choice, crops, captions."""

import random
import re
from typing import Any

import numpy as np

from conversion.recording import Arrays, Recording, Replay, Tolerance
from gen3r_jax.data.captions import clean_caption
from gen3r_jax.data.clips import crop_box, resize_crop, sample_indices
from gen3r_jax.geometry.cameras import crop_intrinsics, rebase_to_first


def data_utils(recording: Recording) -> Arrays:
    clips: dict[str, Arrays] = {}
    outputs = {}
    for name in recording.outputs:
        if match := re.fullmatch(r"case(\d+)/(\w+)", name):
            if match[1] not in clips:
                clips[match[1]] = _clip(recording, recording.config["cases"][int(match[1])], f"case{match[1]}")
            outputs[name] = clips[match[1]][match[2]]
        elif match := re.fullmatch(r"center_crop_(\d+)x(\d+)", name):
            images = recording.inputs["crop_in"]
            top, left, bottom, right = crop_box(images.shape[2:], (int(match[1]), int(match[2])))
            outputs[name] = images[:, :, top:bottom, left:right]
        elif match := re.fullmatch(r"get_K_(\d+)x(\d+)_to_(\d+)", name):
            width, height, side = map(int, match.groups())
            outputs[name] = _intrinsics_of_unrecorded_camera(recording.outputs[name], (height, width), side)
    # The official code keeps cameras in single precision.
    return {f"outputs/{name}": x if x.dtype.kind == "i" else x.astype(np.float32) for name, x in outputs.items()}


def _clip(recording: Recording, case: dict[str, Any], name: str) -> Arrays:
    inputs, config = recording.inputs, recording.config
    start, front = case["fix_start_frame"], 0
    if start is None or not case.get("repeat_last", False):
        # PyTorch's and Python's generators drew these: only the draws are taken as recorded.
        recorded = recording.outputs[f"{name}/frame_indices"]
        front = max(0, int(np.sum(recorded == 0)) - 1)
        start = int(recorded[0]) if start is None else start
    indices = sample_indices(config["n"], case["num_frames"], case["interval"], start=start, front=front)
    target = (case["height"], case["width"])
    cameras = np.tile(np.eye(3), (len(indices), 1, 1))
    cameras[:, [0, 1], [0, 1]], cameras[:, :2, 2] = inputs["fl"][indices], inputs["c"][indices]
    frames = np.stack([resize_crop(inputs["images_u8"][i], target) for i in indices])
    return {
        "frame_indices": indices,
        "c2ws": rebase_to_first(inputs["c2w"][indices].astype(np.float64)),
        "Ks": crop_intrinsics(cameras, (config["h"], config["w"]), target, truncate=True),
        "frames_0_255": frames.transpose(0, 3, 1, 2),
    }


def _intrinsics_of_unrecorded_camera(recorded: np.ndarray, size: tuple[int, int], side: int) -> np.ndarray:
    """The camera that went in is not in the file: it is looked for among those with two decimals, as people write them.

    A wrong scale, or in general a crop that is off by one pixel, finds none that gives the recorded result.
    """

    def crop(intrinsics: np.ndarray) -> np.ndarray:
        return crop_intrinsics(intrinsics, size, (side, side), truncate=True)

    shift = crop(np.zeros((3, 3)))  # cropping scales and shifts each number
    scale = crop(np.ones((3, 3))) - shift
    return crop(np.round((recorded - shift) / scale, 2))


def text_clean_prompt(recording: Recording) -> Arrays:
    captions = [_expand(caption) for caption in recording.config["inputs"]]
    outputs = {}
    for i, case in enumerate(recording.config["cases"]):
        rng = random.Random(case["python_random_seed"])
        cleaned = [clean_caption(caption, rng) for caption in captions]
        outputs[f"outputs/cases/{i}"] = np.array([_shorten(caption) for caption in cleaned])
    return outputs


def _expand(text: str) -> str:
    """``<x*1000>`` stands for a thousand times x."""
    return re.sub(r"<(.)\*(\d+)>", lambda match: match[1] * int(match[2]), text)


def _shorten(text: str) -> str:
    return re.sub(r"(.)\1{99,}", lambda match: f"<{match[1]}*{len(match[0])}>", text)


REPLAYS = {
    "data_utils": Replay(
        data_utils,
        {r".*/frames_0_255": Tolerance(2e-2), r".*": Tolerance(1e-5)},
        marks=(r"outputs/case\d+/frame_indices",),
    ),
    "text_clean_prompt": Replay(text_clean_prompt, {r".*": Tolerance()}, marks=(r"outputs/cases/\d+",)),
}
