"""Which weights of the diffusion transformer are trained: all, the camera adapter, or factors of small rank (LoRA)."""

import functools
import re
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Key

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.models.wan_dit import WanDiT
from gen3r_jax.module import Params
from gen3r_jax.ops.shared import SidePath
from gen3r_jax.options import Count


@dataclass(frozen=True)
class TuningOptions:
    """Attributes:
    mode: "full" trains every weight; "camera" the camera adapter; "lora" adds ``scale * down @ up`` to some kernels
      and trains these two factors ("LoRA: Low-Rank Adaptation of Large Language Models").
    rank: of the product.
    scale: of the product.
    targets: a regular expression; the kernels whose dotted path it matches, such as ``blocks.self_attn.q.kernel``.
    """

    mode: Literal["full", "camera", "lora"] = "full"
    rank: Count = 64
    scale: float = 1.0
    targets: str = r"blocks\.(self_attn|cross_attn|text_attn|image_attn|mlp)\..*"

    def __post_init__(self) -> None:
        try:
            re.compile(self.targets)
        except re.error as error:
            raise UserError(f"tuning.targets {self.targets!r} is no regular expression: {error}") from None


def trainable_part(options: TuningOptions, params: Params) -> Params:
    """The weights of a network that are trained; not for those that get new ones, see :func:`new_weights`."""
    return {"camera_adapter": params["camera_adapter"]} if options.mode == "camera" else params


def frozen_part(options: TuningOptions, params: Params) -> Params | None:
    """The weights that stay; None if all are trained."""
    match options.mode:
        case "full":
            return None
        case "camera":
            return {name: part for name, part in params.items() if name != "camera_adapter"}
    return params


def new_weights(options: TuningOptions, shapes: Params, key: Key[Array, ""]) -> Params:
    """The factors, of which the product is zero: the network begins as it is.

    Raises UserError when no kernel is a target.
    """
    kernels = {name: leaf for name, leaf in module.flatten(shapes).items() if name.endswith(".kernel")}
    targets = {
        name: leaf
        for name, leaf in kernels.items()
        if re.fullmatch(options.targets, name) and (leaf.ndim == 2 or (leaf.ndim == 3 and name.startswith("blocks.")))
    }
    if not targets:
        examples = [name for name in kernels if name.startswith("blocks.")]
        raise UserError(f"tuning.targets {options.targets!r} matches no kernel; there are {', '.join(examples)}, ...")
    factors: Params = {}
    for i, (name, leaf) in enumerate(targets.items()):
        *layers, inputs, outputs = leaf.shape
        down = inputs**-0.5 * jax.random.normal(jax.random.fold_in(key, i), (*layers, inputs, options.rank))
        factors[name] = {"down": down, "up": jnp.zeros((*layers, options.rank, outputs))}
    return factors


def network(options: TuningOptions, graph: nnx.GraphDef[WanDiT], trainable: Params, frozen: Params | None) -> WanDiT:
    """The network as it is trained: factors stay beside their kernels, whose dtype may be too coarse for them.

    frozen: None where all weights are trained.
    """
    if options.mode != "lora" or frozen is None:
        return module.merge(graph, merged(options, trainable, frozen))
    _refuse_unknown(trainable, frozen)
    dit = module.merge(graph, frozen)
    for path, pair in trainable.items():
        *parents, _ = path.split(".")
        layer: Any = functools.reduce(getattr, parents, dit)
        layer.side = SidePath(pair["down"], pair["up"], options.scale)
    return dit


def merged(options: TuningOptions, trainable: Params, frozen: Params | None) -> Params:
    """The whole network's weights. `frozen`: None where all are trained."""
    if options.mode == "full" or frozen is None:
        return trainable
    if options.mode == "camera":
        return frozen | trainable
    _refuse_unknown(trainable, frozen)
    return _changed(frozen, "", lambda name, kernel: _with_factors(options, kernel, trainable.get(name)))


def _refuse_unknown(factors: Params, params: Params) -> None:
    if unknown := set(factors) - set(module.flatten(params)):
        raise UserError(f"the network has no {', '.join(sorted(unknown))}: these factors belong to another one")


def _with_factors(options: TuningOptions, kernel: Array, factors: Params | None) -> Array:
    if factors is None:
        return kernel
    product = jnp.matmul(factors["down"], factors["up"], preferred_element_type=jnp.float32)
    return (kernel.astype(jnp.float32) + options.scale * product).astype(kernel.dtype)


def _changed(params: Params, path: str, change: Any) -> Params:
    return {
        name: _changed(part, f"{path}{name}.", change) if isinstance(part, dict) else change(f"{path}{name}", part)
        for name, part in params.items()
    }
