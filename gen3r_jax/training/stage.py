"""What the training loop asks of a stage: the only thing it knows about what is being trained."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
from jaxtyping import Array, Float, Key

from gen3r_jax.module import Params

Batch = Mapping[str, Any]
Metrics = dict[str, jax.Array | float]


class Stage(Protocol):
    """One training task: which weights are trained, which are frozen, the batch it reads and the loss.

    A stage class is a frozen dataclass. Each field is one group of the config and is itself a frozen dataclass
    (``model: ModelOptions`` reads ``config.model``), filled by :func:`gen3r_jax.options.read_options`, which refuses
    unknown and missing keys. Everything below may be called under ``jax.set_mesh``.

    batch_axes: for every batch entry that goes to the devices, the logical name of each of its axes
        (``{"frames": ("batch", "frames", None, None, None)}``). Entries not named here stay on the host.
    """

    batch_axes: Mapping[str, tuple[str | None, ...]]

    def init(self, key: Key[Array, ""]) -> Params:
        """Random fp32 trainable parameters. Called inside ``jit``, so it must not touch files."""
        ...

    def load_trainable(self) -> Params | None:
        """Weights to start from instead of :meth:`init`, or None. Raises UserError when they are missing or misfit."""
        ...

    def load_frozen(self) -> Params:
        """The weights that stay as they are, bf16 where the network allows. Raises UserError when they are missing."""
        ...

    def loss(
        self, trainable: Params, frozen: Params, batch: Batch, keys: Key[Array, "b"]
    ) -> tuple[Float[Array, ""], Metrics]:
        """The loss of one micro-batch (fp32 scalar) and scalar metrics; both are means over the samples.

        `trainable` is already in the compute dtype. `keys` holds one key a sample, made from (seed, step, index of the
        sample in the whole batch): draw all noise per sample, ``jax.vmap(draw)(keys)``, and it does not depend on the
        micro-batch size, the mesh or the number of processes.
        """
        ...

    def validate(self, trainable: Params, frozen: Params, batch: Batch, directory: Path, step: int) -> Metrics:
        """Judges `trainable` (compute dtype) on one host batch, writes pictures into `directory` (which exists)."""
        ...

    def export(self, trainable: Params, directory: Path) -> None:
        """Writes the trained networks (fp32) as weight folders under `directory`, as the other commands read them."""
        ...
