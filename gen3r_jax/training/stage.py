"""What the training loop asks of a stage: the only thing it knows about what is being trained."""

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Key

from gen3r_jax.errors import UserError
from gen3r_jax.models.sizes import PIXELS_PER_LATENT, latent_frames
from gen3r_jax.module import Params
from gen3r_jax.ops.leaves import AnyArray
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.program import Program

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array | float]


# Logical names of the axes of an array, see gen3r_jax.sharding.
Axes = tuple[str | None, ...]


@dataclass(frozen=True)
class Entry:
    """An entry of a batch that goes to the devices.

    Attributes:
      shape: of one sample, as the annotations write it: "t h w 3". Letters are sizes of the clip: t frames of h x w
        pixels, whose latents are f y x.
      axes: logical names of the axes, the batch's first; those that are not named are not divided.
    """

    shape: str
    dtype: Any
    axes: Axes = ("batch",)

    def sample(self, num_frames: int, side: int) -> jax.ShapeDtypeStruct:
        """One sample of square clips, to compile for a batch that is not there."""
        latent_side = side // PIXELS_PER_LATENT
        sizes = {"t": num_frames, "h": side, "w": side}
        sizes |= {"f": latent_frames(num_frames), "y": latent_side, "x": latent_side}
        return jax.ShapeDtypeStruct(tuple(sizes.get(size) or int(size) for size in self.shape.split()), self.dtype)


FRAMES = Entry("t h w 3", np.uint8, ("batch", "frames"))
"""The frames of a clip as the loader gives them, divided among devices that share a sample."""


@dataclass(frozen=True)
class Encoder:
    """A part of a step that needs no gradient: a program of its own, run once for every micro-batch.

    Programs of their own compile faster, and what one needs of memory is free again for the next.

    Attributes:
      function: (frozen, the entries that it reads, keys) -> the entries that it adds.
      reads: names of entries of the batch, or of what encoders before this one added.
      writes: the axes of each entry that it adds.
    """

    name: str
    function: Callable[[Params, Batch, Key[Array, "b"]], Batch]
    reads: tuple[str, ...]
    writes: Mapping[str, Axes]


class SampleEncoder(Protocol):
    """Encodes samples once, before a training; :mod:`gen3r_jax.encode` writes what it gives.

    frozen: names of the networks that it needs. texts: those that are encoded and belong to no sample.
    joint: whether there is geometry beside appearance.
    """

    @property
    def frozen(self) -> tuple[str, ...]: ...

    @property
    def texts(self) -> Sequence[str]: ...

    @property
    def joint(self) -> bool: ...

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the host does to a batch."""
        ...

    def encode_all(self, frozen: Params, batch: Batch) -> Batch:
        """Everything that is stored of the samples of a prepared batch."""
        ...

    def encode_texts(self, frozen: Params, texts: Sequence[str]) -> Float[AnyArray, "b n c"]:
        """Features of texts."""
        ...


class Stage(abc.ABC):
    """One training task: which weights are trained, which are frozen, the batch it reads and the loss.

    A stage class is a frozen dataclass. Each field is one group of the config and is itself a frozen dataclass
    (``model: ModelOptions`` reads ``config.model``), filled by :func:`gen3r_jax.options.read_options`. Everything below
    may be called under ``jax.set_mesh``.

    Keys are one a sample, made from (seed, step, index of the sample in the whole batch): draw all noise per sample,
    ``jax.vmap(draw)(keys)``, and it does not depend on the micro-batch size, the mesh or the number of processes. All
    encoders and the loss get the same keys.

    entries: what of a batch goes to the devices; what is not named here stays on the host.
    encoders: what is computed of a batch without a gradient, in this order.
    loss_reads: names of the entries that the loss reads.
    encoded: folder of samples that were encoded before, which are then the data; empty: the data are frames.
    free_keys: beginnings of the keys of this stage's groups that may change when a run goes on, see
        :mod:`gen3r_jax.training.workdir`.
    """

    entries: Mapping[str, Entry]
    encoders: tuple[Encoder, ...] = ()
    loss_reads: tuple[str, ...]
    encoded: str = ""
    free_keys: tuple[str, ...] = ()

    def check(self, options: LoopOptions) -> None:  # noqa: B027 - most have nothing to check
        """Raises UserError where the run's options do not fit the stage's own."""

    @abc.abstractmethod
    def init(self, key: Key[Array, ""]) -> Params:
        """Random fp32 trainable parameters. Called inside ``jit``, so it must not touch files."""

    def load_trainable(self) -> Params | None:
        """Weights to start from instead of :meth:`init`, or None. Raises UserError when they are missing or misfit."""
        return None

    def load_frozen(self) -> Params:
        """The weights that stay as they are, bf16 where the network allows. Raises UserError when they are missing."""
        return {}

    def abstract_frozen(self) -> Params:
        """Shapes and dtypes of :meth:`load_frozen`, without reading any weights."""
        return {}

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the host does to a batch of the loader before it is split and placed, such as tokenizing texts."""
        return batch

    @abc.abstractmethod
    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss of one micro-batch (fp32 scalar) and scalar metrics; both are means over the samples.

        `trainable` is already in the compute dtype; `batch` holds the entries of ``loss_reads``.
        """

    @abc.abstractmethod
    def validate(self, trainable: Params, frozen: Params, batch: Batch, directory: Path, step: int) -> Metrics:
        """Judges `trainable` (compute dtype) on one prepared host batch, writes pictures into `directory`."""

    @abc.abstractmethod
    def export(self, trainable: Params, directory: Path) -> None:
        """Writes the trained networks (fp32) as weight folders under `directory`, as the other commands read them."""

    def sample_encoder(self) -> SampleEncoder:
        """What encodes samples once, before the training. Raises UserError where nothing does."""
        raise UserError(
            "samples of this config cannot be encoded before the training; configs/dit.py can, without "
            "config.weights.encoded"
        )

    def generation_programs(self, num_frames: int, side: int, mesh: Mesh) -> list[Program]:
        """The programs of generating one scene, as often as a validation runs them; no weights are read.

        Raises UserError where the stage generates none.
        """
        raise UserError("--generation needs a config that trains to generate scenes, such as configs/dit.py")
