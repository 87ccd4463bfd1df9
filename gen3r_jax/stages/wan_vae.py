"""Trains a video VAE of Wan's kind from nothing, for small models; Gen3R itself takes Wan's own, frozen.

The loss is the squared error of random crops, with a small price on the information in the latents. Training works on
raw latents. What is exported has their mean and standard deviation over the last training clips in its config, so that
whoever reads it gets latents that are about N(0, 1).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jaxtyping import Array, Float, Key, UInt8

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.export.grid import spread, write_grid
from gen3r_jax.generation import networks
from gen3r_jax.models.sizes import PIXELS_PER_LATENT, require_multiple
from gen3r_jax.models.wan_vae import WanVAE, WanVAEConfig
from gen3r_jax.module import Params
from gen3r_jax.ops.leaves import AnyArray
from gen3r_jax.ops.psnr import psnr
from gen3r_jax.options import Count, Natural, NonNegative
from gen3r_jax.sharding import fetch
from gen3r_jax.stages.adapter.losses import kl_divergence
from gen3r_jax.stages.options import NetworkOptions
from gen3r_jax.storage.checkpoint import load_network, read_config, save_weights
from gen3r_jax.training.stage import Batch, Entry, Metrics, Stage

FIRST_LOGVAR = -6.0  # of untrained posteriors: noise as large as N(0, 1) would drown latents that mean nothing yet
SHOWN = 4  # clips in the picture of a validation


@dataclass(frozen=True)
class WeightsOptions:
    """wan_vae: folder of a network to start from; empty: random weights."""

    wan_vae: str = ""


@dataclass(frozen=True)
class CropOptions:
    """What is cut from each clip, anew in every step; all its frames are kept.

    Attributes:
      side: side of the squares in pixels, a multiple of 8; 0 takes whole frames.
      per_clip: number of squares.
    """

    side: Natural = 40
    per_clip: Count = 1

    def __post_init__(self) -> None:
        if self.side:
            require_multiple("crops.side", self.side, PIXELS_PER_LATENT)
        if self.per_clip > 1 and not self.side:
            raise UserError(f"crops.per_clip {self.per_clip} must be 1 for whole frames (side 0)")


@dataclass(frozen=True)
class LossOptions:
    """Weights of the terms, all of which are means; colours are in [-1, 1].

    Attributes:
      square, absolute: weights of the error of each colour.
      gradient: weight of the absolute error of the difference of neighbouring pixels.
      kl: weight of the divergence from N(0, 1) in nats a latent number. About half of it is what the latents' noise may
        add to the squared error.
    """

    square: NonNegative = 1.0
    absolute: NonNegative = 0.0
    gradient: NonNegative = 0.0
    kl: NonNegative = 1e-5


@dataclass(frozen=True)
class StatisticsOptions:
    """clips: number of clips, the last that were seen, which give mean and standard deviation of the exported latents.
    After a resume these are those since then, with those of the validation where training ends before there are enough.
    """

    clips: Count = 64


@dataclass(frozen=True)
class WanVAEStage(Stage):
    """Trains the video VAE; it needs frames alone."""

    model: NetworkOptions = NetworkOptions()
    weights: WeightsOptions = WeightsOptions()
    crops: CropOptions = CropOptions()
    losses: LossOptions = LossOptions()
    statistics: StatisticsOptions = StatisticsOptions()

    entries: ClassVar = {"frames": Entry("t h w 3", np.uint8)}
    loss_reads: ClassVar = ("frames",)

    def init(self, key: Key[Array, ""]) -> Params:
        params = module.split(WanVAE(self._config, rngs=nnx.Rngs(key)))[1]
        bias = params["to_moments"]["bias"]
        params["to_moments"]["bias"] = bias.at[len(bias) // 2 :].set(FIRST_LOGVAR)
        return params

    def load_trainable(self) -> Params | None:
        if not self.weights.wan_vae:
            return None
        return load_network(self.weights.wan_vae, WanVAE, dtype=jnp.float32)[1]

    def prepare(self, batch: Batch) -> Batch:
        """Remembers the clips for the statistics; those of the validation, which come first, are soon forgotten."""
        frames = batch["frames"]
        if self._recent and self._recent[0].shape != frames.shape[1:]:
            self._recent.clear()
        self._recent.extend(frames)
        return batch

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        keys = jax.vmap(lambda key: jax.random.split(key, (self.crops.per_clip, 2)))(keys)
        crops = crop(batch["frames"], self.crops.side, keys[..., 0])
        wan_vae = module.merge(self._graph, trainable)
        posterior = networks.encode_video(wan_vae, networks.to_unit_range(crops))
        noise = jax.vmap(lambda key: jax.random.normal(key, posterior.mean.shape[1:]))(keys[..., 1].ravel())
        decoded = wan_vae.pixels(wan_vae.decode_features(posterior.sample(noise)))
        error = decoded.astype(jnp.float32) - (crops / 127.5 - 1.0)
        terms = {
            "square": jnp.square(error).mean(),
            "absolute": jnp.abs(error).mean(),
            "gradient": sum(jnp.abs(jnp.diff(error, axis=axis)).mean() for axis in (2, 3)),
            "kl": kl_divergence(posterior).sum() / posterior.mean.size,
        }
        loss = reduce(add, (getattr(self.losses, name) * term for name, term in terms.items()))
        statistics = {
            "psnr": psnr(*(_as_pictures(clips) for clips in ((decoded.astype(jnp.float32) + 1) / 2, crops / 255))),
            "latent_mean": posterior.mean.mean(),
            "latent_std": posterior.mean.std(),
        }
        return loss, terms | statistics | {"posterior_std": posterior.std.mean()}

    def validate(self, trainable: Params, frozen: Params, batch: Batch, directory: Path, step: int) -> Metrics:
        """Peak signal-to-noise ratios of whole clips, each clamped and coded by the posterior's mean."""
        decoded = fetch(self._reconstruct(trainable, batch["frames"]))
        frames = np.asarray(batch["frames"])
        if jax.process_index() == 0:
            times, rows = spread(frames.shape[1]), {}
            for i, pair in enumerate(zip(frames[:SHOWN], decoded, strict=False)):
                rows |= {f"clip {i}": pair[0][times], f"clip {i}, reconstructed": pair[1][times]}
            write_grid(directory / "reconstruction.png", rows)
        still = np.repeat(frames[:, :1], frames.shape[1], axis=1)
        decoded, still, frames = (_as_pictures(clips / 255) for clips in (decoded, still, frames))
        return {"psnr": float(psnr(decoded, frames)), "psnr_of_first_frame": float(psnr(still, frames))}

    def export(self, trainable: Params, directory: Path) -> None:
        clips = multihost_utils.broadcast_one_to_all(np.stack(self._recent))
        mean, std = (tuple(map(float, numbers)) for numbers in fetch(self._statistics(trainable, clips)))
        config = replace(self._config, latent_mean=mean, latent_std=std)
        save_weights(directory / "wan_vae", WanVAE, config, trainable)

    @cached_property
    def _recent(self) -> deque[UInt8[np.ndarray, "t h w 3"]]:
        return deque(maxlen=self.statistics.clips)

    @cached_property
    def _statistics(self) -> Callable[[Params, Array], tuple[Float[Array, "c"], Float[Array, "c"]]]:
        """Mean and standard deviation of the raw latents of clips, by channel."""

        def measure(trainable: Params, clips: UInt8[Array, "n t h w 3"]) -> tuple[Array, Array]:
            wan_vae = module.merge(self._graph, trainable)
            latents = jax.lax.map(lambda clip: self._encode(wan_vae, clip[None]), clips)
            return latents.mean(axis=(0, 1, 2, 3, 4)), latents.std(axis=(0, 1, 2, 3, 4))

        return jax.jit(measure)

    @cached_property
    def _reconstruct(self) -> Callable[[Params, Array], Array]:
        def reconstruct(trainable: Params, clips: UInt8[Array, "n t h w 3"]) -> UInt8[Array, "n t h w 3"]:
            wan_vae = module.merge(self._graph, trainable)
            decoded = jax.lax.map(lambda clip: wan_vae.decode(self._encode(wan_vae, clip[None]))[0], clips)
            return jnp.rint((decoded.astype(jnp.float32) + 1.0) * 127.5).astype(jnp.uint8)

        return jax.jit(reconstruct)

    @staticmethod
    def _encode(wan_vae: WanVAE, clips: UInt8[Array, "b t h w 3"]) -> Float[Array, "b f y x c"]:
        return networks.encode_video(wan_vae, networks.to_unit_range(clips)).mode()

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return module.abstract(lambda rngs: WanVAE(self._config, rngs=rngs))[0]

    @cached_property
    def _config(self) -> WanVAEConfig:
        """That of the network while it is trained: latents as they are."""
        start = self.weights.wan_vae
        found = self.model.config("wan_vae", read_config(start, WanVAE) if start else None)
        plain = {"latent_mean": (0.0,) * found.latent_channels, "latent_std": (1.0,) * found.latent_channels}
        return replace(found, remat=self.model.remat, **plain)


def crop(clips: UInt8[Array, "b t h w 3"], side: int, keys: Key[Array, "b n"]) -> UInt8[Array, "b*n t side side 3"]:
    """Cuts squares from clips, one for each key; `side` 0 leaves them whole. Raises UserError where they do not fit."""
    _, frames, height, width, _ = clips.shape
    if not side:
        return clips
    if side > min(height, width):
        raise UserError(f"crops.side {side} is larger than frames of {height} x {width}; give at most that, or 0")

    def cut(clip: Array, key: Key[Array, ""]) -> Array:
        row, column = jax.random.randint(key, (2,), 0, jnp.array([height - side, width - side]) + 1)
        return jax.lax.dynamic_slice(clip, (0, row, column, 0), (frames, side, side, 3))

    crops = jax.vmap(jax.vmap(cut, in_axes=(None, 0)))(clips, keys)
    return crops.reshape(-1, *crops.shape[2:])


def _as_pictures(clips: Float[AnyArray, "n t h w 3"]) -> Float[AnyArray, "n th w 3"]:
    """Each clip as one picture, its frames below each other, so that its errors are averaged over all of it."""
    n, t, h, w, c = clips.shape
    return clips.reshape(n, t * h, w, c)
