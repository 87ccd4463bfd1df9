"""What a user asks to be generated, checked before anything slow begins, and made ready for the pipeline."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from gen3r_jax.data.clips import resize_crop
from gen3r_jax.data.images import read_frames
from gen3r_jax.diffusion.conditioning import TASKS, frame_mask, given_frames
from gen3r_jax.errors import UserError
from gen3r_jax.generation.pipeline import Gen3RPipeline
from gen3r_jax.geometry.camera_files.read import read_camera_file
from gen3r_jax.geometry.cameras import rebase_to_first
from gen3r_jax.geometry.trajectories import PRESETS, camera_path, options_of
from gen3r_jax.models.sizes import require_clip_length, require_side
from gen3r_jax.options import read_options
from gen3r_jax.storage.files import parse_json, read_text

Size = tuple[int, int]


@dataclass(frozen=True)
class Request:
    """One scene to generate. The fields are the flags of ``gen3r generate``, and the keys of a line of ``--jobs``.

    Attributes:
      frame_path: images, a folder or a video; for a file with jobs, relative to that file.
      frame_index: which frames of the scene they are; by default what `task` says.
      prompts: the text, or a file whose first line it is.
      cameras: "free", a preset, or a file.
      name: sub-folder of the output.
    """

    task: str
    frame_path: tuple[str, ...]
    prompts: str
    cameras: str = "free"
    camera_format: str | None = None
    camera_angle: float | None = None
    camera_distance: float | None = None
    frame_index: tuple[int, ...] | None = None
    negative_prompt: str = "bad detailed"
    num_inference_steps: int = 50
    guidance_scale: float = 5.0
    guidance_skip: float = 0.0
    step_cache: float = 0.0
    solver: str = "euler"
    shift: float | None = None
    seed: int = 42
    name: str = ""

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise UserError(f"task {self.task!r} is none of {', '.join(TASKS)}")
        if self.cameras not in PRESETS and not _exists(Path(self.cameras)):
            raise UserError(f"cameras {self.cameras!r} is neither a file nor one of {', '.join(PRESETS)}")
        if not self.frame_path:
            raise UserError("frame_path is empty; give an image, a folder or a video")
        if not 0 <= self.seed < 2**32:  # JAX takes no more of it
            raise UserError(f"seed {self.seed} is not a number from 0 to 2**32 - 1")
        if self.cameras not in set(PRESETS) - {"free"} and (self.camera_angle, self.camera_distance) != (None, None):
            raise UserError(f"camera_angle and camera_distance are of presets, cameras is {self.cameras!r}")
        if self.camera_format and self.cameras in PRESETS:
            raise UserError(f"camera_format is of camera files, cameras is {self.cameras!r}")
        self.text()

    def text(self) -> str:
        """The prompt: stripped, and the first line where `prompts` names a file."""
        text = self.prompts
        if _exists(Path(text)) and Path(text).is_file():
            text = read_text(text).split("\n")[0]
        if not text.strip():
            raise UserError(f"no prompt in {self.prompts!r}: say what the scene shows")
        return text.strip()

    def given(self, num_frames: int) -> tuple[int, ...]:
        """Which frames of the clip are given."""
        given = self.frame_index if self.frame_index is not None else given_frames(self.task, num_frames)
        frame_mask(given, num_frames)
        return tuple(given)

    def images(self, num_frames: int, size: Size) -> Float[np.ndarray, "k h w 3"]:
        """The given frames in [0, 1], scaled and cropped. Raises UserError unless there are as many as needed."""
        require_clip_length(num_frames)
        for side in size:
            require_side(side)
        given = self.given(num_frames)
        paths = [Path(path) for path in self.frame_path]
        if len(paths) > 1 and len(paths) != len(given):
            raise UserError(f"{len(paths)} images for {self.task}, which takes {len(given)}{self._places()}")
        ends = self.task == "2view" and self.frame_index is None  # of a video or a folder
        pictures = read_frames(paths, at=(0, -1) if ends else given)
        if len(pictures) != len(given):
            found = f"{paths[0]} has {len(pictures)} frame{'s' * (len(pictures) != 1)}"
            raise UserError(f"{found}, {self.task} takes {len(given)}{self._places()}")
        return np.stack([resize_crop(picture, size) / 255 for picture in pictures]).astype(np.float32)

    def _places(self) -> str:
        return "" if self.frame_index is None else f" (--frame_index {' '.join(map(str, self.frame_index))})"

    @property
    def has_cameras(self) -> bool:
        """Whether the path of the camera is told: never with all frames given, whose cameras are found."""
        return self.task != "allview" and self.cameras != "free"

    def camera_path(
        self, pipeline: Gen3RPipeline, images: Float[np.ndarray, "k h w 3"], num_frames: int
    ) -> tuple[Float[np.ndarray, "t 4 4"], Float[np.ndarray, "t 3 3"]]:
        """Camera-to-world matrices, the first the identity, and intrinsics; a preset's scale is VGGT's median depth."""
        size = images.shape[1:3]
        if self.cameras in PRESETS:
            options = {"angle": self.camera_angle, "distance": self.camera_distance}
            camera_path(self.cameras, num_frames, 1.0, **options)  # says what is wrong before VGGT runs
            _, intrinsics, depth = pipeline.reconstruct_cameras(images)
            c2w = camera_path(self.cameras, num_frames, 0.8 * depth, **options)
            return c2w, np.repeat(intrinsics[:1], num_frames, axis=0)
        c2w, intrinsics = read_camera_file(Path(self.cameras), num_frames, size, self.camera_format)
        if intrinsics is None:  # the form has none
            intrinsics = np.repeat(pipeline.reconstruct_cameras(images)[1][:1], num_frames, axis=0)
        return rebase_to_first(c2w), intrinsics


LONGEST_NAME = 200
"""Bytes of a job's name, which names its folder."""

