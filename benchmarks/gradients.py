"""Errors of gradients in bfloat16, ours and those of the official code, at full width with random weights on a CPU::

    git clone https://github.com/JaceyHuang/Gen3R official
    pip install torch diffusers einops
    python -m benchmarks.gradients --official official --network geometry_adapter --side 8

Both get the same weights and inputs, which bfloat16 can hold. The reference are gradients of the official code in
float32; in bfloat16 it runs under PyTorch's autocast. A benchmark prints; nothing here judges.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import ContextDecorator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conversion.networks import NETWORKS
from conversion.rules import convert, invert, manifest
from gen3r_jax import module
from gen3r_jax.models.geometry_adapter import GeometryAdapterConfig
from gen3r_jax.models.wan_dit import WanDiTConfig

Gradients = dict[str, np.ndarray]
"""By official names, in float32."""

CONFIGS = {"geometry_adapter": GeometryAdapterConfig(), "wan_dit": WanDiTConfig(depth=2)}


def draw_inputs(name: str, side: int) -> dict[str, np.ndarray]:
    """Random inputs, channels last: 5 frames of `side` x `side` tokens, or 3 latents of twice as many."""
    shapes = {"packed": (1, 5, side, side, 10240)}
    if name == "wan_dit":
        half, whole = (1, 3, 2 * side, 4 * side), (1, 3, 16 * side, 32 * side)
        shapes = {"latents": (*half, 16), "condition": (*half, 20), "cameras": (*whole, 24)}
        shapes |= {"text": (1, 512, 4096), "image": (1, 257, 1280)}
    rng = np.random.default_rng(0)
    drawn = {key: rng.standard_normal(shape, np.float32) for key, shape in shapes.items()}
    first = next(iter(drawn))
    drawn["target"] = 0.3 + rng.standard_normal(drawn[first].shape, np.float32)  # a mean, so that biases get long sums
    return {key: x.astype(jnp.bfloat16).astype(np.float32) for key, x in drawn.items()}


def draw_weights(name: str) -> Gradients:
    """Weights under official names, as large as keep the spread of what flows through a layer, in bfloat16's steps."""
    table, rng, weights = NETWORKS[name].table, np.random.default_rng(1), {}
    for key, entry in manifest(table, CONFIGS[name]).items():
        noise = rng.standard_normal(entry.shape, np.float32)
        inputs = np.prod(entry.shape[1:]) if key.endswith("weight") and len(entry.shape) > 1 else 0
        scale = key.endswith(("gamma", "norm_q.weight", "norm_k.weight", "norm_k_img.weight")) or not inputs
        weights[key] = noise / np.sqrt(inputs) if inputs else 0.02 * noise + (scale and not key.endswith("bias"))
    return {key: x.astype(jnp.bfloat16).astype(np.float32) for key, x in weights.items()}


def ours(name: str, weights: dict[str, Any], inputs: dict[str, np.ndarray]) -> Gradients:
    """Gradients with everything in bfloat16 that training has in it."""
    table, config = NETWORKS[name].table, CONFIGS[name]
    graphdef, _ = module.abstract(lambda rngs: table.network(config, rngs=rngs))
    params = module.cast(jax.tree.map(jnp.asarray, convert(weights, table, config)), jnp.bfloat16)

    def loss(params: module.Params, given: dict[str, jax.Array]) -> jax.Array:
        network: Any = module.merge(graphdef, params)
        if name == "wan_dit":
            context = network.encode_context(given["text"], given["image"])
            cameras = network.encode_cameras(given["cameras"])
            got = network(given["latents"], given["condition"], jnp.full(1, 500.0), context, cameras)
            return jnp.square(got - given["target"]).mean()
        posterior = network.encode(given["packed"])
        error = jnp.square(network.decode(posterior.mode()).astype(jnp.float32) - given["target"])
        return error.mean() + jnp.square(posterior.mean).mean() + jnp.square(posterior.logvar).mean()

    found = jax.jit(jax.grad(loss))(params, inputs)
    found = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), found)
    return dict(invert(found, table, config))


