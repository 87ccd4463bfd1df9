"""From the fields of a form to the command line of ``gen3r generate`` or ``gen3r reconstruct``, which a job is.

A job keeps its fields as they were sent. Whoever checks, makes or shows it reads them through the parser of the
command, so there is no second list of flags and of their defaults. What reads files, :func:`check`, is called in a
process that may die (:mod:`gen3r_jax.serve.bounded`).
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from gen3r_jax import generate, reconstruct
from gen3r_jax.data.images import IMAGE_SUFFIXES, read_orientation
from gen3r_jax.data.video import VIDEO_SUFFIXES, open_container
from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import require_formats
from gen3r_jax.export.video import require_fps
from gen3r_jax.export.viewer_page import three_js
from gen3r_jax.generation.inputs import as_size
from gen3r_jax.generation.reconstruction import ReconstructionOptions, read_clip_for
from gen3r_jax.generation.settings import read_settings
from gen3r_jax.geometry.camera_files.read import read_contents
from gen3r_jax.geometry.trajectories import PRESETS, options_of
from gen3r_jax.models.sizes import SIDE_MULTIPLE
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.serve.fields import FILES, GENERATE, RECONSTRUCT
from gen3r_jax.serve.options import Limits
from gen3r_jax.serve.uploads import Upload

__all__ = ["arguments", "check", "command", "describe", "parse", "three_js"]

MOST_WORDS = 1000
"""Words of a text encoder that is said to know no others."""

_PARSERS = {
    "generate": (generate.parser, GENERATE),
    "preview": (generate.parser, GENERATE),
    "reconstruct": (reconstruct.parser, RECONSTRUCT),
}


def arguments(
    kind: str, fields: Mapping[str, str], files: Mapping[str, Sequence[str]], folder: Path | None
) -> list[str]:
    """The command line of a job.

    Args:
      fields: what was sent, by the names of flags.
      files: names of the files of a job, by the names of their flags.
      folder: where they lie; None leaves the names as they are, and the prompt a text, for people to read.

    Raises:
      UserError: fields that the command does not have, or that lead to files.
    """
    allowed, line = _PARSERS[kind][1], []
    for name, value in fields.items():
        if name not in allowed:
            raise UserError(f"there is no field {name[:60]!r}; allowed are {', '.join((*allowed, *FILES))}")
        if allowed[name] == "switch":
            if value not in ("true", "false"):
                raise UserError(f"{name} is true or false, not {value[:60]!r}")
            line += [f"--{name}"] * (value == "true")
        elif allowed[name] == "list":
            words = value.replace(",", " ").split()
            if not words or any(word.startswith("-") for word in words):
                raise UserError(f"{name} is a list, its items separated by commas, not {value[:60]!r}")
            line += [f"--{name}", *words]
        elif name == "prompt" and folder is not None:
            line.append(f"--prompt={folder / 'prompt.txt'}")  # a text could be the name of a file of the server
        elif name == "cameras" and value not in PRESETS:
            raise UserError(f"cameras {value[:60]!r} is none of {', '.join(PRESETS)}; send a file as cameras_file")
        elif name == "prompt":
            line += ["--prompt", " ".join(value.split())]
        else:
            line.append(f"--{name}={value}")
    if kind == "preview" and "prompt" not in fields:
        line.append("--prompt=preview")  # which the cameras do not depend on
    for name, flag in FILES.items():
        if names := files.get(name):
            line += [f"--{flag}", *(str(folder / one) if folder else one for one in names)]
    return line


def command(kind: str, fields: Mapping[str, str], names: Mapping[str, Sequence[str]], weights: str) -> str:
    """What a user types who makes the same scene from the files as they were called."""
    line = ["gen3r", kind, "--weights", weights, *arguments(kind, fields, names, None), "--output", "SCENE"]
    return shlex.join(line)


def parse(kind: str, line: Sequence[str], weights: str, output: Path) -> argparse.Namespace:
    """The options of a command line. Raises UserError where the command would say what is wrong with it."""
    parser = _PARSERS[kind][0]()

    def refuse(message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))

    parser.error = refuse
    return parser.parse_args([*line, f"--weights={weights}", f"--output={output}"])


def check(kind: str, upload: Upload, weights: str, limits: Limits) -> dict[str, Any]:
    """Reads a job and its files as its worker will; returns what it will be, and the command that makes the same.

    Raises UserError for everything that is wrong with it: fields, pictures that cannot be read, sizes above the limits.
    """
    try:
        size = _check(kind, upload, weights, limits)
    except UserError as error:
        raise UserError(str(error).replace(f"{upload.folder}/", "")) from None
    return {**size, "command": command(kind, upload.fields, upload.names, weights)}


def _check(kind: str, upload: Upload, weights: str, limits: Limits) -> dict[str, int]:
    """Frames, height and width of what a job will make."""
    files, folder = upload.files, upload.folder
    options = parse(kind, arguments(kind, upload.fields, files, folder), weights, folder / "scene")
    settings = read_settings(Path(weights))
    for name in ("images", "masks"):
        for one in files.get(name, ()):
            _require_pixels(folder / one, limits.pixels)
    if files.get("cameras_file"):
        read_contents(folder / files["cameras_file"][0], options.camera_format).require_sound()
    require_formats(options.format or ())
    if options.fps is not None:
        require_fps(options.fps)
    if kind == "reconstruct":
        size = as_size(options.size or settings.size)
        clip = read_clip_for(
            options.images, ReconstructionOptions(**reconstruct.given_flags(options)), size, SIDE_MULTIPLE
        )
        count, height, width, _ = clip.frames.shape
        _require_clip(count, height, width, limits)
        return {"frames": count, "height": height, "width": width}
    request = generate.read_request(options, settings)
    _require_clip(request.num_frames, request.height, request.width, limits)
    if request.num_inference_steps > limits.steps:
        raise UserError(f"num_inference_steps {request.num_inference_steps} is above {limits.steps}, the most here")
    request.pictures()
    return {"frames": request.num_frames, "height": request.height, "width": request.width}


def describe(weights: str) -> dict[str, Any]:
    """What a page must know of the weights and of the command to ask for what can be asked for."""
    settings = vars(read_settings(Path(weights)))
    flags = {action.dest: action for action in generate.parser()._actions}
    words = Tokenizer.from_folder(Path(weights) / "tokenizer").words(MOST_WORDS)
    return {
        "weights": weights,
        "fields": [
            {
                "name": name,
                "kind": kind,
                "help": (flags[name].help or "").replace("%%", "%"),
                "choices": list(flags[name].choices or ()),
                "default": settings.get(name),
            }
            for name, kind in GENERATE.items()
        ],
        "settings": settings,
        "presets": [
            {"name": name, "help": text, "options": sorted(options_of(name))} for name, text in PRESETS.items()
        ],
        "words": words,
        "suffixes": [*IMAGE_SUFFIXES, *VIDEO_SUFFIXES],
    }


def _require_pixels(path: Path, most: int) -> None:
    """Raises UserError where the header of a picture or video tells more pixels than may be decoded."""
    if path.suffix.lower() in VIDEO_SUFFIXES:
        try:
            with open_container(path) as video:
                sizes = [(stream.width, stream.height) for stream in video.streams.video]
        except Exception:
            raise UserError(f"{path.name} is no video that can be read") from None
    else:
        height, width = read_orientation(path).size
        sizes = [(width, height)]
    for width, height in sizes:
        if width * height > most:
            raise UserError(f"{path.name} has {width} x {height} pixels; at most {most / 1e6:.0f} megapixels are taken")


def _require_clip(frames: int, height: int, width: int, limits: Limits) -> None:
    if frames * height * width > limits.clip_pixels:
        raise UserError(
            f"{frames} frames of {width} x {height} are {frames * height * width / 1e6:.0f} megapixels; a scene has at "
            f"most {limits.clip_pixels / 1e6:.0f} here"
        )
