"""One whole generation with random weights made on the device: seconds, compile seconds and peak memory of every stage.

python -m benchmarks.generation --frames 49 --side 560 --steps 50 --memory_mode staged --json
"""

import argparse
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen3r_jax import module
from gen3r_jax.errors import main_guard
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.pipeline import Gen3RPipeline
from gen3r_jax.generation.weights import default_dtype
from gen3r_jax.models.registry import NETWORKS, PRESETS


def random_network(name: str, config: Any, dtype: Any) -> Network:
    """A network whose weights keep the size of signals, drawn on the device."""
    graphdef, shapes = module.abstract(lambda rngs: NETWORKS[name](config, rngs=rngs))
    paths = {path: index for index, path in enumerate(module.flatten(shapes))}

    @jax.jit
    def draw(key: jax.Array) -> module.Params:
        def leaf(path: Any, shape: jax.ShapeDtypeStruct) -> jax.Array:
            names = [part.key for part in path]
            if names[-1].startswith("scale"):
                return jnp.ones(shape.shape, dtype)
            fan_in = np.prod(shape.shape[-2:-1]) if names[-1] == "kernel" else 2500
            noise = jax.random.normal(jax.random.fold_in(key, paths[".".join(names)]), shape.shape, dtype)
            return noise * jnp.asarray(fan_in**-0.5, dtype)

        return jax.tree.map_with_path(leaf, shapes)

    return graphdef, draw(jax.random.key(0, impl="rbg"))  # quick to compile


def configs(preset: str) -> dict[str, Any]:
    """Configs that fit together: of the released networks, or tiny ones."""
    return PRESETS["gen3r" if preset == "full" else preset]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generation", description=__doc__)
    parser.add_argument("--preset", choices=("full", "tiny"), default="full")
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--side", type=int, default=560)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--guidance_scale", type=float, default=5.0)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"))
    parser.add_argument("--memory_mode", choices=("resident", "staged"), default="resident")
    parser.add_argument("--repeats", type=int, default=1, help="generations after the first, which compiles")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    sizes, dtype = configs(options.preset), default_dtype(options.dtype)

    def tokenize(texts: list[str], length: int) -> tuple[np.ndarray, np.ndarray]:
        return np.ones((len(texts), length), np.int32), np.ones((len(texts), length), bool)

    pipeline = Gen3RPipeline(
        lambda name: random_network(name, sizes[name], dtype),
        tokenize,
        text_length=sizes["wan_dit"].text_len,
        shift=2.0,
        memory_mode=options.memory_mode,
    )
    images = np.random.default_rng(0).random((1, 1, options.side, options.side, 3)).astype(np.float32)
    for run in range(1 + options.repeats):
        report = RunReport({**vars(options), "run": run})
        pipeline.stage = report.stage
        pipeline(
            f"run {run}",
            images,
            num_frames=options.frames,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance_scale,
        )
        document = report.document()
        if options.json:
            print(json.dumps(document, default=str))
        else:
            for stage in document["stages"]:
                peak = (stage["device_peak_bytes"] or stage["host_peak_bytes"]) / 1e9
                seconds, compiling = stage["seconds"], stage["compile_seconds"]
                print(f"{run} {stage['stage']:40} {seconds:8.2f} s {compiling:8.2f} s compiling {peak:7.2f} GB peak")
    return 0


if __name__ == "__main__":
    main_guard(main)
