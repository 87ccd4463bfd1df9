"""Time and memory of one component at full dimensions, with random weights and inputs::

    python -m benchmarks.components --component vggt_aggregator --frames 2 --side 280 --dtype float32 --repeats 3

Prints the process CPU seconds and wall seconds of a call (median of the repeats; compilation excluded), the seconds to
trace and compile, and the peak memory. A benchmark prints; nothing here judges.
"""

import argparse
import json
import math
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from jax import Array

COMPONENTS = (
    "vggt_aggregator",
    "dpt_head",
    "camera_head",
    "wan_vae_encode",
    "wan_vae_decode",
    "adapter_encode",
    "adapter_decode",
    "dit_block",
    "dit_step",
    "umt5_block",
    "clip_block",
)

IMAGE_TOKENS = 257  # of the image encoder: 16 x 16 patches and a class token
TEXT_TOKENS = 512  # of the text encoder: a prompt padded to full length


class Component(NamedTuple):
    """What is timed: ``call(module, *inputs)`` of the module that `build` makes."""

    build: Callable[[Any], Any]
    inputs: dict[str, tuple[int, ...]]
    call: Callable[..., Any]


def make_component(name: str, frames: int, side: int, chunk_frames: int | None) -> Component:
    """The component for a clip of `frames` frames of side x side pixels (side a multiple of 14, 8, 16 or 112).

    dit_block is one of the transformer's blocks, dit_step its whole forward pass; both with text and image already
    encoded, as in all steps of sampling. umt5_block and clip_block are one block of the text and of the image encoder;
    their tokens do not depend on the clip.
    """
    import jax.numpy as jnp

    from gen3r_jax.models import clip_vision, umt5
    from gen3r_jax.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig
    from gen3r_jax.models.vggt import VGGT, Aggregator, VGGTConfig
    from gen3r_jax.models.wan_dit import Block, Context, WanDiT, WanDiTConfig
    from gen3r_jax.models.wan_vae import WanVAE, WanVAEConfig
    from gen3r_jax.ops.rope import rotation_3d

    vggt = VGGTConfig.vggt_1b()
    dim, patches, latents = 2 * vggt.embed_dim, side // vggt.patch_size, (frames - 1) // 4 + 1
    pixels, latent = (1, frames, side, side, 3), (1, latents, side // 8, side // 8, 16)
    latents_at_once = chunk_frames and max(1, chunk_frames // 4)
    match name:
        case "vggt_aggregator":
            return Component(lambda rngs: Aggregator(vggt, rngs=rngs), {"images": pixels}, lambda net, x: net(x))
        case "dpt_head":
            tokens = (4, 1, frames, patches * patches, dim)
            return Component(
                lambda rngs: VGGT(vggt, rngs=rngs).depth_head,
                {"tokens": tokens},
                lambda net, x: net(x, (side, side), 8),
            )
        case "camera_head":
            return Component(
                lambda rngs: VGGT(vggt, rngs=rngs).camera_head, {"tokens": (1, frames, dim)}, lambda net, x: net(x)
            )
        case "wan_vae_encode" | "wan_vae_decode":
            inputs = {"video": pixels} if name.endswith("encode") else {"latents": latent}
            call = (
                (lambda net, x: net.encode(x, chunk_frames))
                if name.endswith("encode")
                else lambda net, x: net.decode(x, latents_at_once)
            )
            return Component(lambda rngs: WanVAE(WanVAEConfig.wan21(), rngs=rngs), inputs, call)
        case "adapter_encode" | "adapter_decode":
            packed = (1, frames, patches, patches, 5 * dim)
            inputs = {"packed": packed} if name.endswith("encode") else {"latents": latent}
            call = (
                (lambda net, x: net.encode(x, chunk_frames))
                if name.endswith("encode")
                else lambda net, x: net.decode(x, latents_at_once)
            )
            config = GeometryAdapterConfig.gen3r()
            return Component(lambda rngs: GeometryAdapter(config, rngs=rngs), inputs, call)
        case "dit_block":
            config = WanDiTConfig.fun_1_3b()
            grid, head = (latents, side // 16, side // 8), (config.num_heads, config.dim // config.num_heads)
            inputs = {
                "tokens": (1, math.prod(grid), config.dim),
                "modulation": (1, 6, config.dim),
                "text": (1, config.text_len, *head),
                "image": (1, IMAGE_TOKENS, *head),
            }

            def run_block(net: Block, x: "Array", modulation: "Array", text: "Array", image: "Array") -> "Array":
                rotation = rotation_3d(grid, head[1], shared_halves=True)
                return net(
                    x.astype("float32"), modulation.astype("float32"), Context(text, text, image, image), rotation
                )

            return Component(lambda rngs: Block(config, rngs=rngs), inputs, run_block)
        case "dit_step":
            config = WanDiTConfig.fun_1_3b()
            head, size = (config.num_heads, config.dim // config.num_heads), (latents, side // 8, side // 4)
            inputs = {
                "latents": (1, *size, config.out_channels),
                "condition": (1, *size, config.in_channels - config.out_channels),
                "cameras": (1, latents, side // 16, side // 8, config.dim),
                "text": (config.depth, 1, config.text_len, *head),
                "image": (config.depth, 1, IMAGE_TOKENS, *head),
            }

            def run_step(
                net: WanDiT, x: "Array", condition: "Array", cameras: "Array", text: "Array", image: "Array"
            ) -> "Array":
                time = jnp.full(1, 500.0)
                return net(x.astype("float32"), condition, time, Context(text, text, image, image), cameras)

            return Component(lambda rngs: WanDiT(config, rngs=rngs), inputs, run_step)
        case "umt5_block":
            config = umt5.UMT5Config.xxl()

            def run_text(net: umt5.Block, x: "Array") -> "Array":
                buckets = umt5.distance_buckets(x.shape[1], config.num_buckets, config.max_distance)
                return net(x, jnp.ones(x.shape[:2], bool), buckets)

            inputs = {"tokens": (1, TEXT_TOKENS, config.dim)}
            return Component(lambda rngs: umt5.Block(config, rngs=rngs), inputs, run_text)
        case "clip_block":
            config = clip_vision.CLIPVisionConfig.vit_h14()
            inputs = {"tokens": (1, IMAGE_TOKENS, config.dim)}
            return Component(
                lambda rngs: clip_vision.Block(config.dim, config.num_heads, rngs=rngs), inputs, lambda net, x: net(x)
            )
    raise ValueError(f"no component {name!r}")


def measure(component: Component, dtype: str, repeats: int) -> dict[str, Any]:
    """Runs the component; times in seconds, memory in bytes."""
    import jax

    from gen3r_jax import module

    graphdef, shapes = module.abstract(component.build)
    params = _random_tree(shapes, dtype, scale=0.02)
    inputs = [_random_tree(jax.ShapeDtypeStruct(shape, "float32"), dtype) for shape in component.inputs.values()]
    start = time.perf_counter()
    compiled = jax.jit(lambda p, *x: component.call(module.merge(graphdef, p), *x)).lower(params, *inputs).compile()
    compile_seconds = time.perf_counter() - start
    jax.block_until_ready(compiled(params, *inputs))
    cpu, wall = [], []
    for _ in range(repeats):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        jax.block_until_ready(compiled(params, *inputs))
        cpu.append(time.process_time() - cpu_start)
        wall.append(time.perf_counter() - wall_start)
    memory = compiled.memory_analysis()
    stats = jax.devices()[0].memory_stats() or {}
    return {
        "parameters": module.count_parameters(shapes),
        "cpu_seconds": statistics.median(cpu),
        "wall_seconds": statistics.median(wall),
        "compile_seconds": compile_seconds,
        "temporary_bytes": getattr(memory, "temp_size_in_bytes", None),
        "device_peak_bytes": stats.get("peak_bytes_in_use"),
        "process_peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def _random_tree(shapes: Any, dtype: str, scale: float = 1.0) -> "Array":
    """Normal numbers in the shapes of a tree; values do not matter for the time, but zeros or NaN may."""
    import jax
    import numpy as np

    row = np.random.default_rng(0).standard_normal(2**20, np.float32) * scale
    return jax.tree.map(lambda leaf: jax.numpy.asarray(np.resize(row, leaf.shape)).astype(dtype), shapes)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.components", description=__doc__.split("\n\n")[0])
    parser.add_argument("--component", required=True, choices=COMPONENTS)
    parser.add_argument("--frames", type=int, default=5, help="frames of the clip; 4k+1 for VAE and adapter (5)")
    parser.add_argument("--side", type=int, default=112, help="side of the frames in pixels, a multiple of 112 (112)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of weights and inputs")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls after one that is not timed (3)")
    parser.add_argument("--chunk_frames", type=int, help="VAE and adapter: frames at a time instead of the whole clip")
    parser.add_argument("--threads", type=int, help="CPU threads; 1 compares arithmetic rather than machines")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    if args.threads:  # read by XLA when the CPU backend starts, so set before jax is imported
        os.environ["XLA_FLAGS"] = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_multi_thread_eigen={'false' if args.threads == 1 else 'true'}"
            f" intra_op_parallelism_threads={args.threads}"
        )
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    component = make_component(args.component, args.frames, args.side, args.chunk_frames)
    result = {"component": args.component, "frames": args.frames, "side": args.side, "dtype": args.dtype}
    result |= measure(component, args.dtype, args.repeats)
    if args.json:
        json.dump(result, sys.stdout)
        print()
        return
    for name, value in result.items():
        if value is not None and name.endswith("bytes"):
            value = f"{value / 2**30:.2f} GiB"
        print(f"{name:20} {value:.3f}" if isinstance(value, float) else f"{name:20} {value}")


if __name__ == "__main__":
    main()
