"""Trains a head that reads colours from the tokens of a frozen VGGT, to compare it with the video VAE (Gen3R, Table 9).

The paper names neither loss nor schedule. Here the loss is the squared error of colours in [0, 1]: what is least for it
is best for PSNR, by which the two are compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from gen3r_jax import module
from gen3r_jax.arrays import picture_size
from gen3r_jax.errors import UserError
from gen3r_jax.export.grid import spread, write_grid
from gen3r_jax.generation import networks
from gen3r_jax.models.geometry_adapter import unpack_tokens
from gen3r_jax.models.rgb_head import RGBHead, RGBHeadConfig
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.module import Params
from gen3r_jax.ops.psnr import psnr
from gen3r_jax.options import Natural
from gen3r_jax.sharding import fetch
from gen3r_jax.stages.networks import Networks, video_tokens
from gen3r_jax.stages.options import FolderOptions, FrozenNetworkOptions
from gen3r_jax.storage.checkpoint import save_weights
from gen3r_jax.training.stage import FRAMES, Batch, Encoder, Metrics, Stage

SHOWN = 4  # clips in the picture of a validation


@dataclass(frozen=True)
class SampleOptions:
    """frames: so many of each clip, drawn anew in every step, are judged; 0: all. VGGT sees all of them."""

    frames: Natural = 3


@dataclass(frozen=True)
class RGBHeadStage(Stage):
    """Trains the head, which is as large as VGGT's own; it needs frames alone."""

    model: FrozenNetworkOptions = FrozenNetworkOptions()
    weights: FolderOptions = FolderOptions()
    samples: SampleOptions = SampleOptions()

    entries: ClassVar = {"frames": FRAMES}
    loss_reads: ClassVar = ("frames", "packed")

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        return (Encoder("tokens", self._tokens, reads=("frames",), writes={"packed": ("batch", "frames")}),)

    def init(self, key: Key[Array, ""]) -> Params:
        return module.split(RGBHead(self._config, rngs=nnx.Rngs(key)))[1]

    def load_frozen(self) -> Params:
        return {"vggt": self._networks.load("vggt", self.model.frozen_dtype)}

    def abstract_frozen(self) -> Params:
        return {"vggt": self._networks.shapes("vggt", self.model.frozen_dtype)}

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        total = batch["frames"].shape[1]
        count = self.samples.frames or total
        if count > total:
            raise UserError(f"samples.frames {count} is more than the {total} of a clip; give at most that, or 0")
        chosen = jax.vmap(lambda key: jax.random.permutation(key, total)[:count])(keys)  # [b n]
        frames, packed = (jax.vmap(lambda x, i: x[i])(batch[name], chosen) for name in self.loss_reads)
        read = self._read(trainable, packed, frames.shape[2:4])
        errors = jnp.square(read - networks.to_unit_range(frames)).mean(axis=(1, 2, 3, 4))
        return errors.mean(), {"psnr": -10 * jnp.log10(errors).mean()}

    def validate(self, trainable: Params, frozen: Params, batch: Batch, directory: Path, step: int) -> Metrics:
        """The peak signal-to-noise ratio of all frames of whole clips."""
        read = fetch(self._reconstruct(trainable, frozen, batch["frames"]))
        frames = np.asarray(batch["frames"])
        if jax.process_index() == 0:
            times, rows = spread(frames.shape[1]), {}
            for i, (clip, colours) in enumerate(zip(frames[:SHOWN], read, strict=False)):
                rows[f"clip {i}"] = clip[times]
                rows[f"clip {i}, read from tokens"] = np.rint(255 * colours[times]).astype(np.uint8)
            write_grid(directory / "colours.png", rows)
        return {"psnr": float(psnr(read, frames / 255))}

    def export(self, trainable: Params, directory: Path) -> None:
        save_weights(directory / "rgb_head", RGBHead, self._config, trainable)
        if not self.weights.dir:  # the head means nothing without the random VGGT whose tokens it reads
            weights = self._networks.load("vggt", jnp.float32)
            save_weights(directory / "vggt", VGGT, self._networks.configs["vggt"], weights)

    def _tokens(self, frozen: Params, batch: Batch, keys: Key[Array, "b"] | None) -> Batch:
        return {"packed": video_tokens(self._networks.merge("vggt", frozen["vggt"]), batch["frames"])}

    def _read(
        self, trainable: Params, packed: Float[Array, "b t hp wp c"], image_size: tuple[int, int]
    ) -> Float[Array, "b t h w 3"]:
        return module.merge(self._graph, trainable)(unpack_tokens(packed)[0], image_size)

    @cached_property
    def _reconstruct(self) -> Callable[[Params, Params, Array], Float[Array, "b t h w 3"]]:
        def reconstruct(trainable: Params, frozen: Params, clips: UInt8[Array, "b t h w 3"]) -> Array:
            def one(clip: Array) -> Array:
                packed = self._tokens(frozen, {"frames": clip[None]}, None)["packed"][:, : len(clip)]
                return self._read(trainable, packed, picture_size(clip))[0]

            return jax.lax.map(one, clips)

        return jax.jit(reconstruct)

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return module.abstract(lambda rngs: RGBHead(self._config, rngs=rngs))[0]

    @cached_property
    def _config(self) -> RGBHeadConfig:
        return RGBHeadConfig.beside(self._networks.configs["vggt"], self.model.remat)

    @cached_property
    def _networks(self) -> Networks:
        return Networks(self.model, self.weights.dir)
