"""What must not change while code moves: bits of results, and folders that earlier versions wrote.

python -m tests.compatibility.record hashes             prints the hashes of this checkout, as hashes.json holds them
python -m tests.compatibility.record fixtures OUTPUT    writes one small folder of every kind that the project writes

Hashes hold on one kind of processor and one version of JAX, which hashes.json names. The networks of the fixtures are
smaller than the tiny ones, so that they can be kept with the tests.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.paths import NANO, REPOSITORY

PROMPT = "The camera orbits to the left around a cream and red shaded table."
LORA = (
    "--config.tuning.mode=lora",
    "--config.tuning.rank=1",
    "--config.checkpoint.every=2",
    "--config.checkpoint.keep=2",
)
# Flags of a training that is as short as it can be and still passes every part of the loop.
SHORT = ("--config.validation.every=1000", "--config.validation.clips=1")
TRAININGS = {
    "adapter": ("configs/adapter.py:tiny", "--config.train.phases=((5,5,2),)"),
    "dit": ("configs/dit.py:tiny", "--config.train.phases=((5,5,4),)", "--config.samples.num_inference_steps=2"),
}


def machine() -> dict[str, str]:
    """What bits depend on besides the code: the processor, and the versions of JAX and NumPy."""
    import jax

    words = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    fields = dict(line.split(":", 1) for line in words.split("\n\n")[0].splitlines() if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    processor = " ".join(fields.get(name, "?") for name in ("vendor_id", "cpu family", "model"))
    flags = hashlib.sha256(fields.get("flags", "").encode()).hexdigest()[:8]
    threads = len(os.sched_getaffinity(0))
    return {"processor": f"{processor} {flags}", "cores": str(threads), "jax": jax.__version__}


def hash_arrays(arrays: dict[str, np.ndarray]) -> str:
    """One hash of the names, shapes, dtypes and bytes of arrays."""
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        array = np.ascontiguousarray(array)
        digest.update(f"{name} {array.shape} {array.dtype}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()[:16]


def generation_hashes() -> dict[str, str]:
    """Of a scene that the shipped weights make from one image and a camera path."""
    from PIL import Image

    from gen3r_jax.generation import Gen3RPipeline

    image = np.asarray(Image.open(NANO / "example.png").convert("RGB"), np.float32) / 255
    rays = np.random.default_rng(0).normal(size=(1, 9, *image.shape[:2], 6)).astype(np.float32)
    result = Gen3RPipeline.from_pretrained(NANO)(
        PROMPT,
        image[None, None],
        rays,
        num_frames=9,
        num_inference_steps=2,
        guidance_scale=2.0,
        seed=7,
        negative_prompt="bad detailed",  # that of the weights' folder is another
    )
    w2c, intrinsics = result.cameras
    return {
        "latents": hash_arrays({"latents": result.latents}),
        "depth": hash_arrays({"depth": result.depth_maps}),
        "cameras": hash_arrays({"w2c": w2c, "intrinsics": intrinsics}),
    }


def training_hash(stage: str) -> str:
    """Of the losses and the trained weights after five steps."""
    import orbax.checkpoint as ocp

    with tempfile.TemporaryDirectory() as folder:
        workdir = Path(folder, "run")
        train(stage, workdir)
        params = {}
        with ocp.StandardCheckpointer() as checkpointer:
            for network in sorted(workdir.glob("weights/*/params")):
                params |= _flatten(checkpointer.restore(network), network.parent.name)
        lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
        params["losses"] = np.array([line["loss"] for line in lines if "loss" in line])
        assert len(params["losses"]) == 5
        return hash_arrays(params)


def train(stage: str, workdir: Path, *flags: str) -> None:
    """Trains `stage` for five steps, or from the checkpoint in `workdir` on."""
    _command("gen3r_jax.train", "--config", *TRAININGS[stage], *SHORT, *flags, "--workdir", workdir)


def _flatten(tree: Any, prefix: str = "") -> dict[str, np.ndarray]:
    if not isinstance(tree, dict):
        return {prefix: np.asarray(tree)}
    return {name: leaf for key, value in tree.items() for name, leaf in _flatten(value, f"{prefix}/{key}").items()}


def hashes() -> dict[str, Any]:
    trainings = {f"training/{stage}": training_hash(stage) for stage in TRAININGS}
    return {"machine": machine(), "hashes": generation_hashes() | trainings}


def write_fixtures(output: Path) -> None:
    """A work folder that is not at its end, weights of both forms, a shard, latents and a scene."""
    output.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        # LoRA: what is trained, and so a checkpoint with its moments, is small.
        train("dit", scratch / "run", *LORA)
        shutil.rmtree(scratch / "run" / "checkpoints" / "5")
        for name in ("weights", "validation", "tensorboard", "loss.png"):
            _remove(scratch / "run" / name)
        shutil.copytree(scratch / "run", output / "run")
        _command("gen3r_jax.data.pack", "procedural", output / "shards", "--split", "train", "--num_scenes", "2",
                 "--num_frames", "5", "--size", "112", "112", "--depth")  # fmt: skip
        _command("gen3r_jax.encode", "--config", *TRAININGS["dit"], *SHORT,
                 "--output", output / "latents", "--clips", "2", "--batch", "1", "--clips_per_file", "2")  # fmt: skip
        _command("gen3r_jax.generate", "--pretrained_model_name_or_path", NANO, "--frame_path", NANO / "example.png",
                 "--prompts", PROMPT, "--cameras", "orbit_left", "--num_frames", "5", "--num_inference_steps", "1",
                 "--output_dir", scratch / "scenes")  # fmt: skip
        (scene,) = (scratch / "scenes" / "1view").iterdir()
        for name in ("viewer.html", "scene.glb", "sheet.png", "points.ply", "gaussians.ply", "sparse"):
            _remove(scene / name)
        shutil.copytree(scene, output / "scene")
        (output / "weights").mkdir()
        for name in ("scheduler.json", "generation.json"):
            shutil.copy(NANO / name, output / "weights")
        shutil.copytree(NANO / "clip_vision", output / "weights" / "clip_vision")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def hashes_apart() -> dict[str, str]:
    """The hashes as a process of its own finds them: the flags of the tests change bits."""
    return json.loads(_command("tests.compatibility.record", "hashes"))["hashes"]


def _command(module: str, *arguments: Any) -> str:
    """Runs a command of the project as a user would, without the flags of the tests; returns what it printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XLA_", "JAX_", "NPROC"))}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.compatibility.record", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("hashes")
    commands.add_parser("fixtures").add_argument("output", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "hashes":
        print(json.dumps(hashes(), indent=2))
    else:
        write_fixtures(arguments.output)


if __name__ == "__main__":
    main()
