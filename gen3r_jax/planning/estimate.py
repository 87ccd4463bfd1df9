"""What a generation will take, before any weights are read: its programs are compiled and counted, not run."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gen3r_jax import module
from gen3r_jax.costs.flops import count_flops
from gen3r_jax.costs.topology import UTILISATION, find_chip
from gen3r_jax.diffusion.solvers import init_state
from gen3r_jax.generation import programs
from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.pipeline import MemoryMode
from gen3r_jax.generation.settings import GenerationSettings
from gen3r_jax.models.registry import EXACT, NETWORKS
from gen3r_jax.models.sizes import PIXELS_PER_LATENT, latent_frames
from gen3r_jax.models.wan_dit import WanDiTConfig
from gen3r_jax.storage.checkpoint import read_config


@dataclass(frozen=True)
class StageCost:
    """One program.

    Attributes:
      network: whose weights it needs; `weights` their bytes.
      working: bytes of everything else: inputs, results and temporaries, as the compiler plans them.
      flops: of all its runs.
    """

    name: str
    network: str
    weights: int
    working: int
    flops: int


def estimate(weights: Path, settings: GenerationSettings, dtype: Any, mode: MemoryMode) -> list[StageCost]:
    """Costs of the stages of one scene on the default device, from the configs in the folder `weights`."""
    networks = {name: _abstract(weights / name, name, dtype) for name in NETWORKS}
    configs = {name: read_config(weights / name, network) for name, network in NETWORKS.items()}
    runs = generation_runs(networks, configs["wan_dit"], settings, mode)
    return [_cost(run, networks[run.network]) for run in runs]


@dataclass(frozen=True)
class Run:
    """One program of a generation: `function` of a network and `arguments` (abstract), `count` times."""

    name: str
    network: str
    function: Callable
    arguments: tuple
    count: int


def generation_runs(
    networks: dict[str, Network], dit: WanDiTConfig, settings: GenerationSettings, mode: MemoryMode
) -> list[Run]:
    """The programs of one scene, in their order. Networks may be abstract."""
    (height, width), num_frames, num_steps = settings.size, settings.num_frames, max(1, settings.num_inference_steps)
    guided = settings.guidance_scale > 1
    f, h, w = latent_frames(num_frames), height // PIXELS_PER_LATENT, width // PIXELS_PER_LATENT
    texts = 1 + guided
    passes = ("in turn" if mode == "staged" else "batched") if guided else "one"
    joint = dit.shared_halves  # else the transformer makes appearance alone, and VGGT reads geometry from the video
    wide = w * (1 + joint)
    given, z = _array(1, f, h, wide, 20), _array(1, f, h, wide, 16)
    image = jax.eval_shape(programs.encode_image, networks["clip_vision"], _array(1, height, width, 3))
    prepared = (_array(texts, dit.text_len, dit.text_dim), image, given, _array(1, num_frames, height, width, 6))
    conditions = jax.eval_shape(programs.prepare, networks["wan_dit"], *prepared)
    number = _array()

    def step(dit: Network, *arguments: Any) -> Any:
        return programs.step(dit, *arguments, passes)

    ids = jax.ShapeDtypeStruct((1, dit.text_len), np.int32), jax.ShapeDtypeStruct((1, dit.text_len), np.bool_)
    clip = _array(1, num_frames, height, width, 3), jax.ShapeDtypeStruct((1, num_frames), np.bool_)
    latents = _array(1, f, h, w, 16)
    sampling = (jax.eval_shape(init_state, z), conditions, number, _array(10), number)
    read = [Run("Reading depth and cameras", "vggt", programs.reconstruct, (clip[0],), 1)]
    if joint:
        packed = jax.eval_shape(programs.decode_adapter, networks["geometry_adapter"], latents)
        read = [
            Run("Decoding the geometry", "geometry_adapter", programs.decode_adapter, (latents,), 1),
            Run("Reading depth and cameras", "vggt", programs.read_geometry, (packed,), 1),
        ]
    if settings.geometry != "generated":
        read.append(Run("Reading the geometry of the video", "vggt", programs.reconstruct, (clip[0],), 1))
    return [
        Run("Encoding the text", "umt5", programs.encode_text, ids, texts),
        Run("Encoding the image", "clip_vision", programs.encode_image, (_array(1, height, width, 3),), 1),
        Run("Encoding the given frames", "wan_vae", partial(programs.encode_given, joint=joint), (*clip, latents), 1),
        Run("Preparing", "wan_dit", programs.prepare, prepared, 1),
        Run(f"Sampling, {num_steps} steps", "wan_dit", step, sampling, num_steps),
        Run("Decoding the video", "wan_vae", programs.decode_video, (latents,), 1),
        *read,
    ]


def describe(costs: list[StageCost], mode: MemoryMode) -> list[str]:
    """The costs as a table, with the whole."""
    kind = jax.devices()[0].device_kind
    lines = [f"{'stage':33} {'network':18} {'weights':>9} {'working':>9} {'TFLOP':>10}"]
    for cost in costs:
        sizes = f"{cost.weights / 1e9:6.2f} GB {cost.working / 1e9:6.2f} GB"
        lines.append(f"{cost.name:33} {cost.network:18} {sizes} {cost.flops / 1e12:10.2f}")
    if mode == "staged":
        peak = max(cost.weights + cost.working for cost in costs)
    else:
        peak = sum({cost.network: cost.weights for cost in costs}.values()) + max(cost.working for cost in costs)
    total = sum(cost.flops for cost in costs)
    lines.append(f"estimated peak on {kind}, {mode}: {peak / 1e9:.2f} GB")
    if chip := find_chip(kind):
        seconds, rate = total / (UTILISATION * chip.flops), chip.flops / 1e12
        lines.append(f"estimated time: {seconds:.0f} s at {UTILISATION:.0%} of {rate:.0f} TFLOP/s, without compiling")
    else:
        lines.append(f"{total / 1e12:.2f} TFLOP in all; no estimate of time for {kind}, whose speed is not listed")
    return lines


def _cost(run: Run, weights: Network) -> StageCost:
    print(f"compiling: {run.name} ...", file=sys.stderr)
    memory = jax.jit(run.function).lower(weights, *run.arguments).compile().memory_analysis()
    assert memory is not None
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(weights))
    working = memory.argument_size_in_bytes + memory.output_size_in_bytes + memory.temp_size_in_bytes - size
    flops = run.count * count_flops(run.function, weights, *run.arguments)
    return StageCost(run.name, run.network, size, max(0, working), flops)


def _abstract(path: Path, name: str, dtype: Any) -> Network:
    config = read_config(path, NETWORKS[name])
    graphdef, params = module.abstract(lambda rngs: NETWORKS[name](config, rngs=rngs))
    exact = {part: params[part] for part in EXACT.get(name, ()) if part in params}
    return graphdef, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), params) | exact


def _array(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
