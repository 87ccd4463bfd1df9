"""Which flags of the commands a request may give, and how they are written in a form.

Left out are flags that are the server's (weights, dtype, output, devices) and those that print. Nothing is imported
here, so that web can.
"""

import re
from collections.abc import Sequence

GENERATE = {
    "prompt": "text",
    "negative_prompt": "text",
    "task": "text",
    "frame_index": "list",
    "stride": "text",
    "first": "text",
    "cameras": "text",
    "camera_format": "text",
    "camera_angle": "text",
    "camera_distance": "text",
    "camera_easing": "text",
    "camera_scale": "text",
    "size": "list",
    "fit": "text",
    "num_frames": "text",
    "seed": "text",
    "num_inference_steps": "text",
    "guidance_scale": "text",
    "guidance_skip": "text",
    "step_cache": "text",
    "solver": "text",
    "shift": "text",
    "geometry": "text",
    "format": "list",
    "remove_far_points": "switch",
    "fps": "text",
}
RECONSTRUCT = {
    "num_frames": "text",
    "window": "text",
    "stride": "text",
    "first": "text",
    "size": "list",
    "fit": "text",
    "camera_format": "text",
    "scale_from": "text",
    "through_adapter": "switch",
    "original_size": "switch",
    "min_confidence": "text",
    "far_percentile": "text",
    "points": "text",
    "format": "list",
    "fps": "text",
}
FILES = {"images": "images", "masks": "masks", "cameras_file": "cameras"}
"""Fields of files, and the flags that they become."""

LONGEST_FIELD = 10_000
"""Characters of a field."""

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def safe_names(names: Sequence[str]) -> list[str]:
    """Names under which files are kept: those that they were sent under, of letters that are safe, each another."""
    safe = []
    for number, name in enumerate(names):
        short = _UNSAFE.sub("_", name.replace("\\", "/").rpartition("/")[2])[-80:].lstrip(".-_") or "file"
        safe.append(short if short not in safe else f"{number:03}-{short}")
    return safe
