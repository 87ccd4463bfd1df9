"""Stage 2: the diffusion transformer learns to generate appearance and geometry side by side.

Frozen networks give the latents Z = [A ; G] of a clip, what is known of it (some frames, a caption, cameras) and its
features; the transformer learns the velocity of the straight path between Z and noise (Gen3R, section 3.3). Latents may
also have been encoded before (:mod:`gen3r_jax.encode`); then no frozen network is needed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from conversion.lora import write_lora
from gen3r_jax import module
from gen3r_jax.data.encoded import Header, read_header
from gen3r_jax.diffusion.conditioning import camera_maps, condition, given_condition
from gen3r_jax.errors import UserError
from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.settings import GenerationSettings, SamplingOptions, read_settings
from gen3r_jax.models.registry import NETWORKS
from gen3r_jax.models.sizes import clip_frames
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.models.wan_dit import WanDiT
from gen3r_jax.module import Params
from gen3r_jax.options import Count, Fraction, Natural, Positive
from gen3r_jax.sharding import fetch
from gen3r_jax.stages.dit import flow_matching, tuning
from gen3r_jax.stages.dit import inputs as dit_inputs
from gen3r_jax.stages.dit import validation as dit_validation
from gen3r_jax.stages.dit.generation import generation_programs
from gen3r_jax.stages.dit.inputs import FrameInputs, Inputs, StoredInputs, draw_latents, draw_normal, draw_uniform
from gen3r_jax.stages.dit.tuning import TuningOptions
from gen3r_jax.stages.networks import Networks
from gen3r_jax.stages.options import FolderOptions, FrozenNetworkOptions
from gen3r_jax.stages.random_weights import narrow_posterior
from gen3r_jax.storage.checkpoint import load_network, read_config, save_weights
from gen3r_jax.storage.files import write_json
from gen3r_jax.storage.hashes import write_hashes
from gen3r_jax.storage.remote import is_remote, local_copy
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.program import Program
from gen3r_jax.training.stage import Batch, Encoder, Entry, Metrics, SampleEncoder, Stage

RANDOM = "random"
ENCODERS = ("umt5", "clip_vision", "wan_vae", "vggt", "geometry_adapter")
DECODERS = ("wan_vae", "vggt", "geometry_adapter")


@dataclass(frozen=True)
class ModelOptions(FrozenNetworkOptions):
    """The networks and what is made of them.

    Attributes:
      remat: as of every stage, or "offload".
      latents: "joint": appearance and geometry side by side; "appearance" alone: the paper's "2-Stage" ablation, whose
        geometry VGGT reads from the generated video.
      vae_chunk_frames: so many frames pass the video encoder at a time, a multiple of 4; 0 takes them all.
    """

    remat: module.Remat = "full"
    latents: Literal["joint", "appearance"] = "joint"
    vae_chunk_frames: Natural = 8


@dataclass(frozen=True)
class WeightsOptions(FolderOptions):
    """Where weights come from.

    Attributes:
      wan_dit: folder of a transformer to start from; empty: that in `dir`; "random": none.
      encoded: folder of latents that were encoded before, which is then the data; empty: frames are encoded in each
        step.
    """

    wan_dit: str = ""
    encoded: str = ""


@dataclass(frozen=True)
class ConditionOptions:
    """What a sample is given.

    Attributes:
      text_drop: part of the samples that are trained without their caption.
      camera_drop: part of the samples that are trained without their cameras.
      all_frames: part of the samples that are given every frame, so that their geometry alone is to be found; the rest
        are given the first frame, or the first and the last, equally often.
    """

    text_drop: Fraction = 0.2
    camera_drop: Fraction = 0.5
    all_frames: Fraction = 1 / 3


@dataclass(frozen=True)
class LossOptions:
    """How the errors of the two halves are weighed.

    Attributes:
      geometry: how many times the weight of A's error the error of G has; the weights of both have the mean 1.
      levels: noise levels between 0 and 1 at which a validation tells the error of each half by itself.
    """

    geometry: Positive = 1.0
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if bad := [level for level in self.levels if not 0 < level <= 1]:
            raise UserError(f"losses.levels {bad}: noise levels are above 0 and at most 1")


@dataclass(frozen=True)
class NoiseOptions:
    """Which noise levels are trained; see :mod:`gen3r_jax.stages.dit.flow_matching`.

    Attributes:
      shift: shift of the levels; above 1 more of the noisy ones are trained.
      density: how the levels are drawn.
      weighting: weight of the loss by the level.
      strata: samples i, i + strata, ... of a batch take their levels from the same of so many equal parts of the table,
        so that a batch, a multiple of them, covers it evenly; 1: each from the whole. Of the density "none" only.
    """

    shift: Positive = 2.0
    density: flow_matching.Density = "none"
    weighting: flow_matching.Weighting = "none"
    strata: Count = 8


@dataclass(frozen=True)
class DiTStage(Stage):
    """Trains the diffusion transformer."""

    model: ModelOptions = ModelOptions()
    weights: WeightsOptions = WeightsOptions()
    tuning: TuningOptions = TuningOptions()
    conditions: ConditionOptions = ConditionOptions()
    noise: NoiseOptions = NoiseOptions()
    samples: SamplingOptions = SamplingOptions()
    losses: LossOptions = LossOptions()

    free_keys: ClassVar = ("samples.",)  # they are drawn in a validation alone

    @property
    def entries(self) -> Mapping[str, Entry]:
        return self.inputs.entries

    @property
    def encoders(self) -> tuple[Encoder, ...]:
        return self.inputs.encoders

    @property
    def loss_reads(self) -> tuple[str, ...]:
        posteriors = ("appearance", "given", *(("geometry",) if self.joint else ()))
        return (*dit_inputs.posterior_names(*posteriors), *dit_inputs.FEATURES, "sample_index")

    @property
    def encoded(self) -> str:
        return self.weights.encoded

    def check(self, options: LoopOptions) -> None:
        batch_size, strata = options.train.batch_size, self.noise.strata
        if self.noise.density == "none" and batch_size % strata:
            raise UserError(
                f"train.batch_size {batch_size} is not a multiple of noise.strata {strata}: some noise levels would be "
                "seen more often than others"
            )

    def init(self, key: Key[Array, ""]) -> Params:
        config = self.networks.configs["wan_dit"]
        if self.tuning.mode == "lora":
            return tuning.new_weights(self.tuning, self.networks.shapes("wan_dit", jnp.float32), key)
        return tuning.trainable_part(self.tuning, module.split(WanDiT(config, rngs=nnx.Rngs(key)))[1])

    def load_trainable(self) -> Params | None:
        if self.tuning.mode == "lora" or not (self.weights.wan_dit or self.weights.dir):
            return None
        if self.tuning.mode == "full" and self.weights.wan_dit == RANDOM:
            return None
        return tuning.trainable_part(self.tuning, self._load_dit(jnp.float32))

    def load_frozen(self) -> Params:
        if self.weights.encoded:
            self._refuse_other_weights()
        frozen = {name: self.load(name) for name in self.inputs.frozen}
        if self.weights.dir and not self.weights.encoded:
            Tokenizer.from_folder(local_copy(f"{self.weights.dir}/tokenizer"))
        base = None
        if self.tuning.mode != "full":
            base = tuning.frozen_part(self.tuning, self._load_dit(self.model.frozen_dtype))
        return frozen | ({} if base is None else {"wan_dit": base})

    def abstract_frozen(self) -> Params:
        frozen = {name: self.networks.shapes(name, self.model.frozen_dtype) for name in self.inputs.frozen}
        base = tuning.frozen_part(self.tuning, self.networks.shapes("wan_dit", self.model.frozen_dtype))
        return frozen | ({} if base is None else {"wan_dit": base})

    def prepare(self, batch: Batch) -> Batch:
        return self.inputs.prepare(batch)

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        sigmas = self.levels(batch["sample_index"], keys)
        return self._loss_at(sigmas, trainable, frozen, batch, keys)

    def _loss_at(
        self, sigmas: Float[Array, " b"], trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss at a noise level for each sample."""
        base = jax.lax.stop_gradient(frozen.get("wan_dit"))
        dit = tuning.network(self.tuning, self.networks.graph("wan_dit"), trainable, base)
        clean = draw_latents(batch, "appearance", keys, dit_inputs.APPEARANCE)
        if self.joint:
            clean = jnp.concatenate([clean, draw_latents(batch, "geometry", keys, dit_inputs.GEOMETRY)], axis=3)
        f, h, w = batch["appearance_mean"].shape[1:4]
        mask = dit_inputs.task_masks(clip_frames(f))[dit_inputs.draw_tasks(keys, self.conditions.all_frames)]
        given = draw_latents(batch, "given", keys, dit_inputs.GIVEN)
        given = (condition if self.joint else given_condition)(given, mask)

        known = batch["has_cameras"] & (draw_uniform(keys, dit_inputs.CAMERAS) >= self.conditions.camera_drop)
        maps = camera_maps(batch["intrinsics"], batch["c2w"], (8 * h, 8 * w))
        cameras = dit.encode_cameras(maps * known[:, None, None, None, None], repeat=2 if self.joint else 1)

        noise = draw_normal(keys, dit_inputs.NOISE, clean.shape[1:])
        noisy = flow_matching.add_noise(clean, noise, sigmas)
        context = dit.encode_context(batch["text"], batch["image"])
        predicted = dit(noisy, given, 1000 * sigmas, context, cameras)
        target = flow_matching.velocity(clean, noise)
        weight = flow_matching.loss_weight(self.noise.weighting, sigmas)
        metrics: Metrics = {"sigma": sigmas.mean()}
        if not self.joint:
            return flow_matching.velocity_loss(predicted, target, weight).mean(), metrics
        halves = zip(jnp.split(predicted, 2, axis=3), jnp.split(target, 2, axis=3), strict=True)
        appearance, geometry = (flow_matching.velocity_loss(found, wanted, weight).mean() for found, wanted in halves)
        metrics |= {"appearance_loss": appearance, "geometry_loss": geometry}
        if self.losses.geometry == 1:
            return flow_matching.velocity_loss(predicted, target, weight).mean(), metrics
        share = self.losses.geometry / (1 + self.losses.geometry)
        return (1 - share) * appearance + share * geometry, metrics

    def validate(self, trainable: Params, frozen: Params, batch: Batch, directory: Path, step: int) -> Metrics:
        def network(name: str) -> Network:
            if name == "wan_dit":
                return self.networks.graph(name), self.whole(trainable, frozen)
            return self.networks.graph(name), frozen[name] if name in frozen else self.load(name)

        return dit_validation.validate(
            self.sampling,
            self.inputs,
            frozen,
            batch,
            directory,
            losses=lambda stored, no_text: self._validation_losses(trainable, frozen, stored, no_text),
            network=network,
            joint=self.joint,
            shift=self.noise.shift,
        )

    def export(self, trainable: Params, directory: Path) -> None:
        base = None if self.tuning.mode == "full" else tuning.frozen_part(self.tuning, self._load_dit(jnp.float32))
        params = tuning.merged(self.tuning, trainable, base)
        save_weights(directory / "wan_dit", WanDiT, self.networks.configs["wan_dit"], params)
        first = jax.process_index() == 0
        if self.tuning.mode == "lora":
            factors = fetch(trainable)
            if first:
                write_lora(directory, factors, self.tuning.scale)
        if not self.weights.dir:  # the transformer means nothing without the random networks that it was trained with
            for name in ENCODERS:
                params = self.load(name, "float32")
                save_weights(directory / name, NETWORKS[name], self.networks.configs[name], params)
        if not self.weights.dir and first:
            Tokenizer.tiny().save(directory / "tokenizer")
            write_json(directory / "scheduler.json", {"shift": self.noise.shift})
            write_hashes(directory)

    def sample_encoder(self) -> SampleEncoder:
        return super().sample_encoder() if self.encoded else self.inputs

    def generation_programs(self, num_frames: int, side: int, mesh: Mesh) -> list[Program]:
        settings = self.sampling.take(num_frames=num_frames, height=side, width=side)
        return generation_programs(self.networks, self.model.frozen_dtype, settings, mesh)

    def whole(self, trainable: Params, frozen: Params) -> Params:
        """All weights of the transformer."""
        return tuning.merged(self.tuning, trainable, frozen.get("wan_dit"))

    @cached_property
    def _validation_losses(self) -> Callable[[Params, Params, Batch, Array], Metrics]:
        """(trainable, frozen, what is stored of samples, features of no text) -> losses with noise of their own."""

        def losses(trainable: Params, frozen: Params, stored: Batch, no_text: Array) -> Metrics:
            count = len(stored["has_cameras"])
            keys = jax.vmap(jax.random.key)(jnp.arange(count))
            chosen = dit_inputs.choose(stored, no_text, keys, self.conditions.text_drop, self.conditions.all_frames)
            batch = {**stored, **chosen, "sample_index": jnp.arange(count)}
            metrics: Metrics = {"loss": self.loss(trainable, frozen, batch, keys)[0]}
            for level in self.losses.levels:
                found = self._loss_at(jnp.full(count, level), trainable, frozen, batch, keys)[1]
                metrics |= {f"{name}@{level:g}": found[name] for name in found if name != "sigma"}
            return metrics

        return jax.jit(losses)

    def levels(self, sample_index: Int[Array, " b"], keys: Key[Array, "b"]) -> Float[Array, " b"]:
        """The noise level sigma of each sample."""
        sigmas = flow_matching.training_table(shift=self.noise.shift)[1]
        if self.noise.density == "logit_normal":
            draw = draw_normal(keys, dit_inputs.LEVEL, ())
        else:
            strata = self.noise.strata if self.noise.density == "none" else 1
            draw = (sample_index % strata + draw_uniform(keys, dit_inputs.LEVEL)) / strata
        place = flow_matching.density(self.noise.density, draw)
        return jnp.asarray(sigmas)[jnp.clip(jnp.floor(len(sigmas) * place), 0, len(sigmas) - 1).astype(jnp.int32)]

    def load(self, name: str, dtype: str = "") -> Params:
        """The weights of a frozen network, by default in their dtype."""
        params = self.networks.load(name, dtype or self.model.frozen_dtype)
        random_autoencoder = not self.weights.dir and name in ("wan_vae", "geometry_adapter")
        return narrow_posterior(params) if random_autoencoder else params

    def _refuse_other_weights(self) -> None:
        """What decodes samples must belong to what encoded the latents."""
        if self.joint and not self.header.joint:
            holds = f"{self.weights.encoded} holds latents of appearance alone"
            raise UserError(f"{holds}, config.model.latents is {self.model.latents!r}")
        if self.sampling.negative_prompt not in self.header.texts:
            known = ", ".join(map(repr, self.header.texts))
            raise UserError(
                f"{self.weights.encoded} has no features of config.samples.negative_prompt "
                f"{self.sampling.negative_prompt!r}, but of {known}; give one of these, or encode again"
            )
        if not self.sampling.num_inference_steps:
            return
        for name in DECODERS:
            known, here = self.header.networks.get(name), module.fingerprint(fetch(self.load(name)))
            if known is not None and known != here:
                raise UserError(
                    f"{self.weights.encoded} was encoded with other weights of {name} than those of config.weights.dir "
                    f"(fingerprint {known}, here {here}): give the same, in the same config.model.frozen_dtype, or "
                    "encode again"
                )

    def _load_dit(self, dtype: str) -> Params:
        if self.weights.wan_dit == RANDOM:
            raise UserError(f'weights.wan_dit="{RANDOM}" is for config.tuning.mode="full": nothing is there to tune')
        if self.weights.wan_dit:
            return load_network(self.weights.wan_dit, WanDiT, dtype=dtype)[1]
        return self.networks.load("wan_dit", dtype)

    @cached_property
    def sampling(self) -> GenerationSettings:
        """How a validation draws samples: as the weights' folder says, and otherwise as the config does."""
        known = self.weights.dir and not is_remote(self.weights.dir)
        settings = read_settings(Path(self.weights.dir)) if known else GenerationSettings()
        return settings.take(**vars(self.samples))

    @property
    def joint(self) -> bool:
        return self.model.latents == "joint"

    @cached_property
    def header(self) -> Header:
        """Of the latents that were encoded before."""
        return read_header(local_copy(self.weights.encoded))

    @cached_property
    def inputs(self) -> Inputs:
        drops = {"text_drop": self.conditions.text_drop, "all_frames": self.conditions.all_frames}
        if self.weights.encoded:
            texts = {text: features.astype(np.float32) for text, features in self.header.texts.items()}
            return StoredInputs(self.networks.configs["wan_dit"], texts, joint=self.joint, **drops)
        return FrameInputs(
            self.networks,
            self._tokenizer,
            joint=self.joint,
            texts=("", self.sampling.negative_prompt),
            chunk_frames=self.model.vae_chunk_frames or None,
            **drops,
        )

    @property
    def _tokenizer(self) -> Tokenizer:
        if self.weights.dir and epath.Path(self.weights.dir).exists():
            return Tokenizer.from_folder(local_copy(f"{self.weights.dir}/tokenizer"))
        return Tokenizer.tiny()  # for random networks, and to plan for weights that are not here

    @cached_property
    def networks(self) -> Networks:
        start, changes = self.weights.wan_dit, {"shared_halves": self.joint, "remat": self.model.remat}
        if start not in ("", RANDOM):
            changes = vars(self.model.config("wan_dit", read_config(start, WanDiT))) | changes
        fresh = ("wan_dit",) if start else ()
        return Networks(self.model, self.weights.dir, fresh=fresh, wan_dit=changes)
