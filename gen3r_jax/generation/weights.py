"""The networks of a folder of converted weights, as a pipeline asks for them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conversion.lora import Changes, merge, read_lora
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.generation.networks import Network
from gen3r_jax.models.registry import EXACT, NETWORKS
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.storage.checkpoint import load_network, read_config


class Weights:
    """Reads a network of ``NETWORKS`` when it is called with its name.

    Raises UserError where something is missing in the folder, or was not made for the rest. All of it is named.

    Attributes:
      configs: of every network.
      loras: what was added to the transformer, with its scale.
    """

    def __init__(self, path: Path, dtype: Any):
        missing = [name for name in (*NETWORKS, "tokenizer", "scheduler.json") if not (path / name).exists()]
        if missing:
            raise UserError(
                f"{path} lacks {', '.join(missing)}; make it with: gen3r convert gen3r --source CHECKPOINTS "
                f"--output {path}"
            )
        self.configs = {name: read_config(path / name, network) for name, network in NETWORKS.items()}
        self.tokenizer = Tokenizer.from_folder(path / "tokenizer")
        self.loras: list[str] = []
        self._path, self._dtype = path, dtype
        self._changes: list[Changes] = []
        _refuse_misfits(path, self.configs, self.tokenizer)

    def __call__(self, name: str) -> Network:
        folder, network, exact = self._path / name, NETWORKS[name], EXACT.get(name, ())
        if name != "wan_dit" or not self._changes:
            return load_network(folder, network, dtype=self._dtype, exact=exact)
        graphdef, params = load_network(folder, network, dtype=jnp.float32)
        return graphdef, merge(params, self._changes, self._dtype)

    def described(self) -> dict[str, Any]:
        """What run.json says of them."""
        added = {"lora": self.loras} if self.loras else {}
        return {"weights": str(self._path), "dtype": jnp.dtype(self._dtype).name, **added}

    def add_lora(self, file: Path, scale: float) -> None:
        """Adds the changes of a file to the transformer, from its next reading on."""
        network, config = NETWORKS["wan_dit"], self.configs["wan_dit"]
        shapes = module.abstract(lambda rngs: network(config, rngs=rngs))[1]
        self._changes.append(read_lora(file, shapes, scale))
        self.loras.append(f"{file}:{scale:g}")


def default_dtype(dtype: Any = None) -> np.dtype:
    """`dtype`, by default bfloat16, on CPUs float32. Raises UserError for what is no dtype of weights."""
    dtype = dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    try:
        return jnp.finfo(dtype).dtype
    except (TypeError, ValueError):
        raise UserError(f"dtype {str(dtype)!r} is none that weights can have; give float32 or bfloat16") from None


def _refuse_misfits(path: Path, configs: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    dit, umt5 = configs["wan_dit"], configs["umt5"]
    pairs = {
        "wan_dit.text_dim and umt5.dim": (dit.text_dim, umt5.dim),
        "wan_dit.image_dim and clip_vision.dim": (dit.image_dim, configs["clip_vision"].dim),
        "wan_dit.camera_channels and six numbers of four frames": (dit.camera_channels, 24),
        "geometry_adapter.input_dim and ten times vggt.embed_dim": (
            configs["geometry_adapter"].input_dim,
            10 * configs["vggt"].embed_dim,
        ),
    }
    misfits = [f"{names} are {one} and {other}" for names, (one, other) in pairs.items() if one != other]
    if tokenizer.size > umt5.vocab_size:
        misfits.append(f"the tokenizer knows {tokenizer.size} words, umt5 {umt5.vocab_size}")
    if misfits:
        raise UserError(f"what lies in {path} was not made for each other: {'; '.join(misfits)}")
