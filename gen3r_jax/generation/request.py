"""What a user asks to be generated, by flags of ``gen3r generate`` or by a line of a file of jobs."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from gen3r_jax.carried import find_file, user_path
from gen3r_jax.data.images import Clip, read_clip, require_choice
from gen3r_jax.diffusion.tasks import TASKS, frame_mask, given_frames
from gen3r_jax.errors import UserError, notice
from gen3r_jax.generation.cameras import camera_file, refuse_other_options
from gen3r_jax.generation.inputs import as_size, require_fit
from gen3r_jax.generation.settings import GenerationSettings, require_text
from gen3r_jax.geometry.trajectories import PRESETS, options_of
from gen3r_jax.models.sizes import whole_size
from gen3r_jax.options import read_options
from gen3r_jax.storage.files import inside, parse_json, read_lines, read_text, refuse_newer

FORMAT_VERSION = 1
"""Of a file of jobs: the largest ``format_version`` that a line may say."""

OLD_KEYS = {"frame_path": "images", "frames": "images", "prompts": "prompt"}
"""Names that keys of jobs had before, and what they are called now."""

LONGEST_NAME = 200
"""Bytes of a job's name, which names its folder."""


@dataclass(frozen=True, kw_only=True)
class Request(GenerationSettings):
    """One scene to generate. The fields are the flags of ``gen3r generate``, and the keys of a job.

    Attributes:
      images: pictures, a folder or a video; for a file with jobs, relative to that file or, if they are not there, to
        the working folder.
      prompt: the text, or a file whose first line it is.
      masks: of the frames of `images`, in the same forms: white where a frame is known, black where it is not.
      fit: how pictures of another aspect are brought to the size, one of :data:`gen3r_jax.data.clips.FITS`.
      task: which frames the images are: the first, the first and the last, or all.
      frame_index: which frames of the clip the images are, instead of what `task` says.
      stride, first: for "allview" of a longer video or folder, every `stride`-th frame from number `first` on, instead
        of frames spread evenly over all.
      cameras: "free", a preset, or a file; what is said of them: :func:`gen3r_jax.generation.cameras.camera_poses`.
      name: sub-folder of the output.
    """

    images: tuple[str, ...]
    prompt: str
    masks: tuple[str, ...] = ()
    fit: str = "crop"
    task: str = "1view"
    frame_index: tuple[int, ...] | None = None
    stride: int | None = None
    first: int | None = None
    cameras: str = "free"
    camera_format: str | None = None
    camera_angle: float | None = None
    camera_distance: float | None = None
    camera_easing: str | None = None
    camera_scale: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_inference_steps < 1:
            raise UserError(f"num_inference_steps must be at least 1, not {self.num_inference_steps}")
        if self.task not in TASKS:
            raise UserError(f"task {self.task!r} is none of {', '.join(TASKS)}")
        if self.cameras not in PRESETS:
            camera_file(self.cameras)
        if not self.images:
            raise UserError("images is empty; give an image, a folder or a video")
        for path in self.images:
            find_file(path, "images")
        if (self.stride, self.first) != (None, None) and (self.task != "allview" or self.frame_index is not None):
            raise UserError("stride and first choose frames for the task allview without frame_index")
        require_choice(self.stride, self.first)
        require_fit(self.fit)
        refuse_other_options(self.cameras, **self.camera_options)
        self.text()

    def text(self) -> str:
        """The prompt: stripped, and the first line where `prompt` names a file."""
        text = self.prompt
        if _exists(Path(text)) and Path(text).is_file():
            first, *others = read_lines(text) or [""]
            if others:
                notice(f"{text}: the first line is the prompt; {len(others)} further lines are not used")
            text = first
        elif Path(text).suffix in (".txt", ".md") and len(text.split()) == 1:
            raise UserError(f"there is no file {text}; a prompt that is a text should not look like a file's name")
        require_text("prompt", text)
        if not text.strip():
            raise UserError(f"no prompt in {self.prompt!r}: say what the scene shows")
        return text.strip()

    @property
    def given(self) -> tuple[int, ...]:
        """Which frames of the clip are given."""
        given = self.frame_index if self.frame_index is not None else given_frames(self.task, self.num_frames)
        frame_mask(given, self.num_frames)
        return tuple(given)

    @property
    def camera_options(self) -> dict[str, Any]:
        """What is said of the cameras beside which they are."""
        names = ("camera_format", "camera_angle", "camera_distance", "camera_easing", "camera_scale")
        return {name: getattr(self, name) for name in names}

    def pictures(self) -> Clip:
        """The given frames. Raises UserError unless there are as many as needed."""
        given, masks = self.given, [Path(path) for path in self.masks]
        paths = [find_file(path, "images") for path in self.images]
        if len(paths) > 1 and len(paths) != len(given):
            raise UserError(f"{len(paths)} images for {self.task}, which takes {len(given)}{self._places()}")
        if len(paths) > 1:
            return read_clip(paths, masks=masks)
        if self.task == "allview" and self.frame_index is None:
            clip = read_clip(paths, at_most=self.num_frames, stride=self.stride, first=self.first, masks=masks)
        else:
            ends = self.task == "2view" and self.frame_index is None  # of a video or a folder
            clip = read_clip(paths, at=(0, -1) if ends else given, masks=masks)
        if len(clip.frames) != len(given):
            found = f"{paths[0]} has {len(clip.frames)} frame{'s' * (len(clip.frames) != 1)}"
            raise UserError(f"{found}, {self.task} takes {len(given)}{self._places()}")
        return clip

    def fitted(self) -> Self:
        """The request at the size that its pictures are brought to: with the fit "whole" the first of them says it."""
        if self.fit != "whole":
            return self
        height, width = whole_size(self.pictures().frames[0].shape[:2], self.size)
        return dataclasses.replace(self, height=height, width=width)

    def _places(self) -> str:
        return "" if self.frame_index is None else f" (--frame_index {' '.join(map(str, self.frame_index))})"