FIELDS = tuple(field.name for field in dataclasses.fields(Request))


def read_jobs(path: Path, defaults: dict) -> list[tuple[str, Request | UserError]]:
    """The lines of a file of jobs: name, and the request or what is wrong with it.

    Each line is a JSON object with keys of :class:`Request`; what is left out is as in `defaults`.
    Raises UserError for a file that is unreadable or empty, or names that repeat.
    """
    jobs = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        if not line.strip():
            continue
        name = f"job{number:04}"
        try:
            fields = parse_json(line, "the line")
            name = str(fields.get("name") or name)
            if len(name.encode()) > LONGEST_NAME:
                name, long = f"job{number:04}", len(name.encode())
                raise UserError(f"the name has {long} bytes, folders at most {LONGEST_NAME}")
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise UserError(f"the name {name!r} leads out of the output folder")
            fields = _resolved(fields, path.parent)
            request = read_options(Request, {**_fitting(defaults, fields), **fields, "name": name}, "job")
        except UserError as error:
            request = error
        jobs.append((name, request))
    if not jobs:
        raise UserError(f"{path} holds no jobs: one JSON object a line is needed")
    names = [name for name, _ in jobs]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(f"{path}: names that repeat: {', '.join(twice)}")
    return jobs


def _fitting(defaults: dict, fields: dict) -> dict:
    """The defaults without what is said of other cameras than those of a job."""
    cameras = fields.get("cameras", defaults.get("cameras", "free"))
    others = {"camera_format"} if cameras in PRESETS else set()
    others |= {"camera_angle", "camera_distance"} - {f"camera_{option}" for option in options_of(cameras)}
    return {key: value for key, value in defaults.items() if key not in others}


def _resolved(fields: dict, folder: Path) -> dict:
    """Paths of a job, which are relative to the file it stands in; a single frame may stand without a list."""
    fields = dict(fields)
    frames = fields.get("frame_path")
    if isinstance(frames, str):
        frames = [frames]
    if isinstance(frames, list):
        fields["frame_path"] = [str(folder / str(frame)) for frame in frames]
    for key in ("cameras", "prompts"):
        value = fields.get(key)
        if isinstance(value, str) and value not in PRESETS and value.strip() and _exists(folder / value):
            is_text = key == "prompts" and not (folder / value).is_file()
            fields[key] = value if is_text else str(folder / value)
    return fields


def _exists(path: Path) -> bool:
    """Also of what may be no path at all, such as a long prompt."""
    try:
        return path.exists()
    except OSError:
        return False
