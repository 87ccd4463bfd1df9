"""Commands that write, each with its inputs and with what counts of its output: what kills and pairs are tried on."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orbax.checkpoint as ocp
from safetensors.numpy import load as load_tensors

from conversion.commands import random_checkpoint
from conversion.networks import CONVERTIBLE
from gen3r_jax import module
from gen3r_jax.data.encoded import read_header, read_sample
from gen3r_jax.data.shards import list_shards, read_json_index
from gen3r_jax.export.read import read_scene
from gen3r_jax.storage.checkpoint import stored_leaves
from gen3r_jax.storage.files import read_json
from gen3r_jax.training.metrics import read_metrics
from tests.helpers.paths import NANO, REPOSITORY
from tests.helpers.raw_sets import vkitti

OUTPUT = Path("place", "out")
"""Where every command writes, in the folder that it works in."""

CHEAP = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
LONGEST_MESSAGE = 400
MOST_SECONDS = 600

Result = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """A command and its result.

    Attributes:
      arguments: of Python, in a folder with the inputs.
      result: a work folder -> name -> bytes, text, numbers or arrays that are the same after every undisturbed run.
      inputs: writes what the command reads.
      compiles: whether the first run takes longer than the others.
      share: how often it is taken, relative to the others: less often what takes long.
    """

    arguments: tuple[str, ...]
    result: Callable[[Path], Result]
    inputs: Callable[[Path], object] = lambda folder: None
    compiles: bool = False
    share: int = 1

    def lay_out(self, folder: Path) -> None:
        """Writes the inputs, and beside the output a file that is not the command's."""
        (folder / OUTPUT.parent).mkdir(parents=True)
        (folder / OUTPUT.parent / "thesis.txt").write_text("years of work")
        self.inputs(folder)

    def start(self, folder: Path) -> subprocess.Popen:
        """The running command, in a process group of its own; its errors go to the file ``errors`` of a new name."""
        cache = os.environ.get("GEN3R_COMPILE_CACHE") or folder.parent / "cache"
        environment = {
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": CHEAP,
            "GEN3R_COMPILE_CACHE": str(cache),
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        with tempfile.NamedTemporaryFile("w", prefix="errors-", dir=folder.parent, delete=False) as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", *self.arguments],
                cwd=folder,
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )
        process.errors = Path(errors.name)  # type: ignore[attr-defined]
        return process


def finish(process: subprocess.Popen) -> tuple[int, str]:
    """The status of a command that is waited for, and what it said."""
    try:
        status = process.wait(MOST_SECONDS)
    except subprocess.TimeoutExpired:
        kill(process)
        status = -1
    said = process.errors.read_text(errors="replace")  # type: ignore[attr-defined]
    process.errors.unlink()  # type: ignore[attr-defined]
    return status, said


def kill(process: subprocess.Popen) -> None:
    """SIGKILL for the command and its workers, as at the end of a job or of memory: no handler runs."""
    with suppress(ProcessLookupError):  # it has ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def undisturbed(work: Work, folder: Path) -> tuple[Result, float, float]:
    """The result of a run that nobody disturbs, when its output began to appear, and how long it took, in seconds.

    Of a command that compiles the second run counts.
    """
    began, ended, name = 0.0, 0.0, ""
    for name in ("first", "second") if work.compiles else ("first",):
        work.lay_out(folder / name)
        start, process = time.monotonic(), work.start(folder / name)
        began = 0.0
        while process.poll() is None:
            if not began and any((folder / name / OUTPUT.parent).glob(".*")) | (folder / name / OUTPUT).exists():
                began = time.monotonic() - start
            time.sleep(0.01)
        ended = time.monotonic() - start
        status, said = finish(process)
        if status:
            raise RuntimeError(f"the undisturbed command {work.arguments} ended with {status}: {said[-2000:]}")
    return work.result(folder / name), began, ended