FIELDS = tuple(field.name for field in dataclasses.fields(Request))


def read_jobs(path: Path, defaults: dict[str, Any]) -> list[tuple[str, Request | UserError]]:
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
            name = _name(fields, name)
            fields = _resolved(_present(fields), path.parent)
            request = read_options(Request, {**_fitting(defaults, fields), **fields, "name": name}, "job")
        except UserError as error:
            request = error
        jobs.append((name, request))
    if not jobs:
        raise UserError(f"{path} holds no jobs: one JSON object a line is needed")
    seen: set[str] = set()
    if twice := sorted({name for name, _ in jobs if name in seen or seen.add(name)}):
        raise UserError(f"{path}: names that repeat: {', '.join(twice[:10])}")
    return jobs


def _name(fields: dict[str, Any], default: str) -> str:
    name = str(fields.get("name") or default)
    if len(name.encode()) > LONGEST_NAME:
        raise UserError(f"the name has {len(name.encode())} bytes, folders at most {LONGEST_NAME}")
    return inside(Path(), name).as_posix()


def _present(fields: dict[str, Any]) -> dict[str, Any]:
    """Keys of a job under their present names."""
    fields = dict(fields)
    refuse_newer(fields, FORMAT_VERSION, "the job")
    fields.pop("format_version", None)
    said: dict[str, str] = {}
    for key in fields:
        for name in ("height", "width") if key == "size" else (OLD_KEYS.get(key, key),):
            if name in said:
                raise UserError(f"{said[name]} and {key} say the same twice; give one of them")
            said[name] = key
    if "size" in fields:
        fields["height"], fields["width"] = as_size(fields.pop("size"))
    return {OLD_KEYS.get(key, key): value for key, value in fields.items()}


def _fitting(defaults: dict[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    """The defaults without what is said of other cameras than those of a job."""
    cameras = fields.get("cameras", defaults.get("cameras", "free"))
    if not isinstance(cameras, str):
        raise UserError(f"job.cameras must be a preset or a file, not {cameras!r}")
    others = {"camera_format", "camera_scale"} if cameras in PRESETS else set()
    others |= {"camera_easing"} if cameras == "free" else set()
    others |= {"camera_angle", "camera_distance"} - {f"camera_{option}" for option in options_of(cameras)}
    return {key: value for key, value in defaults.items() if key not in others}


def _resolved(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths of a job, which are relative to the file it stands in, else to the working folder; a single frame may stand
    without a list."""
    fields = dict(fields)
    for key in ("images", "masks"):
        paths = fields.get(key)
        if isinstance(paths, str):
            paths = [paths]
        if isinstance(paths, list):
            fields[key] = [str(_locate(path, folder)) if isinstance(path, str) else path for path in paths]
    for key in ("cameras", "prompt"):
        value = fields.get(key)
        if isinstance(value, str) and value not in PRESETS and value.strip() and _exists(folder / value):
            is_text = key == "prompt" and not (folder / value).is_file()
            fields[key] = value if is_text else str(folder / value)
    return fields


def _locate(name: str, folder: Path) -> Path:
    beside, elsewhere = folder / user_path(name, "images"), find_file(name, "images")
    return elsewhere if _exists(elsewhere) and not _exists(beside) else beside


def _exists(path: Path) -> bool:
    """Also of what may be no path at all, such as a long prompt."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
