"""What the training loop asks of a stage: the only thing it knows about what is being trained."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, Key

from gen3r_jax.module import Params

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array | float]


# Logical names of the axes of an array, see gen3r_jax.sharding.
Axes = tuple[str | None, ...]


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


class Stage(Protocol):
    """One training task: which weights are trained, which are frozen, the batch it reads and the loss.

    A stage class is a frozen dataclass. Each field is one group of the config and is itself a frozen dataclass
    (``model: ModelOptions`` reads ``config.model``), filled by :func:`gen3r_jax.options.read_options`, which refuses
    unknown and missing keys. Everything below may be called under ``jax.set_mesh``.

    Keys are one a sample, made from (seed, step, index of the sample in the whole batch): draw all noise per sample,
    ``jax.vmap(draw)(keys)``, and it does not depend on the micro-batch size, the mesh or the number of processes. All
    encoders and the loss get the same keys.

    batch_axes: for every batch entry that goes to the devices, the logical name of each of its axes
        (``{"frames": ("batch", "frames", None, None, None)}``). Entries not named here stay on the host.
    encoders: what is computed of a batch without a gradient, in this order.
    loss_reads: names of the entries that the loss reads.
    """

    batch_axes: Mapping[str, Axes]
    encoders: tuple[Encoder, ...]
    loss_reads: tuple[str, ...]

    def init(self, key: Key[Array, ""]) -> Params:
        """Random fp32 trainable parameters. Called inside ``jit``, so it must not touch files."""
        ...

    def load_trainable(self) -> Params | None:
        """Weights to start from instead of :meth:`init`, or None. Raises UserError when they are missing or misfit."""
        ...

    def load_frozen(self) -> Params:
        """The weights that stay as they are, bf16 where the network allows. Raises UserError when they are missing."""
        ...

    def abstract_frozen(self) -> Params:
        """Shapes and dtypes of :meth:`load_frozen`, without reading any weights."""
        ...

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the host does to a batch of the loader before it is split and placed, such as tokenizing texts."""
        ...

    def batch_shapes(self, num_frames: int, side: int) -> Mapping[str, jax.ShapeDtypeStruct]:
        """One sample of every entry of ``batch_axes``, to compile for a batch that is not there."""
        ...

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss of one micro-batch (fp32 scalar) and scalar metrics; both are means over the samples.

        `trainable` is already in the compute dtype; `batch` holds the entries of ``loss_reads``.
        """
        ...

    def validate(self, trainable: Params, frozen: Params, batch: Batch, directory: Path, step: int) -> Metrics:
        """Judges `trainable` (compute dtype) on one prepared host batch, writes pictures into `directory`."""
        ...

    def export(self, trainable: Params, directory: Path) -> None:
        """Writes the trained networks (fp32) as weight folders under `directory`, as the other commands read them."""
        ...
