"""Trains a small VGGT from nothing, on scenes whose cameras and depth are exact; Gen3R itself takes the official one.

Losses are those of VGGT's paper, in units of each scene: pose encodings after every refinement; depth (as logarithms)
and points in the first camera's coordinates, both weighed by their predicted confidence. Two more stand for its loss of
tracks: a patch of a later frame has to attend to its place in the first one, and its token has to say where that is. In
short runs on one core rotations did not leave the identity before such losses were there.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial, reduce
from operator import add
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Key

from gen3r_jax import module
from gen3r_jax.arrays import picture_size
from gen3r_jax.errors import UserError
from gen3r_jax.generation import networks
from gen3r_jax.models.vggt import SPECIAL_TOKENS, VGGT, VGGTConfig
from gen3r_jax.module import Params
from gen3r_jax.options import Natural, NonNegative
from gen3r_jax.sharding import fetch
from gen3r_jax.stages.adapter.losses import Penalty, camera_loss
from gen3r_jax.stages.options import NetworkOptions
from gen3r_jax.stages.vggt import validation as vggt_validation
from gen3r_jax.stages.vggt.clips import Clip, Sample, SampleOptions, draw_samples
from gen3r_jax.stages.vggt.losses import (
    attention_scores,
    confidence_loss,
    gradient_loss,
    match_loss,
    places_in_first,
    track_loss,
)
from gen3r_jax.stages.vggt.start import begin
from gen3r_jax.storage.checkpoint import load_network, read_config, save_weights
from gen3r_jax.training.stage import Batch, Entry, Metrics, Stage

MATCHING = 1  # index of the kept layer whose attention is taught to match, and whose patches say what they found
TRACK = "track_head"  # the linear layer of that; it is trained along and thrown away


@dataclass(frozen=True)
class WeightsOptions:
    """vggt: folder of a network to start from; empty: random weights."""

    vggt: str = ""


@dataclass(frozen=True)
class LossOptions:
    """Weights of the terms; a term of weight 0 costs nothing.

    Attributes:
      camera: weight of the errors of the pose encodings.
      camera_penalty: how these errors count: "l1", "l2" (norms), "smooth_l1" or "huber".
      depth, points: weights of the errors of logarithms of depth, and of points.
      gradient: weight of the errors of the difference of neighbouring log-depths, beside `depth`.
      confidence: weight alpha of the term -alpha log(confidence).
      match: weight of the attention of a patch that its place in the first frame does not get.
      track: weight of the distance, in patches, of where the patch says that its place in the first frame is.
      dense_frames: depth and points are judged in so many frames of each sample, drawn at random; 0: in all.
    """

    camera: NonNegative = 5.0
    camera_penalty: Penalty = "l1"
    depth: NonNegative = 1.0
    points: NonNegative = 1.0
    gradient: NonNegative = 0.5
    confidence: NonNegative = 0.2
    match: NonNegative = 1.0
    track: NonNegative = 1.0
    dense_frames: Natural = 1


@dataclass(frozen=True)
class VGGTStage(Stage):
    """Trains VGGT; it needs cameras and depth."""

    model: NetworkOptions = NetworkOptions()
    weights: WeightsOptions = WeightsOptions()
    samples: SampleOptions = SampleOptions()
    losses: LossOptions = LossOptions()

    entries: ClassVar = {
        "frames": Entry("t h w 3", np.uint8),
        "c2w": Entry("t 4 4", np.float32),
        "intrinsics": Entry("t 3 3", np.float32),
        "depth": Entry("t h w", np.float16),
    }
    loss_reads: ClassVar = ("frames", "c2w", "intrinsics", "depth")

    def init(self, key: Key[Array, ""]) -> Params:
        params = begin(module.split(VGGT(self._config, rngs=nnx.Rngs(key)))[1], jax.random.fold_in(key, 1))
        params[TRACK] = self._track()
        # Weakly typed leaves would have the second step compiled again.
        return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.dtype("float32")), params)

    def load_trainable(self) -> Params | None:
        if not self.weights.vggt:
            return None
        return load_network(self.weights.vggt, VGGT, dtype=jnp.float32)[1] | {TRACK: self._track()}

    def prepare(self, batch: Batch) -> Batch:
        if "depth" not in batch:
            raise UserError("this stage trains on exact depth, and the data has none; give --config.data.depth=True")
        if not np.all(batch.get("has_cameras", True)):
            raise UserError("this stage trains on exact cameras, and scenes of the data have none; take other data")
        if batch["frames"].shape[1] < 2:
            raise UserError("one frame has no relative pose; train with 5 frames or more")
        return batch

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        sample_keys, frame_keys = (jax.vmap(lambda key, i=i: jax.random.fold_in(key, i))(keys) for i in range(2))
        sample = draw_samples(Clip(*(batch[name] for name in self.loss_reads)), sample_keys, self.samples)
        keys = jax.vmap(lambda key: jax.random.split(key, self.samples.per_clip))(frame_keys).ravel()
        return vggt_loss(self.losses, self._network(trainable), trainable[TRACK], sample, keys)

    def validate(self, trainable: Params, frozen: Params, batch: Batch, directory: Path, step: int) -> Metrics:
        """Judges whole clips, see :mod:`gen3r_jax.stages.vggt.validation`."""
        predicted = fetch(self._predict(trainable, batch["frames"]))
        if jax.process_index() > 0:
            return {}
        clips = {name: np.asarray(batch[name]) for name in self.loss_reads}
        return {**vggt_validation.judge(directory, clips, *predicted)}

    def export(self, trainable: Params, directory: Path) -> None:
        save_weights(directory / "vggt", VGGT, self._config, _without_track(trainable))

    def _track(self) -> Params:
        return {"kernel": jnp.zeros((self._config.embed_dim, 2)), "bias": jnp.zeros(2)}

    def _network(self, trainable: Params) -> VGGT:
        return module.merge(self._graph, _without_track(trainable))

    @cached_property
    def _predict(self) -> Callable[[Params, Array], tuple[Float[Array, "b t 9"], Float[Array, "b t h w"]]]:
        def predict(trainable: Params, frames: Array) -> tuple[Array, Array]:
            vggt = self._network(trainable)

            def one(clip: Array) -> tuple[Array, Array]:
                tokens = vggt.aggregate(networks.to_unit_range(clip[None]))
                depth, _ = vggt.depth(tokens[..., SPECIAL_TOKENS:, :], picture_size(clip))
                return vggt.camera(tokens[-1, :, :, 0])[-1, 0], depth[0]

            return jax.lax.map(one, frames)

        return jax.jit(predict)

    @cached_property
    def _graph(self) -> nnx.GraphDef:
        return module.abstract(lambda rngs: VGGT(self._config, rngs=rngs))[0]

    @cached_property
    def _config(self) -> VGGTConfig:
        start = self.weights.vggt
        found = self.model.config("vggt", read_config(start, VGGT) if start else None)
        if self.losses.points and not found.point_head:
            raise UserError("losses.points needs a network with a point head; give --config.losses.points=0")
        return replace(found, remat=self.model.remat)


def _without_track(trainable: Params) -> Params:
    return {name: params for name, params in trainable.items() if name != TRACK}


def vggt_loss(
    weights: LossOptions, vggt: VGGT, track: Params, sample: Sample, keys: Key[Array, "b"]
) -> tuple[Float[Array, ""], Metrics]:
    """The loss of samples and its parts; every sample counts alike, however much of it is known or seen.

    track: the linear layer that says where patches go. keys: draw the frames whose dense maps are judged.
    """
    tokens = vggt.aggregate(sample.images)
    patches = tokens[..., SPECIAL_TOKENS:, :]
    terms = {}
    if weights.camera:
        target = jnp.broadcast_to(sample.pose_enc, (vggt.camera_head.ITERATIONS, *sample.pose_enc.shape))
        terms["camera"] = camera_loss(vggt.camera(tokens[-1, :, :, 0]), target, weights.camera_penalty, beta=0.1)
    if weights.match or weights.track:
        size, config = picture_size(sample.images), vggt.config
        find = jax.vmap(lambda points, depth, k: places_in_first(points, depth, k, config.patch_size))
        places, seen = find(sample.points, sample.depth, sample.intrinsics[:, 0])
        seen = seen.at[:, 0].set(False)  # its own places would be too easy
        count = jnp.maximum(seen.sum(axis=(1, 2, 3)), 1)
        if weights.match:
            within = tokens[MATCHING, ..., : config.embed_dim]
            scores = attention_scores(vggt.aggregator, within, config.layers[MATCHING], size)
            terms["match"] = (jax.vmap(match_loss)(scores, places, seen).sum(axis=(1, 2, 3)) / count).mean()
        if weights.track:
            x = patches[MATCHING, ..., config.embed_dim :].reshape(*seen.shape, -1).astype(jnp.float32)
            moves = x @ track["kernel"].astype(jnp.float32) + track["bias"].astype(jnp.float32)
            terms["track"] = (jax.vmap(track_loss)(moves, places, seen).sum(axis=(1, 2, 3)) / count).mean()
    if weights.depth or weights.points:
        total = sample.images.shape[1]
        count = weights.dense_frames or total
        chosen = jax.vmap(lambda key: jnp.sort(jax.random.permutation(key, total)[:count]))(keys)  # [b n]
        pick = jax.vmap(lambda x, i: x[i])
        terms |= dense_terms(
            weights,
            vggt,
            jax.vmap(pick, in_axes=(0, None))(patches, chosen),
            *(pick(x, chosen) for x in (sample.depth, sample.points, sample.known)),
        )
    loss = reduce(add, (getattr(weights, name) * term for name, term in terms.items()), jnp.zeros(()))
    return loss, {f"{name}_loss": term for name, term in terms.items()}


def dense_terms(
    weights: LossOptions,
    vggt: VGGT,
    patches: Float[Array, "4 b n p c"],
    depth: Float[Array, "b n h w"],
    points: Float[Array, "b n h w 3"],
    known: Bool[Array, "b n h w"],
) -> dict[str, Float[Array, ""]]:
    """The terms of depth and points in frames with the tokens `patches`."""
    terms, size = {}, (depth.shape[2], depth.shape[3])
    confident = jax.vmap(partial(confidence_loss, alpha=weights.confidence))
    if weights.depth:
        predicted, confidence = vggt.depth(patches, size)
        predicted, target = (jnp.log(jnp.maximum(x, 1e-3)) for x in (predicted, depth))
        terms["depth"] = confident(predicted[..., None], target[..., None], confidence, known).mean()
        terms["gradient"] = jax.vmap(gradient_loss)(predicted, target, known).mean()
    if weights.points:
        predicted, confidence = vggt.points(patches, size)
        terms["points"] = confident(predicted, points, confidence, known).mean()
    return terms
