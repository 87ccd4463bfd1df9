"""Proof at full size: random official weights, converted, loaded, run once, and converted back bit for bit.

Each step runs in a process of its own, so that its time and peak memory are its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conversion.networks import NETWORKS
from conversion.torch_files import open_checkpoint
from gen3r_jax import module
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.models.umt5 import UMT5Encoder, distance_buckets
from gen3r_jax.storage.checkpoint import load_network

# What one forward pass takes: the frames are few, the widths and depths are those of the full-size network.
INPUTS = {
    "vggt": ("2 frames of 224 x 224", (1, 2, 224, 224, 3)),
    "wan_vae": ("5 frames of 224 x 224, encoded and decoded", (1, 5, 224, 224, 3)),
    "geometry_adapter": ("5 frames of 16 x 16 tokens, encoded and decoded", (1, 5, 16, 16, 10240)),
    "wan_dit": (
        "latents of 5 frames of 224 x 224, twice as wide; text, image and cameras",
        *((1, 2, 28, 56, 16), (1, 2, 28, 56, 20), (1, 512, 4096), (1, 257, 1280), (1, 2, 224, 448, 24)),
    ),
    "umt5": ("512 tokens", (1, 512)),
    "clip_vision": ("one image of 560 x 560", (1, 560, 560, 3)),
}


def prove(name: str, directory: Path | None = None, dtype: str = "float32") -> list[str]:
    """Runs all steps in `directory` (a temporary one by default), removes the files and returns a table."""
    with tempfile.TemporaryDirectory(dir=directory, prefix="gen3r-prove-") as folder:
        official, weights, back = (str(Path(folder) / part) for part in ("official", "weights", "back"))
        conversion = (sys.executable, "-m", "conversion")
        forward = (sys.executable, "-m", "conversion.prove", name, weights)
        steps = {
            "write random official weights": (*conversion, "random", name, "--output", official, "--dtype", dtype),
            "convert": (*conversion, name, "--source", official, "--output", weights),
            "load": (*forward, "--load_only"),
            f"load and run ({INPUTS[name][0]})": forward,
            "convert back": (*conversion, name, "--invert", "--source", weights, "--output", back),
        }
        lines = ["| step | seconds | peak memory |", "|---|---|---|"]
        for step, command in steps.items():
            seconds, peak = _measure(step, command)
            lines.append(f"| {step} | {seconds:.1f} | {peak / 1e9:.2f} GB |")
        size = require_equal(Path(official), Path(back))
        return [*lines, f"{name}, {dtype}, {size / 1e9:.2f} GB: what came back equals what was written, bit for bit"]


def run_once(name: str, weights: Path, load_only: bool) -> list[str]:
    """Loads a weights folder and, unless `load_only`, runs the network once on random input."""
    start = time.perf_counter()
    graphdef, params = jax.block_until_ready(load_network(weights, NETWORKS[name].table.network))
    lines = [f"loaded {module.count_parameters(params):,} parameters in {time.perf_counter() - start:.1f} s"]
    if not load_only:
        inputs = [jax.random.uniform(jax.random.key(i), shape) for i, shape in enumerate(INPUTS[name][1:])]
        start = time.perf_counter()
        if name == "umt5":
            outputs = _encode_text(module.merge(graphdef, params), inputs[0])
        else:
            outputs = jax.jit(lambda params, *x: _forward(name, module.merge(graphdef, params), *x))(params, *inputs)
        if not all(bool(jnp.isfinite(output).all()) for output in jax.tree.leaves(outputs)):
            raise UserError(f"{name} gave numbers that are not finite")
        lines.append(f"compiled and ran in {time.perf_counter() - start:.1f} s")
    return lines


def _forward(name: str, network: Any, x: jax.Array, *others: jax.Array) -> Any:
    if name == "vggt":
        return network(x)
    if name == "clip_vision":
        return network(x)
    if name == "wan_dit":
        condition, text, image, cameras = others
        context, cameras = network.encode_context(text, image), network.encode_cameras(cameras)
        return network(x, condition, jnp.full(x.shape[0], 500.0), context, cameras)
    latents = network.encode(x).mode()
    return latents, network.decode(latents)


def _encode_text(network: UMT5Encoder, x: jax.Array) -> jax.Array:
    """The text encoder, block by block: XLA's CPU compiler would turn all stacked bfloat16 weights to float32 first."""
    config = network.config
    ids, mask = (np.asarray(x) * config.vocab_size).astype(np.int32), jnp.ones(x.shape, bool)
    buckets = distance_buckets(x.shape[1], config.num_buckets, config.max_distance)
    _, params = module.split(network)
    blocks = jax.tree.map(np.asarray, params["blocks"])
    block_graphdef, _ = module.split(network.blocks)
    run = jax.jit(lambda params, x: module.merge(block_graphdef, params)(x, mask, buckets))
    hidden = jnp.asarray(np.asarray(params["embedding"])[ids])
    for i in range(config.depth):
        hidden = run(jax.tree.map(lambda p, i=i: p[i], blocks), hidden)
    return network.norm(hidden)


def _measure(step: str, command: tuple[str, ...]) -> tuple[float, int]:
    """Wall seconds and peak resident bytes of a process."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    print(f"{step}: {' | '.join(output.strip().splitlines())}", file=sys.stderr, flush=True)
    if process.returncode:
        said = (
            output.strip().splitlines() or [f"it ended with status {process.returncode} and no word; out of memory?"]
        )[-1]
        raise UserError(f"the step '{step}' failed: {said}")
    return time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def require_equal(official: Path, back: Path) -> int:
    """Bytes of tensors, after making sure that both checkpoints hold the same."""
    first, second = open_checkpoint(official).tensors, open_checkpoint(back).tensors
    size = 0
    unequal = sorted(first.keys() ^ second.keys())
    for name in first.keys() & second.keys():
        x, y = np.asarray(first[name]), np.asarray(second[name])
        size += x.nbytes
        unequal += [name] * (x.dtype != y.dtype or x.tobytes() != y.tobytes())
    if unequal:
        raise UserError(f"the way back changed {', '.join(unequal)}")
    return size


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conversion.prove", description="Runs a weights folder once.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--load_only", action="store_true")
    options = parser.parse_args(arguments)
    print("\n".join(run_once(options.network, options.weights, options.load_only)))
    return 0


if __name__ == "__main__":
    main_guard(main)
