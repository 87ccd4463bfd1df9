"""What the diffusion transformer is trained on: latents and features of clips, encoded in each step or before.

Entries of a sample (f = (t - 1) / 4 + 1 latent frames, sides h and w of an eighth of the frames'):

* ``appearance_*``, ``geometry_*`` [f h w 16]: posteriors (``mean`` and ``logvar``) of A and G;
* ``given_*``: posterior of the latents of the clip in which frames that are not given are black; stored are ``1view_*``
  and ``2view_*``, one for each task, while that of "allview" is the posterior of A;
* ``text`` [n c], ``image`` [257 c]: features of the caption and of the first frame;
* ``c2w`` [t 4 4], ``intrinsics`` [t 3 3], ``has_cameras``.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from gen3r_jax.diffusion.tasks import TASKS, frame_mask, given_frames
from gen3r_jax.generation import networks
from gen3r_jax.models.causal_autoencoder import DiagonalGaussian
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.models.wan_dit import WanDiTConfig
from gen3r_jax.module import Params
from gen3r_jax.stages.networks import Networks, video_tokens
from gen3r_jax.training.stage import FRAMES, Axes, Batch, Encoder, Entry, SampleEncoder

# What a sample's key is folded with for each of its random numbers.
TASK, CAMERAS, TEXT, LEVEL, NOISE, APPEARANCE, GEOMETRY, GIVEN = range(8)

LATENTS: Axes = ("batch",)
CAMERAS_OF_CLIP = {
    "c2w": Entry("t 4 4", np.float32),
    "intrinsics": Entry("t 3 3", np.float32),
    "has_cameras": Entry("", np.bool_),
}
FEATURES = ("text", "image", *CAMERAS_OF_CLIP)


class Inputs(SampleEncoder, Protocol):
    """Where a step has its latents and features from."""

    @property
    def entries(self) -> Mapping[str, Entry]: ...

    @property
    def encoders(self) -> tuple[Encoder, ...]: ...


class FrameInputs:
    """Encodes frames and captions in each step.

    Args:
      joint, texts: as of :class:`gen3r_jax.training.stage.SampleEncoder`.
      chunk_frames: of the video encoder, see :meth:`gen3r_jax.models.wan_vae.WanVAE.encode`.
      text_drop, all_frames: as of :class:`gen3r_jax.stages.dit.stage.ConditionOptions`.
    """

    def __init__(
        self,
        networks: Networks,
        tokenizer: Tokenizer,
        *,
        joint: bool,
        texts: Sequence[str],
        chunk_frames: int | None,
        text_drop: float,
        all_frames: float,
    ):
        self._networks, self._tokenizer = networks, tokenizer
        self.joint, self.texts = joint, texts
        self._chunk_frames, self._text_drop, self._all_frames = chunk_frames, text_drop, all_frames
        length = networks.configs["wan_dit"].text_len
        tokens = {"text_ids": Entry(f"{length}", np.int32), "text_mask": Entry(f"{length}", np.bool_)}
        self.entries = {"frames": FRAMES, **tokens, **CAMERAS_OF_CLIP}
        self.frozen = ("umt5", "clip_vision", "wan_vae", *(("vggt", "geometry_adapter") if joint else ()))

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        video = dict.fromkeys(posterior_names("appearance", "given"), LATENTS)
        geometry = dict.fromkeys(posterior_names("geometry"), LATENTS)
        both = (
            Encoder("tokens", self._tokens, reads=("frames",), writes={"packed": ("batch", "frames")}),
            Encoder("geometry", self._geometry, reads=("frames", "packed"), writes=geometry),
        )
        return (
            Encoder("video", self._video, reads=("frames",), writes=video),
            *(both if self.joint else ()),
            Encoder("text", self._text, reads=("text_ids", "text_mask"), writes={"text": LATENTS}),
            Encoder("image", self._image, reads=("frames",), writes={"image": LATENTS}),
        )

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        ids, mask = self._tokenize(batch["caption"])
        return {**batch, "text_ids": ids, "text_mask": mask}

    def encode_all(self, frozen: Params, batch: Batch) -> Batch:
        reads = {name: batch[name] for name in self.entries}
        entries = dict(self._programs["videos"](frozen, reads))
        if self.joint:
            packed = self._programs["tokens"](frozen, reads)
            entries |= self._programs["geometry"](frozen, reads | packed)
        texts = self.encode_texts(frozen, batch["caption"])
        image = self._programs["image"](frozen, reads)
        return entries | {"text": texts} | image | {name: batch[name] for name in CAMERAS_OF_CLIP}

    def encode_texts(self, frozen: Params, texts: Sequence[str]) -> Float[Array, "b n c"]:
        return self._programs["texts"](frozen, *self._tokenize(texts))

    @cached_property
    def _programs(self) -> dict[str, Callable]:
        def without_keys(encode: Callable) -> Callable:
            return jax.jit(lambda frozen, batch: encode(frozen, batch, None))

        encoders = {"tokens": self._tokens, "geometry": self._geometry, "image": self._image}
        programs = {name: without_keys(encode) for name, encode in encoders.items()}
        return programs | {"videos": jax.jit(self._videos), "texts": jax.jit(self._texts)}

    def _tokenize(self, texts: Sequence[str]) -> tuple[Int[np.ndarray, "b n"], Bool[np.ndarray, "b n"]]:
        return self._tokenizer(list(texts), self._networks.configs["wan_dit"].text_len, warn=False)

    def _video(self, frozen: Params, batch: Batch, keys: Key[Array, "b"]) -> Batch:
        frames = batch["frames"]
        given = task_masks(frames.shape[1])[draw_tasks(keys, self._all_frames)]
        masks = jnp.stack([jnp.ones(frames.shape[:2], bool), given], axis=1)
        return self._posteriors(frozen, frames, masks, ("appearance", "given"))

    def _videos(self, frozen: Params, batch: Batch) -> Batch:
        frames = batch["frames"]
        masks = task_masks(frames.shape[1])[jnp.array([TASKS.index(task) for task in ("allview", "1view", "2view")])]
        masks = jnp.broadcast_to(masks, (len(frames), *masks.shape))
        return self._posteriors(frozen, frames, masks, ("appearance", "1view", "2view"))

    def _posteriors(
        self, frozen: Params, frames: UInt8[Array, "b t h w 3"], masks: Bool[Array, "b m t"], names: tuple[str, ...]
    ) -> Batch:
        """Latents of clips in which frames that are not seen are black, for m masks: one call of the encoder."""
        clips = networks.to_unit_range(frames)[:, None] * masks[..., None, None, None]
        wan_vae = self._networks.merge("wan_vae", frozen["wan_vae"])
        posterior = networks.encode_video(wan_vae, clips.reshape(-1, *clips.shape[2:]), self._chunk_frames)
        parts = {"mean": posterior.mean, "logvar": posterior.logvar}
        by_mask = {part: x.reshape(*masks.shape[:2], *x.shape[1:]) for part, x in parts.items()}
        return {f"{name}_{part}": x[:, i] for i, name in enumerate(names) for part, x in by_mask.items()}

    def _tokens(self, frozen: Params, batch: Batch, keys: Key[Array, "b"] | None) -> Batch:
        return {"packed": video_tokens(self._networks.merge("vggt", frozen["vggt"]), batch["frames"])}

    def _geometry(self, frozen: Params, batch: Batch, keys: Key[Array, "b"] | None) -> Batch:
        adapter = self._networks.merge("geometry_adapter", frozen["geometry_adapter"])
        posterior = adapter.encode(batch["packed"][:, : batch["frames"].shape[1]])
        return {"geometry_mean": posterior.mean, "geometry_logvar": posterior.logvar}

    def _text(self, frozen: Params, batch: Batch, keys: Key[Array, "b"]) -> Batch:
        drop = draw_uniform(keys, TEXT)[:, None] < self._text_drop
        nothing = self._tokenize([""])
        given = batch["text_ids"], batch["text_mask"]
        ids, mask = (jnp.where(drop, empty, text) for empty, text in zip(nothing, given, strict=True))
        return {"text": self._texts(frozen, ids, mask)}

    def _texts(self, frozen: Params, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]) -> Float[Array, "b n c"]:
        return self._networks.merge("umt5", frozen["umt5"])(ids, mask).astype(jnp.float32)

    def _image(self, frozen: Params, batch: Batch, keys: Key[Array, "b"] | None) -> Batch:
        images = networks.to_unit_range(batch["frames"][:, 0])
        return {"image": self._networks.merge("clip_vision", frozen["clip_vision"])(images).astype(jnp.float32)}


class StoredInputs:
    """Takes what :mod:`gen3r_jax.encode` stored.

    Args:
      config: of the transformer, whose features they are.
      texts: features of the texts that are not those of samples: of none, "", and of negative prompts.
      joint, text_drop, all_frames: as of :class:`FrameInputs`.
    """

    frozen = ()

    def __init__(
        self,
        config: WanDiTConfig,
        texts: Mapping[str, Float[np.ndarray, "n c"]],
        *,
        joint: bool,
        text_drop: float,
        all_frames: float,
    ):
        self._given, self._text_drop, self._all_frames = texts, text_drop, all_frames
        self.joint, self.texts = joint, tuple(texts)
        names = posterior_names("appearance", "1view", "2view", *(("geometry",) if joint else ()))
        self.entries = {
            **dict.fromkeys(names, Entry("f y x 16", np.float32)),
            "text": Entry(f"{config.text_len} {config.text_dim}", np.float32),
            "image": Entry(f"257 {config.image_dim}", np.float32),
            **CAMERAS_OF_CLIP,
        }

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        writes = dict.fromkeys((*posterior_names("given"), "text"), LATENTS)
        reads = (*posterior_names("appearance", "1view", "2view"), "text")
        return (Encoder("choose", self._choose, reads=reads, writes=writes),)

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        return batch

    def encode_all(self, frozen: Params, batch: Batch) -> Batch:
        return {name: batch[name] for name in self.entries}

    def encode_texts(self, frozen: Params, texts: Sequence[str]) -> Float[np.ndarray, "b n c"]:
        return np.stack([self._given[text] for text in texts])

    def _choose(self, frozen: Params, batch: Batch, keys: Key[Array, "b"]) -> Batch:
        return choose(batch, jnp.asarray(self._given[""]), keys, self._text_drop, self._all_frames)


def choose(
    stored: Batch, no_text: Float[Array, "n c"], keys: Key[Array, "b"], text_drop: float, all_frames: float
) -> Batch:
    """From what is stored of samples, the posterior of what their drawn tasks give, and their text or none."""
    task = draw_tasks(keys, all_frames)[:, None, None, None, None]
    first, ends, everything = (TASKS.index(name) for name in ("1view", "2view", "allview"))
    given = {
        f"given_{part}": jnp.select(
            [task == first, task == ends, task == everything],
            [stored[f"1view_{part}"], stored[f"2view_{part}"], stored[f"appearance_{part}"]],
        )
        for part in ("mean", "logvar")
    }
    drop = draw_uniform(keys, TEXT)[:, None, None] < text_drop
    return {**given, "text": jnp.where(drop, no_text, stored["text"])}


def posterior_names(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}_{part}" for name in names for part in ("mean", "logvar"))


def draw_latents(batch: Batch, name: str, keys: Key[Array, "b"], use: int) -> Float[Array, "b f h w 16"]:
    """A sample from a posterior."""
    posterior = DiagonalGaussian(batch[f"{name}_mean"], batch[f"{name}_logvar"])
    return posterior.sample(draw_normal(keys, use, posterior.mean.shape[1:]))


def draw_tasks(keys: Key[Array, "b"], all_frames: float) -> Int[Array, " b"]:
    """Which of ``TASKS`` each sample is trained for: a part of them "allview", the others equally often."""
    draw, edge = draw_uniform(keys, TASK), (1 - all_frames) / 2
    task = jnp.where(draw > 1 - edge, TASKS.index("2view"), TASKS.index("allview"))
    return jnp.where(draw < edge, TASKS.index("1view"), task)


def task_masks(num_frames: int) -> Bool[Array, "3 t"]:
    """Which frames each of ``TASKS`` gives."""
    return jnp.asarray(np.stack([frame_mask(given_frames(task, num_frames), num_frames) for task in TASKS]))


def draw_uniform(keys: Key[Array, "b"], use: int) -> Float[Array, " b"]:
    return jax.vmap(lambda key: jax.random.uniform(jax.random.fold_in(key, use)))(keys)


def draw_normal(keys: Key[Array, "b"], use: int, shape: tuple[int, ...]) -> Float[Array, "b *s"]:
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, use), shape))(keys)