def official(name: str, folder: Path, weights: Gradients, inputs: dict[str, np.ndarray]) -> Iterator[Gradients]:
    """Gradients of the official code in float32, then in bfloat16."""
    import torch  # pyright: ignore[reportMissingImports]

    torch.cuda.amp.autocast = _Exact  # the code names it for the embedding of the time, in float32, and for rotations
    torch.nn.functional.layer_norm = _widened(torch.nn.functional.layer_norm)  # as autocast does on a GPU, and no CPU
    network = _official_network(name, folder, side=inputs["target"].shape[2])
    network.load_state_dict({key: torch.from_numpy(x) for key, x in weights.items()})
    for dtype in (torch.float32, torch.bfloat16):
        given = {
            key: torch.from_numpy(x).movedim(-1, 1) if x.ndim == 5 else torch.from_numpy(x) for key, x in inputs.items()
        }
        target = given.pop("target")
        given = {key: x.to(dtype) for key, x in given.items()}
        network = network.to(dtype if name == "wan_dit" else torch.float32)  # DeepSpeed casts weights, Lightning none
        network.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            if name == "wan_dit":
                tokens = given["latents"][0, 0].numel() // 4
                context = ([given["text"][0]], tokens, given["image"], given["condition"], given["cameras"])
                terms = [network(given["latents"], torch.full((1,), 500.0), *context).float() - target]
            else:
                scale = [torch.tensor(CONFIGS[name].latent_mean), 1 / torch.tensor(CONFIGS[name].latent_std)]
                mean, logvar = network.encode(given["packed"], scale).chunk(2, dim=1)
                terms = [network.decode(mean, scale).float() - target, mean.float(), logvar.float()]
        torch.stack([term.square().mean() for term in terms]).sum().backward()
        yield {key: p.grad.float().numpy() for key, p in network.named_parameters() if p.grad is not None}


def _official_network(name: str, folder: Path, side: int) -> Any:
    """The official class, without the packages around it, which import far more."""
    for package in ("gen3r", "gen3r.models", "gen3r.models.videoxfun_wan", "gen3r.models.geometry_adapter"):
        sys.modules[package] = stub = ModuleType(package)
        stub.__path__ = [str(folder.joinpath(*package.split(".")))]
    if name == "wan_dit":
        config = NETWORKS[name].table.write_config(CONFIGS[name])
        network = import_module("gen3r.models.videoxfun_wan.wan_transformer3d").WanTransformer3DModel
        return network(**{key: value for key, value in config.items() if key not in ("shared_halves", "clip_dim")})
    config = CONFIGS[name]
    build = import_module("gen3r.models.geometry_adapter.geometry_adapter")._geometry_adapter
    sizes = {"input_dim": config.input_dim, "output_dim": config.input_dim, "resample_scale": config.resample_scale}
    network = build(z_dim=config.latent_channels, hidden_dim=config.hidden_dim, **sizes)
    network.decoder.out_block.resample[0].size = (2 * side, 2 * side)  # it is that of 40 x 40 tokens
    return network


class _Exact(ContextDecorator):
    """Stands for autocast to float32 on a GPU: linear layers there are computed in it."""

    def __init__(self, **_: Any):
        pass

    def __enter__(self) -> None:
        import torch  # pyright: ignore[reportMissingImports]

        self._autocast = torch.autocast("cpu", enabled=False)
        self._autocast.__enter__()
        self._linear: Callable = torch.nn.functional.linear
        torch.nn.functional.linear = _widened(self._linear)

    def __exit__(self, *error: Any) -> None:
        import torch  # pyright: ignore[reportMissingImports]

        torch.nn.functional.linear = self._linear
        self._autocast.__exit__(*error)


def _widened(function: Callable) -> Callable:
    """`function` of its arrays in float32."""
    return lambda *given: function(*(x.float() if hasattr(x, "float") else x for x in given))


def kind_of(name: str, shape: tuple[int, ...]) -> str:
    if name.endswith("bias"):
        return "biases"
    if "modulation" in name:
        return "tables of modulation"
    return "scales of norms" if sum(side > 1 for side in shape) == 1 else "kernels"


def error(got: np.ndarray, wanted: np.ndarray) -> float:
    """Norm of the difference over the norm."""
    return float(np.linalg.norm(np.float64(got) - wanted) / np.linalg.norm(np.float64(wanted)))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gradients", description=(__doc__ or "").partition("::")[0]
    )
    parser.add_argument("--official", type=Path, required=True, help="a copy of github.com/JaceyHuang/Gen3R")
    parser.add_argument("--network", choices=CONFIGS, required=True)
    parser.add_argument(
        "--side", type=int, default=8, help="tokens a side: of a VGGT map, or of one half of the latents"
    )
    arguments = parser.parse_args()
    name = arguments.network
    inputs, weights = draw_inputs(name, arguments.side), draw_weights(name)
    got = ours(name, weights, inputs)
    wanted, theirs = official(name, arguments.official, weights, inputs)
    kinds: dict[str, list[tuple[float, float]]] = {}
    for key in (key for key, gradient in wanted.items() if gradient.any()):
        errors = error(got[key], wanted[key]), error(theirs[key], wanted[key])
        kinds.setdefault(kind_of(key, wanted[key].shape), []).append(errors)
        print(f"{key}: {errors[0]:.2%}, official {errors[1]:.2%}", file=sys.stderr)
    print(f"{name}, {arguments.side} tokens a side: errors, median and maximum over tensors\n")
    print("| parameters | tensors | ours | official |\n|---|---|---|---|")
    for kind, errors in kinds.items():
        medians, most = np.median(errors, 0), np.max(errors, 0)
        cells = (f"{median:.2%}, {largest:.2%}" for median, largest in zip(medians, most, strict=True))
        print(f"| {kind} | {len(errors)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