def content(folder: Path, *, without: Path | None = None) -> dict[str, str]:
    """The hash of every file of a folder by name, without those below one."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha1(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not (without and path.is_relative_to(without))
    }


def differences(got: Result, wanted: Result) -> list[str]:
    """The names of what two results do not share, or not bit for bit."""
    return [
        name
        for name in sorted(got.keys() | wanted.keys())
        if name not in got or name not in wanted or not _same(got[name], wanted[name])
    ]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return one == other


def _files(*patterns: str) -> Callable[[Path], Result]:
    """The bytes of the files that match."""

    def result(folder: Path) -> Result:
        output = folder / OUTPUT
        paths = [path for pattern in patterns for path in output.rglob(pattern) if path.is_file()]
        names = {path.relative_to(output).as_posix(): path for path in paths}
        return {name: path.read_bytes() for name, path in names.items() if "/." not in f"/{name}"}

    return result


def _weights(folder: Path) -> Result:
    """Parameters are compared as numbers, for Orbax chooses names of files at random."""
    params = _restored(folder / "params")
    assert params.keys() == stored_leaves(folder).keys()
    return {f"{folder.name}.{name}": leaf for name, leaf in params.items()}


def _restored(folder: Path) -> Result:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as checkpointer:
        leaves = module.flatten(checkpointer.restore(folder.absolute()))
    return {name: np.asarray(leaf) for name, leaf in leaves.items()}


def _training(folder: Path) -> Result:
    """The newest state, the exported weights, and of each step what it was made of: no batch is lost or repeated."""
    workdir = folder / OUTPUT
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())
    lines = [line for line in read_metrics(workdir / "metrics.jsonl") if "loss" in line]
    told = [{key: value for key, value in line.items() if not key.startswith("time/")} for line in lines]
    weights = [path.parent for path in (workdir / "weights").rglob("config.json")]
    result = {"step": step, "steps": told, "data": read_json(workdir / "checkpoints" / str(step) / "data" / "metadata")}
    for leaves in (_restored(workdir / "checkpoints" / str(step) / "state"), *map(_weights, weights)):
        result |= leaves
    return result


def _latents(folder: Path) -> Result:
    output = folder / OUTPUT
    result: Result = {"header": json.dumps(read_header(output).clips), **load_header(output)}
    for split in ("train", "test"):
        for file in list_shards(output, split):
            for index in range(read_json_index(file, "gen3r_jax.latents/2", "")["count"]):
                sample = read_sample(file, index)
                result |= {f"{file.name}[{index}].{name}": value for name, value in sample.items()}
    return result


def load_header(folder: Path) -> Result:
    """The tensors of a header of latents."""
    return dict(load_tensors((folder / "header.safetensors").read_bytes()))


def _scene(folder: Path) -> Result:
    """Videos are left out, for their encoder's threads may choose other bits; they must be whole."""
    result = _files("*.npz", "*.ply", "*.glb", "cameras.json", "transforms.json", "*.txt", "sheet.png")(folder)
    return result | {"frames": len(read_scene(folder / OUTPUT).rgb)}


def _scores(folder: Path) -> Result:
    scenes = sorted((folder / OUTPUT / "scenes").glob("*.json"))
    report = read_json(folder / OUTPUT / "report.json")
    return {path.name: read_json(path)["rows"] for path in scenes} | {"report": sorted(report)}


def _official_adapter(folder: Path) -> None:
    config = CONVERTIBLE["geometry_adapter"].table.network.Config.tiny()
    random_checkpoint("geometry_adapter", folder / "official", config=config, dtype=np.dtype(np.float32), seed=0)


def _train(recipe: str, *changes: str) -> tuple[str, ...]:
    config = f"{REPOSITORY}/configs/{recipe}"
    return ("gen3r_jax", "train", "--config", config, "--workdir", str(OUTPUT), *changes)


WORKS = {
    "train toy": Work(("tests.helpers.toy_training", str(OUTPUT)), _training, compiles=True, share=16),
    "train tiny": Work(
        _train(
            "adapter.py:tiny",
            "--config.train.phases=((5,6,2),)",
            "--config.checkpoint.every=2",
            "--config.validation.every=0",
        ),
        _training,
        compiles=True,
        share=3,
    ),
    "encode": Work(
        (
            *("gen3r_jax", "encode", "--config", f"{REPOSITORY}/configs/dit.py:tiny", "--output", str(OUTPUT)),
            *("--clips", "4", "--clips_per_file", "1"),
        ),
        _latents,
        compiles=True,
        share=5,
    ),
    "pack": Work(
        (
            *("gen3r_jax", "pack", "procedural", str(OUTPUT), "--num_scenes", "24", "--num_frames", "6"),
            *("--size", "48", "64", "--depth", "--scenes_per_shard", "2"),
        ),
        _files("*.array_record"),
        share=20,
    ),
    "prepare": Work(
        ("gen3r_jax", "prepare", "vkitti", "--source", "raw", "--output", str(OUTPUT), "--most_bad", "1"),
        _files("images/*", "*.json", "*.txt", "scenes.jsonl", "depth/*"),
        lambda folder: [vkitti.write(folder / "raw", frames=16, condition=f"Scene0{i}/clone") for i in (1, 2, 6)],
        share=20,
    ),
    "convert": Work(
        (*("conversion", "geometry_adapter", "--source", "official", "--output", str(OUTPUT), "--force"),),
        lambda folder: _weights(folder / OUTPUT),
        _official_adapter,
        share=16,
    ),
    "convert random": Work(
        ("conversion", "random", "vggt", "--tiny", "--output", str(OUTPUT), "--force"),
        _files("*.safetensors", "config.json"),
        share=8,
    ),
    "generate": Work(
        (
            *("gen3r_jax", "generate", "--weights", str(NANO), "--images", str(NANO / "example.png")),
            *("--prompt", "a room", "--num_frames", "5", "--num_inference_steps", "2", "--output", str(OUTPUT)),
        ),
        _scene,
        compiles=True,
        share=6,
    ),
    "evaluate": Work(
        (
            *("gen3r_jax", "evaluate", "--config", f"{REPOSITORY}/configs/eval.py:nano", "--weights", str(NANO)),
            *("--data", "procedural", "--output", str(OUTPUT), "--config.data.num_frames=5"),
            *("--config.data.num_scenes=2", "--config.sampling.num_inference_steps=2"),
            "--config.rows.tasks=('1view',)",
        ),
        _scores,
        compiles=True,
        share=3,
    ),
}
