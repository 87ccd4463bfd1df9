"""What a training step costs, program by program, with random weights and data: time, memory, work, MFU.

    python -m benchmarks.training --config configs/dit.py --frames 49 --side 560 --clips 1
    python -m benchmarks.training --config configs/adapter.py:tiny --mesh seq=1 --mesh seq=4 --virtual_devices 8

Nothing is read but the config, so no weights or data are needed. Each --mesh is measured in turn, with a batch of one
micro-batch: --clips on every data-parallel device. The first run of each program is not counted.
"""

import argparse
import dataclasses
import functools
import importlib.util
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax.carried import find_config
from gen3r_jax.errors import main_guard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", required=True, help="config file, with a preset after a colon")
    parser.add_argument("--frames", type=int, help="of a clip (default: those of the last phase)")
    parser.add_argument("--side", type=int, help="of the frames in pixels (default: that of the config)")
    parser.add_argument("--clips", type=int, default=1, help="clips on every data-parallel device")
    parser.add_argument("--mesh", action="append", help="sizes such as fsdp=2,seq=4; the rest is fsdp")
    parser.add_argument("--remat", choices=("none", "full", "dots", "offload"), help="default: that of the config")
    parser.add_argument("--programs", nargs="*", help="only these")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--virtual_devices", type=int, default=1, help="so many devices on the CPU")
    arguments = parser.parse_args()
    if arguments.virtual_devices > 1:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={arguments.virtual_devices}"
        os.environ["NPROC"] = str(2 * arguments.virtual_devices)  # a thread for each, whatever it waits for
    for mesh in arguments.mesh or [""]:
        measure(arguments, mesh)


def measure(arguments: argparse.Namespace, mesh_sizes: str) -> None:
    import jax

    from gen3r_jax.costs.topology import find_chip
    from gen3r_jax.sharding import MeshOptions, read_mesh
    from gen3r_jax.stages.config import read_config
    from gen3r_jax.training.step import Phase, step_programs, training_mesh

    config = load_config(arguments.config)
    config["weights"] = dict.fromkeys(config["weights"], "")
    config["data"]["source"] = "procedural"
    config["train"]["side"] = arguments.side or config["train"]["side"]
    config["mesh"] = dataclasses.asdict(read_mesh(mesh_sizes) if mesh_sizes else MeshOptions())
    if arguments.remat:
        config["model"]["remat"] = arguments.remat
    frames = arguments.frames or config["train"]["phases"][-1][0]
    known = [size for size in config["mesh"].values() if size > 0]
    parallel = config["mesh"]["data"] * max(config["mesh"]["fsdp"], len(jax.devices()) // int(np.prod(known)))
    config["train"]["batch_size"] = arguments.clips * parallel
    stage, options = read_config(config)
    phase = Phase(0, 0, frames, 10_000, arguments.clips)
    mesh = training_mesh(options, [phase])
    kind = jax.devices()[0].device_kind
    print(
        f"{arguments.config}, {frames} frames of {options.train.side}, {options.train.batch_size} clips, "
        f"{options.train.dtype}, mesh {dict(mesh.shape)} of {kind}, jax {jax.__version__}"
    )
    print(f"{'program':10} {'s':>9} {'compiled':>9} {'arguments':>10} {'temporary':>10} {'TFLOP':>9} {'MFU':>6}")
    chip, total, work = find_chip(kind), 0.0, 0.0
    with jax.set_mesh(mesh):
        for program in step_programs(stage, options, phase, mesh):
            if arguments.programs and program.name not in arguments.programs:
                continue
            seconds, compile_seconds, memory = run(program, arguments.repeats)
            flops = program.useful_flops()
            mfu = f"{flops / seconds / mesh.size / chip.flops:6.1%}" if chip else ""
            held, temporary = memory.argument_size_in_bytes / 2**30, memory.temp_size_in_bytes / 2**30
            row = f"{program.name:10} {seconds:9.4f} {compile_seconds:8.1f}s {held:6.2f} GiB {temporary:6.2f} GiB"
            print(f"{row} {flops / 1e12:9.3f} {mfu}")
            total, work = total + seconds, work + flops
    mfu = f", MFU {work / total / mesh.size / chip.flops:.1%}" if chip else ""
    print(f"together {total:.3f} s, {options.train.batch_size / total:.3f} clips/s{mfu}")
    stats = jax.devices()[0].memory_stats()
    if stats:
        print(f"most memory in use at once: {stats['peak_bytes_in_use'] / 2**30:.2f} GiB")


def run(program: Any, repeats: int) -> tuple[float, float, Any]:
    """Median seconds of a run, seconds to compile, and the compiler's plan of memory."""
    import jax

    start = time.perf_counter()
    compiled = program.function.lower(*program.arguments).compile()
    compile_seconds = time.perf_counter() - start
    times = []
    for _ in range(repeats + 1):
        inputs = jax.block_until_ready(jax.tree.map(invent, program.arguments))  # anew: some are given away
        start = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        times.append(time.perf_counter() - start)
        del inputs
    return float(np.median(times[1:])), compile_seconds, compiled.memory_analysis()


def invent(leaf: Any) -> Any:
    """Numbers for an array that is only described, made where they belong."""
    return _inventor(leaf.shape, leaf.dtype, leaf.sharding)()


@functools.cache
def _inventor(shape: tuple[int, ...], dtype: Any, sharding: Any) -> Callable[[], Any]:
    import jax
    import jax.numpy as jnp

    def fill() -> Any:
        if jnp.issubdtype(dtype, jnp.floating):
            return (0.02 * jnp.cos(jax.lax.iota(jnp.float32, math.prod(shape)))).reshape(shape).astype(dtype)
        return jnp.ones(shape, dtype)

    return jax.jit(fill, out_shardings=sharding)


def load_config(name: str) -> dict[str, Any]:
    path, _, preset = find_config(name).partition(":")
    spec = importlib.util.spec_from_file_location("config", Path(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(preset).to_dict()


if __name__ == "__main__":
    main_guard(main)
