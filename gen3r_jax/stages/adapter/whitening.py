"""Whitens the latents of an adapter: ``python -m gen3r_jax.stages.adapter.whitening ADAPTER LATENTS OUTPUT``

A transformer that learns the velocity of latents by squared error learns what varies most. VGGT's tokens pass the
adapter in a few directions of large variance, and what cameras and fine depth need lies in small ones. OUTPUT is the
same adapter, with the linear layers before and behind the latents changed so that the directions in which latents vary
have the variance 1: tokens come back as before, and the transformer's loss weighs all of them alike. A symmetric
matrix is used ("ZCA"), which leaves every channel as near as possible to what it was.

Latents that were encoded with the old adapter do not fit the new one: encode them again.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gen3r_jax.data.encoded import make_encoded_loader, read_header
from gen3r_jax.data.loader import DataOptions
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig
from gen3r_jax.module import Params
from gen3r_jax.ops.leaves import AnyArray
from gen3r_jax.storage.checkpoint import load_network, read_config, save_weights


@dataclass(frozen=True)
class Statistics:
    """Mean and covariance of latents over clips and cells, and the mean variance of their posteriors, by channel."""

    mean: Float[np.ndarray, " c"]
    covariance: Float[np.ndarray, "c c"]
    noise: Float[np.ndarray, " c"]

    @classmethod
    def of(cls, mean: Float[AnyArray, "*n c"], logvar: Float[AnyArray, "*n c"]) -> Self:
        mean, logvar = (np.asarray(x, np.float64).reshape(-1, x.shape[-1]) for x in (mean, logvar))
        return cls(mean.mean(axis=0), np.cov(mean, rowvar=False), np.exp(logvar).mean(axis=0))


def whiten(
    config: GeometryAdapterConfig, params: Params, statistics: Statistics, floor: float
) -> tuple[GeometryAdapterConfig, Params]:
    """The adapter whose latents are ``W (z - mean)`` where they were z, with a symmetric W.

    Directions whose variance is at least `floor` get the variance 1; the others are enlarged as much as that one would
    be, so that what is hardly there, such as rounding, does not become as large as the rest.
    """
    variances, directions = np.linalg.eigh(statistics.covariance)
    scales = np.sqrt(np.maximum(variances, floor))
    forward, back = (directions * s @ directions.T for s in (1 / scales, scales))
    mean, std = (np.asarray(x, np.float64) for x in (config.latent_mean, config.latent_std))
    moments, latent = (
        {name: np.asarray(leaf, np.float64) for name, leaf in params[layer].items()}
        for layer in ("to_moments", "from_latent")
    )
    channels = len(mean)
    kernel, bias = moments["kernel"], moments["bias"]
    noise = np.log((forward**2 @ statistics.noise) / statistics.noise)
    new_moments = {
        "kernel": np.concatenate([kernel[:, :channels] / std @ forward.T, kernel[:, channels:]], axis=1),
        "bias": np.concatenate([forward @ ((bias[:channels] - mean) / std - statistics.mean), bias[channels:] + noise]),
    }
    new_latent = {
        "kernel": back.T * std @ latent["kernel"],
        "bias": (statistics.mean * std + mean) @ latent["kernel"] + latent["bias"],
    }
    layers = {"to_moments": new_moments, "from_latent": new_latent}
    changed = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), layers, {k: params[k] for k in layers})
    plain = {"latent_mean": (0.0,) * channels, "latent_std": (1.0,) * channels}
    return replace(config, **plain), params | changed


def measure(latents: Path) -> Statistics:
    """Statistics of the training clips' geometry latents in a folder that ``gen3r encode`` wrote."""
    header = read_header(latents)
    if not header.joint:
        raise UserError(f"{latents} holds latents of appearance alone; encode with config.model.latents=joint")
    samples = make_encoded_loader(
        latents, DataOptions(workers=0), batch_size=1, num_frames=header.num_frames, side=header.side, seed=0
    )
    found: dict[str, list[np.ndarray]] = {"geometry_mean": [], "geometry_logvar": []}
    for _, sample in zip(range(header.clips["train"]), samples, strict=False):
        for name, parts in found.items():
            parts.append(sample[name])
    return Statistics.of(*(np.concatenate(parts) for parts in found.values()))


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gen3r_jax.stages.adapter.whitening",
        description="Brings an adapter's latents to equal variance; tokens come back as before.",
    )
    parser.add_argument("adapter", type=Path, help="folder of the adapter")
    parser.add_argument("latents", type=Path, help="latents that gen3r encode made with it; a hundred clips will do")
    parser.add_argument("output", type=Path, help="folder of the new adapter")
    parser.add_argument(
        "--floor", type=float, default=0.1, help="smallest variance that is brought to 1 (default: 0.1)"
    )
    options = parser.parse_args()
    if options.floor <= 0:
        raise UserError(f"--floor {options.floor:g} is not a positive variance")
    statistics = measure(options.latents)
    _, params = load_network(options.adapter, GeometryAdapter, dtype=jnp.float32)
    config, params = whiten(read_config(options.adapter, GeometryAdapter), params, statistics, options.floor)
    save_weights(options.output, GeometryAdapter, config, params)
    variances = np.linalg.eigvalsh(statistics.covariance)[::-1]
    print("variances by direction before:", " ".join(f"{variance:.3g}" for variance in variances))


if __name__ == "__main__":
    main_guard(main)
