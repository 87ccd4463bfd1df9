"""What a worker makes: scenes and reconstructions as the commands make them, and previews of camera paths."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from conversion.pipeline_folder import find_weights
from gen3r_jax import generate, reconstruct
from gen3r_jax.export.folder import scene_folder
from gen3r_jax.export.pointcloud import at_most
from gen3r_jax.generation import programs
from gen3r_jax.generation.jobs import generate_one
from gen3r_jax.generation.networks import to_scene
from gen3r_jax.generation.pipeline import Gen3RPipeline
from gen3r_jax.generation.request import Request
from gen3r_jax.generation.vggt import VGGT
from gen3r_jax.serve.options import ServeOptions
from gen3r_jax.serve.queue import Job
from gen3r_jax.serve.requests import arguments, parse
from gen3r_jax.serve.worker import Tell
from gen3r_jax.sharding import fetch
from gen3r_jax.storage.compile_cache import use_compile_cache
from gen3r_jax.storage.files import replacing, write_json

PREVIEW_POINTS = 20_000
PICTURES = 4
"""Rough pictures of a scene while it is sampled."""

PICTURE_SIDE = 480

USUAL = {"Sampling": 60.0, "Decoding the video": 10.0, "Reading depth and cameras": 10.0, "Writing files": 10.0}
"""How long stages take beside one another before any was timed; others take 2."""


def start(options: ServeOptions) -> "Making":
    """Opens the pipeline of a worker."""
    use_compile_cache(options.compile_cache)
    return Making(options)


class Making:
    """A pipeline that stays warm; a :class:`gen3r_jax.serve.worker.Maker`."""

    def __init__(self, options: ServeOptions):
        memory_mode: Any = options.memory_mode
        self._options = options
        self._weights = find_weights(options.weights)
        self._pipeline = Gen3RPipeline.from_pretrained(self._weights, dtype=options.dtype, memory_mode=memory_mode)
        self._seconds: dict[tuple[Any, ...], dict[str, float]] = {}
        device = jax.devices()[0]
        self.device = f"{device.device_kind} ({device.platform})"

    def __call__(self, job: Job, inputs: Path, output: Path, tell: Tell) -> None:
        line = arguments(job.kind, job.request["fields"], job.request["files"], inputs)
        options = parse(job.kind, line, self._options.weights, output)
        options.dtype, options.memory_mode = self._options.dtype, self._options.memory_mode
        if job.kind == "reconstruct":
            tell(0.1, "Reconstructing", None)
            reconstruct.reconstruct_one(self._vggt, options)
            _keep_picture(output / "sheet.png", inputs)
            return
        request = generate.read_request(options, self._pipeline.settings)
        if job.kind == "preview":
            tell(0.1, "Finding points and cameras", None)
            with scene_folder(output) as folder:
                write_json(folder / "preview.json", self._preview(request), indent=None)
            return
        kind = (
            request.size,
            request.num_frames,
            request.num_inference_steps,
            request.geometry,
            request.guidance_scale > 1,
        )
        stages = Stages(tell, self._seconds.get(kind, {}))
        self._pipeline.stage = stages.stage
        try:
            generate_one(self._pipeline, request, options, self._callback(request, stages, inputs))
        finally:
            self._pipeline.stage = nullcontext
        self._seconds[kind] = stages.finished()
        _keep_picture(output / "sheet.png", inputs)

    @cached_property
    def _vggt(self) -> VGGT:
        return VGGT.from_pretrained(self._weights, dtype=self._options.dtype)

    def _callback(self, request: Request, stages: "Stages", inputs: Path) -> Callable[[int, float, jax.Array], None]:
        steps = request.num_inference_steps
        shown = {round(steps * (number + 1) / (PICTURES + 1)) for number in range(PICTURES)} - {0, steps}

        def callback(index: int, timestep: float, latents: jax.Array) -> None:
            stages.step((index + 1) / steps)
            if index + 1 in shown and self._pipeline.memory_mode == "resident":
                _write_picture(self._picture(latents), inputs)

        return callback

    def _picture(self, latents: jax.Array) -> UInt8[np.ndarray, "h w 3"]:
        """The last frame of a sample as if it were a still, so that one program decodes it, and quickly."""
        width = latents.shape[3] // (1 + self._pipeline.joint)
        frames = fetch(programs.decode_video(self._pipeline.network("wan_vae"), latents[:1, -1:, :, :width]))
        return np.floor(255 * frames[0, 0]).astype(np.uint8)

    def _preview(self, request: Request) -> dict[str, Any]:
        """Points that VGGT sees in the given frames, and the cameras that the scene would have."""
        inputs = self._pipeline.prepare(
            [request.text()],
            request.pictures(),
            request.cameras,
            request.num_frames,
            request.size,
            control_frames=request.given,
            fit=request.fit,
            **request.camera_options,
        )
        images = inputs.images[0]
        scene = to_scene(np.floor(255 * images).astype(np.uint8), self._pipeline.reconstruct(images))
        points, colors = at_most(PREVIEW_POINTS, scene.points.reshape(-1, 3), scene.rgb.reshape(-1, 3))
        c2w, k = inputs.poses[0] if len(inputs.poses) else (np.zeros((0, 4, 4)), scene.intrinsics[:1])
        return {
            "height": images.shape[1],
            "width": images.shape[2],
            "depth": float(np.median(scene.depth)),
            "points": np.round(points, 4).astype(float).ravel().tolist(),
            "colors": colors.ravel().tolist(),
            "intrinsics": np.asarray(k[0], float).tolist(),
            "c2w": np.asarray(c2w, float).round(6).tolist(),
        }


class Stages:
    """Follows the stages of a scene and tells how far it is.

    Args:
      seconds: how long the stages of the last scene of this kind took; empty if there was none.
    """

    def __init__(self, tell: Tell, seconds: dict[str, float]):
        self._tell, self._expected = tell, seconds or USUAL
        self._known = bool(seconds)
        self._total = sum(self._expected.values())
        self._done, self._current, self._began = 0.0, "", time.monotonic()
        self._seconds: dict[str, float] = {}
        self._end = time.monotonic()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.monotonic()
        self._current = name
        self._told(0.0)
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start
        self._done += self._expected.get(name, 0.0)
        self._end = time.monotonic()
        self._current = "Writing files" if name.startswith("Reading ") else "Preparing"
        self._told(0.0)

    def step(self, share: float) -> None:
        """Counts a step of the solver: `share` of them are done."""
        self._told(share)

    def finished(self) -> dict[str, float]:
        """How long the stages took that come with every scene."""
        self._seconds["Writing files"] = time.monotonic() - self._end
        return {name: seconds for name, seconds in self._seconds.items() if not name.startswith("Loading ")}

    def _told(self, share: float) -> None:
        progress = min(0.99, (self._done + share * self._expected.get(self._current, 0.0)) / self._total)
        self._tell(progress, self._current, (1 - progress) * self._total if self._known else None)


def _keep_picture(sheet: Path, inputs: Path) -> None:
    """Makes the picture of a scene of its sheet, if it has one."""
    if sheet.exists():
        with Image.open(sheet) as picture:
            _write_picture(np.asarray(picture.convert("RGB")), inputs)


def _write_picture(pixels: np.ndarray, inputs: Path) -> None:
    picture = Image.fromarray(pixels)
    picture.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    with replacing(inputs / "preview.jpg") as temporary:
        picture.save(temporary, "JPEG", quality=80)
