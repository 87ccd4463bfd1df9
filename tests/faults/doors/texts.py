"""Texts, lists, jobs, settings, flags."""

import importlib
import json
import os
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from gen3r_jax.data.caption import merge_captions
from gen3r_jax.data.captions import read_captions
from gen3r_jax.data.format import read_list
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.generation.request import Request, read_jobs
from gen3r_jax.generation.settings import read_settings, read_shift
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.stages.config import default_config, read_config
from tests.faults.doors.door import (
    Door,
    require_one_line,
    write_copyable_root,
)
from tests.helpers.paths import NANO


def _lines_truth(name: str) -> Callable[[Path], Any]:
    def truth(folder: Path) -> Any:
        text = (folder / name).read_bytes().decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
        return [line.strip() for line in text.split("\n") if line.strip()]

    return truth


def _write_jobs(folder: Path) -> None:
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    job = {"images": "a.png", "prompt": "a room", "cameras": "zoom_in", "num_frames": 5, "guidance_scale": 4.0}
    lines = [{**job, "name": f"scene/{number}", "seed": number} for number in range(4)]
    (folder / "jobs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _read_jobs(folder: Path) -> Any:
    jobs = read_jobs(folder / "jobs.jsonl", {"height": 112, "width": 112, "num_inference_steps": 2})
    for _, request in jobs:
        if isinstance(request, UserError):
            require_one_line(request)
    return {name: _job(request) for name, request in jobs if isinstance(request, Request)}


def _job(request: Request) -> Any:
    return {"seed": request.seed, "num_frames": request.num_frames, "guidance_scale": request.guidance_scale}


def _jobs_truth(folder: Path) -> Any:
    """Of those lines that are objects: what they say of the numbers."""
    found = {}
    defaults = {"seed": 42, "num_frames": 49, "guidance_scale": 5.0}
    for number, line in enumerate((folder / "jobs.jsonl").read_bytes().decode("utf-8-sig").split("\n"), 1):
        try:
            job = json.loads(line)
            found[str(job.get("name") or f"job{number:04}")] = {key: job.get(key, defaults[key]) for key in defaults}
        except (ValueError, AttributeError, RecursionError):
            continue
    return found


def _write_captions(folder: Path) -> None:
    write_copyable_root(folder / "root", 2)
    lines = [{"scene": f"re10k/scene{number}", "captions": ["a hall", "a large hall"]} for number in range(2)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _merge_captions(folder: Path) -> Any:
    merge_captions(folder / "root", folder / "captions.jsonl", replace=True)
    return [read_captions(folder / "root" / "re10k" / f"scene{number}" / "captions.txt") for number in range(2)]


CONFIG_KEYS = {
    "train.seed": 3, "train.batch_size": 8, "train.side": 112, "train.phases": [[5, 6, 2], [9, 2, 1]],
    "optim.learning_rate": 1e-3, "optim.warmup_steps": 3, "optim.beta1": 0.9, "optim.clip_norm": 1.0,
    "mesh.data": 1, "mesh.fsdp": -1, "checkpoint.every": 10, "checkpoint.keep": 2, "validation.every": 5,
    "data.workers": 0, "data.source": "procedural", "data.num_scenes": 8, "data.cameras": True,
    "model.preset": "tiny", "losses.depth": 1.0, "train.on_nan": "skip", "train.dtype": "float32",
}  # fmt: skip


def _with_changes(config: Any, changes: dict[str, Any]) -> dict[str, Any]:
    values = config.to_dict()
    for key, value in changes.items():
        *groups, last = str(key).split(".")
        place = values
        for group in groups:
            place = place[group] if isinstance(place.get(group), dict) else place.setdefault(group, {})
        place[last] = value
    return values


def _read_config(folder: Path) -> Any:
    """The config as --config.GROUP.KEY=VALUE would change it; what is read back by name."""
    changes = json.loads((folder / "changes.json").read_text())
    stage, options = read_config(_with_changes(default_config("adapter"), changes))
    found = asdict(stage) | asdict(options)  # type: ignore[call-overload]
    return {key: _of(found, key) for key in changes}


def _of(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values[part]
    return values


def _config_truth(folder: Path) -> Any:
    return json.loads((folder / "changes.json").read_text())


def _command(name: str, valid: list[str]) -> Door:
    """The flags of a command that ends before it does anything long, on a line each."""

    def run(folder: Path) -> Any:
        arguments = [str(argument) for argument in json.loads((folder / "flags.json").read_text())]
        with redirect_stderr(StringIO()) as said, pytest.raises(SystemExit) as end:
            main_guard(lambda: importlib.import_module(name).main(arguments))
        if end.value.code:
            line = (said.getvalue().strip().splitlines() or [""])[-1].removeprefix("error: ")
            for argument in arguments:  # argparse repeats them
                line = line.replace(argument, argument[:80])
            require_one_line(UserError(line))
        return end.value.code

    def write(folder: Path) -> None:
        (folder / "flags.json").write_text(json.dumps(valid))

    return Door(write, run, files="flags.json", odd=True, share=3)


def _write_settings(folder: Path) -> None:
    (folder / "generation.json").write_text('{"height": 112, "width": 112, "num_frames": 5, "guidance_scale": 4.0}')


TEXTS = {
    "captions.txt": Door(
        lambda folder: (folder / "captions.txt").write_text("A hall.\nA hall with a red döor.\n"),
        lambda folder: read_captions(folder / "captions.txt") if (folder / "captions.txt").is_file() else _gone(),
        truth=_lines_truth("captions.txt"),
    ),
    "list file": Door(
        lambda folder: write_copyable_root(folder, 2),
        lambda folder: [os.path.relpath(path, folder) for path in read_list(folder / "train_videos_dirs.txt")],
        files="train_videos_dirs.txt",
    ),
    "prompt": Door(
        lambda folder: (folder / "prompt.txt").write_text("a large hall\nits second line\n"),
        lambda folder: [Request(images=("a",), prompt=str(folder / "prompt.txt")).text()],
        truth=lambda folder: _lines_truth("prompt.txt")(folder)[:1],
    ),
    "jobs": Door(_write_jobs, _read_jobs, files="jobs.jsonl", truth=_jobs_truth, share=6),
    "captions of a model": Door(_write_captions, _merge_captions, files="captions.jsonl", writes=True, share=3),
    "config": Door(
        lambda folder: (folder / "changes.json").write_text(json.dumps(CONFIG_KEYS)),
        _read_config,
        files="changes.json",
        odd=True,
        truth=_config_truth,
        share=8,
    ),
    "generation.json": Door(
        _write_settings,
        lambda folder: asdict(read_settings(folder)),
        truth=lambda folder: _json_of(folder / "generation.json"),
    ),
    "scheduler.json": Door(
        lambda folder: (folder / "scheduler.json").write_text('{"shift": 2.0}'),
        lambda folder: [read_shift(folder)],
        truth=lambda folder: [json.loads((folder / "scheduler.json").read_text("utf-8-sig"))["shift"]],
    ),
    "tokenizer": Door(
        lambda folder: Tokenizer.tiny().save(folder),
        lambda folder: Tokenizer.from_folder(folder)(["a room"], 8)[0],
        files="tokenizer.json",
        sealed=True,
    ),
    "generate's flags": _command(  # --part alone ends it, after all others were read
        "gen3r_jax.generate",
        ["--num_frames", "5", "--size", "112", "112", "--num_inference_steps", "2", "--guidance_scale", "4",
         "--seed", "1", "--solver", "euler", "--prompt", "room", "--cameras", "zoom_in", "--camera_distance", "0.5",
         "--part", "0/2", "--images", str(NANO / "example.png"), "--weights", str(NANO)],
    ),
    "info's flags": _command("gen3r_jax.info", [str(NANO)]),
    "verify's flags": _command("gen3r_jax.verify", [str(NANO / "umt5"), str(NANO / "clip_vision")]),
}  # fmt: skip


def _json_of(path: Path) -> Any:
    """Of a file that need not be there."""
    return json.loads(path.read_text("utf-8-sig")) if path.exists() else {}


def _gone() -> Any:
    raise UserError("there is no file")
