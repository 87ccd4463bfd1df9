"""Stage 1: the geometry adapter learns to carry VGGT's tokens through latents shaped like the video's.

VGGT and the Wan VAE are frozen. VGGT's tokens V go through the adapter and come back as V^; the loss compares the
tokens and what VGGT's heads read from them, and pulls the adapter's posterior towards that of the video's latents
(Gen3R, section 3.2; where paper and released code differ, the code).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce
from operator import add
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, Key, UInt8

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.generation import networks
from gen3r_jax.models.causal_autoencoder import DiagonalGaussian
from gen3r_jax.models.geometry_adapter import GeometryAdapter, unpack_tokens
from gen3r_jax.models.registry import NETWORKS
from gen3r_jax.models.sizes import clip_frames
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.module import Params
from gen3r_jax.ops.groups import map_groups
from gen3r_jax.options import Count, Natural, NonNegative
from gen3r_jax.sharding import fetch
from gen3r_jax.stages.adapter import validation as adapter_validation
from gen3r_jax.stages.adapter.losses import (
    adaptive_weight,
    camera_loss,
    cosine_distance,
    distance_loss,
    kl_divergence,
    smooth_l1,
)
from gen3r_jax.stages.networks import Networks, video_tokens
from gen3r_jax.stages.options import FolderOptions, FrozenNetworkOptions
from gen3r_jax.storage.checkpoint import load_network, read_config, save_weights
from gen3r_jax.training.stage import FRAMES, Batch, Encoder, Metrics, Stage

FROZEN = ("vggt", "wan_vae")


@dataclass(frozen=True)
class ModelOptions(FrozenNetworkOptions):
    """The networks.

    Attributes:
      frames_per_group: of the decoded tokens, which have 10240 channels, so many frames exist at a time.
      vae_chunk_frames: so many frames pass the video encoder at a time, a multiple of 4; 0 takes them all.
    """

    frames_per_group: Count = 4
    vae_chunk_frames: Natural = 4


@dataclass(frozen=True)
class WeightsOptions(FolderOptions):
    """Where weights come from.

    Attributes:
      adapter: folder of an adapter to start from; empty: random weights.
    """

    adapter: str = ""


@dataclass(frozen=True)
class LossOptions:
    """Weights of the terms.

    Attributes:
      reconstruction: weight of the sum of the five terms that follow, each of which has its own weight.
      image_token: weight of the error of the patches' tokens.
      camera_token: weight of the error of the camera tokens.
      camera: weight of the error of the pose encodings.
      depth: weight of the error of the depth.
      point: weight of the error of the points.
      similarity: weight of the dissimilarity of the directions of decoded and true tokens.
      alignment: weight of the divergence of the latents from those of the video.
      kl: what the adapter's posterior is compared with. "align": the posterior of the video's latents, weighted by
        `alignment`, 0.1 and the adaptive power of ten. "standard": the standard normal distribution, with the power of
        ten alone, as the released code does with alignment switched off. "none": nothing (the paper's ablation).
      kl_weight_per: whether the power of ten compares the losses of each "sample", so that the loss does not depend on
        how a batch is divided, or the means of a micro-"batch", as the released trainer does on each of its devices.
    """

    reconstruction: NonNegative = 0.5
    image_token: NonNegative = 1.0
    camera_token: NonNegative = 1.0
    camera: NonNegative = 10.0
    depth: NonNegative = 2.0
    point: NonNegative = 1.0
    similarity: NonNegative = 0.1
    alignment: NonNegative = 2.0
    kl: Literal["align", "standard", "none"] = "align"
    kl_weight_per: Literal["sample", "batch"] = "sample"


@dataclass(frozen=True)
class AdapterStage(Stage):
    """Trains the geometry adapter; it needs frames alone."""

    model: ModelOptions = ModelOptions()
    weights: WeightsOptions = WeightsOptions()
    losses: LossOptions = LossOptions()

    entries: ClassVar = {"frames": FRAMES}
    loss_reads: ClassVar = ("video_mean", "video_logvar", "packed", "pose_encs", "depth", "points")

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        latents, maps = ("batch", None, "rows", "columns"), ("batch", "frames")
        heads = {"pose_encs": (None, "batch"), "depth": maps, "points": maps}
        return (
            Encoder("video", self._video, reads=("frames",), writes={"video_mean": latents, "video_logvar": latents}),
            Encoder("tokens", self._tokens, reads=("frames",), writes={"packed": maps}),
            Encoder("heads", self._heads, reads=("frames", "packed"), writes=heads),
        )

    def init(self, key: Key[Array, ""]) -> Params:
        config = self._networks.configs["geometry_adapter"]
        return module.split(GeometryAdapter(config, rngs=nnx.Rngs(key)))[1]

    def load_trainable(self) -> Params | None:
        if not self.weights.adapter:
            return None
        return load_network(self.weights.adapter, GeometryAdapter, dtype=jnp.float32)[1]

    def load_frozen(self) -> Params:
        return {name: self._networks.load(name, self.model.frozen_dtype) for name in FROZEN}

    def abstract_frozen(self) -> Params:
        return {name: self._networks.shapes(name, self.model.frozen_dtype) for name in FROZEN}

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        vggt = self._networks.merge("vggt", jax.lax.stop_gradient(frozen["vggt"]))
        adapter = self._networks.merge("geometry_adapter", trainable)
        video = DiagonalGaussian(batch["video_mean"], batch["video_logvar"])
        frames = clip_frames(video.mean.shape[1])
        packed, depth, points = (batch[name][:, :frames] for name in ("packed", "depth", "points"))
        truth = networks.Geometry(batch["pose_encs"], depth, jnp.ones_like(depth), points)
        noise = jax.vmap(lambda key: jax.random.normal(key, video.mean.shape[1:]))(keys)
        return adapter_loss(self.losses, vggt, adapter, packed, truth, video, noise, self.model.frames_per_group)

    def validate(self, trainable: Params, frozen: Params, batch: Batch, directory: Path, step: int) -> Metrics:
        metrics, views = fetch(self._judge(trainable, frozen, batch["frames"]))
        if jax.process_index() > 0:
            return metrics
        return metrics | adapter_validation.write(directory, np.asarray(batch["frames"]), views)

    def export(self, trainable: Params, directory: Path) -> None:
        configs = self._networks.configs
        save_weights(directory / "geometry_adapter", GeometryAdapter, configs["geometry_adapter"], trainable)
        if not self.weights.dir:  # the adapter means nothing without the random networks that it was trained between
            for name in FROZEN:
                weights = self._networks.load(name, jnp.float32)
                save_weights(directory / name, NETWORKS[name], configs[name], weights)

    def _video(self, frozen: Params, batch: Batch, keys: Key[Array, "b"] | None = None) -> Batch:
        frames = networks.to_unit_range(batch["frames"])
        wan_vae = self._networks.merge("wan_vae", frozen["wan_vae"])
        posterior = networks.encode_video(wan_vae, frames, self.model.vae_chunk_frames or None)
        return {"video_mean": posterior.mean, "video_logvar": posterior.logvar}

    def _tokens(self, frozen: Params, batch: Batch, keys: Key[Array, "b"]) -> Batch:
        return {"packed": video_tokens(self._networks.merge("vggt", frozen["vggt"]), batch["frames"])}

    def _heads(self, frozen: Params, batch: Batch, keys: Key[Array, "b"]) -> Batch:
        """What VGGT's heads read from its own tokens; dense maps again of as many frames as devices can share."""
        frames, packed = batch["frames"].shape[1], batch["packed"]
        vggt = self._networks.merge("vggt", frozen["vggt"])
        truth = networks.decode_tokens(vggt, packed[:, :frames], with_points=self.losses.point > 0)
        filling = ((0, 0), (0, packed.shape[1] - frames), (0, 0), (0, 0))
        depth = jnp.pad(truth.depth, filling)
        points = jnp.zeros((*depth.shape, 0)) if truth.points is None else jnp.pad(truth.points, (*filling, (0, 0)))
        return {"pose_encs": truth.pose_encs, "depth": depth, "points": points}

    @cached_property
    def _judge(self) -> Callable[[Params, Params, Array], tuple[Metrics, adapter_validation.Views]]:
        def judge(trainable: Params, frozen: Params, frames: UInt8[Array, "b t h w 3"]):
            vggt = self._networks.merge("vggt", frozen["vggt"])
            adapter = self._networks.merge("geometry_adapter", trainable)
            video = DiagonalGaussian(*self._video(frozen, {"frames": frames}).values())
            packed = networks.encode_tokens(vggt, networks.to_unit_range(frames))
            return adapter_validation.judge(vggt, adapter, packed, video)

        return jax.jit(judge)

    @cached_property
    def _networks(self) -> Networks:
        changes = {"remat": self.model.remat}
        packed = 10 * Networks(self.model, self.weights.dir).configs["vggt"].embed_dim
        if self.weights.adapter:
            trained = read_config(self.weights.adapter, GeometryAdapter)
            if trained.input_dim != packed:
                raise UserError(
                    f"the adapter in {self.weights.adapter} takes {trained.input_dim} channels, VGGT's packed tokens "
                    f"have {packed}: give the VGGT it was trained with as weights.dir"
                )
            changes = vars(trained) | changes
        else:
            changes["input_dim"] = packed
        return Networks(self.model, self.weights.dir, geometry_adapter=changes)


def adapter_loss(
    weights: LossOptions,
    vggt: VGGT,
    adapter: GeometryAdapter,
    packed: Float[Array, "b t hp wp c"],
    truth: networks.Geometry,
    video: DiagonalGaussian,
    noise: Float[Array, "b f h w c"],
    frames_per_group: int,
) -> tuple[Float[Array, ""], Metrics]:
    """The adapter's loss on VGGT's tokens `packed` of clips whose video latents have the posterior `video`.

    Args:
      truth: what VGGT's heads read from `packed`; points only where their loss has a weight.
      noise: standard normal, draws the adapter's latents.

    Returns:
      The loss and its parts: each term as it is, the three weighted groups (`reconstruction`, `similarity` and
      `alignment`), the Kullback-Leibler divergence with its whole weight, and statistics of both posteriors.
    """
    posterior = adapter.encode(packed)
    features = adapter.decode_features(posterior.sample(noise))
    terms = reconstruction_terms(vggt, adapter, features, packed, truth, frames_per_group, weights.point > 0)
    loss, metrics = weigh(weights, terms, posterior, video)
    return loss, metrics | _statistics("geometry", posterior) | _statistics("video", video)


def weigh(
    weights: LossOptions, terms: dict[str, Float[Array, "b"]], posterior: DiagonalGaussian, video: DiagonalGaussian
) -> tuple[Float[Array, ""], Metrics]:
    """Sums the terms of :func:`reconstruction_terms` and the divergence of the posteriors; means over the samples.

    No gradient passes the adaptive weight of the divergence.
    """
    inner = ["image_token", "camera_token", "camera", "depth"] + ["point"] * (weights.point > 0)
    reconstruction = sum(getattr(weights, name) * terms[f"{name}_loss"] for name in inner)
    groups = {
        "reconstruction": weights.reconstruction * reconstruction,
        "similarity": weights.similarity * (terms["image_distance"] + terms["camera_distance"]),
    }
    if weights.kl != "none":
        kl = kl_divergence(posterior, video if weights.kl == "align" else None).mean(axis=1)
        target = groups["reconstruction"]
        if weights.kl_weight_per == "batch":
            kl, target = kl.mean(), target.mean()
        kl_weight = adaptive_weight(target, kl) * (0.1 * weights.alignment if weights.kl == "align" else 1.0)
        groups["alignment"] = kl_weight * kl
        terms = terms | {"kl": kl, "kl_weight": kl_weight}
    loss = reduce(add, (group.mean() for group in groups.values()))
    return loss, {"loss": loss, **{name: value.mean() for name, value in (terms | groups).items()}}


def reconstruction_terms(
    vggt: VGGT,
    adapter: GeometryAdapter,
    features: Float[Array, "b t h w c"],
    packed: Float[Array, "b t hp wp c"],
    truth: networks.Geometry,
    frames_per_group: int,
    with_points: bool,
) -> dict[str, Float[Array, "b"]]:
    """Compares the tokens decoded from `features`, and what VGGT's heads make of them, with `packed` and `truth`.

    The decoded tokens have ten times the channels of the features. They never exist for the whole clip: frames are
    finished, judged and forgotten in groups, in the backward pass too.
    """
    image_size = (truth.depth.shape[2], truth.depth.shape[3])
    per_frame = jax.vmap(jax.vmap(distance_loss))

    def judge(adapter: GeometryAdapter, group: tuple) -> tuple[dict[str, Float[Array, "b g"]], Float[Array, "b g c"]]:
        features, target, truth_depth, truth_points = group
        decoded, target = (x.astype(jnp.float32) for x in (adapter.output_block(features), target))
        (patches, cameras), (_, truth_cameras) = unpack_tokens(decoded), unpack_tokens(target)
        # The four layers of a patch are one vector, for the similarity too.
        image, truth_image = (x[..., : -cameras.shape[-1]] for x in (decoded, target))
        depth, _ = vggt.depth(patches, image_size, frames_per_group)
        terms = {
            "image_token_loss": smooth_l1(image, truth_image, beta=0.15).mean(axis=(2, 3, 4)),
            "camera_token_loss": smooth_l1(cameras, truth_cameras, beta=0.1).mean(axis=2),
            "image_distance": cosine_distance(image, truth_image).mean(axis=(2, 3)),
            "camera_distance": cosine_distance(cameras, truth_cameras),
            "depth_loss": per_frame(depth[..., None], truth_depth[..., None]),
        }
        if with_points:
            points, _ = vggt.points(patches, image_size, frames_per_group)
            terms["point_loss"] = per_frame(points, truth_points)
        return terms, cameras

    terms, cameras = map_groups(judge, adapter, (features, packed, truth.depth, truth.points), frames_per_group)
    terms = {name: term.mean(axis=1) for name, term in terms.items()}
    # Cameras see each other, so they are judged together. Their errors are averaged over the clip first.
    return terms | {"camera_loss": jax.vmap(camera_loss, in_axes=1)(vggt.camera(cameras), truth.pose_encs)}


def _statistics(name: str, posterior: DiagonalGaussian) -> Metrics:
    """Mean of the means, their spread over the latents, and mean standard deviation."""
    mean, std = posterior.mean, posterior.std
    return {f"{name}_mean": mean.mean(), f"{name}_spread": mean.std(ddof=1), f"{name}_std": std.mean()}
