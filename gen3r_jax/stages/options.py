"""The groups of a config that several stages have, and the defaults that they share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gen3r_jax.errors import UserError
from gen3r_jax.models.registry import NETWORKS, PRESETS
from gen3r_jax.options import read_options


def _fields() -> Any:
    return field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Changes:
    """By network, fields of its config that are to have other values than in the preset: a size that none names."""

    umt5: Mapping[str, Any] = _fields()
    clip_vision: Mapping[str, Any] = _fields()
    wan_vae: Mapping[str, Any] = _fields()
    wan_dit: Mapping[str, Any] = _fields()
    geometry_adapter: Mapping[str, Any] = _fields()
    vggt: Mapping[str, Any] = _fields()


@dataclass(frozen=True)
class NetworkOptions:
    """The group ``model`` of a stage that trains a network.

    Attributes:
      preset: sizes of the networks. Weight folders know their own and have the last word.
      changes: what differs from the preset.
      remat: what the blocks of the trained network recompute for the gradient instead of keeping it.
    """

    preset: Literal["gen3r", "nano", "tiny"] = "gen3r"
    changes: Changes = Changes()
    remat: Literal["none", "full", "dots"] = "full"

    def __post_init__(self) -> None:
        for name in NETWORKS:
            self.config(name)  # says what is wrong with its changes

    def config(self, name: str, stored: Any = None) -> Any:
        """The config of a network: `stored`, which its weights have, or the preset's with its changes.

        Raises UserError where a change is of no field, of another type, or not what the weights have.
        """
        base = PRESETS[self.preset][name] if stored is None else stored
        path = f"config.model.changes.{name}"
        config = read_options(type(base), getattr(self.changes, name), path, base=base)
        if stored is not None and config != stored:
            raise UserError(f"{path} {getattr(self.changes, name)} changes a network whose weights are read: {stored}")
        return config


@dataclass(frozen=True)
class FrozenNetworkOptions(NetworkOptions):
    """The same of a stage that needs frozen networks, too.

    Attributes:
      frozen_dtype: dtype of the weights of frozen networks. VGGT's heads keep the precision they are stored in.
    """

    frozen_dtype: Literal["bfloat16", "float32"] = "bfloat16"


@dataclass(frozen=True)
class FolderOptions:
    """The group ``weights`` of a stage that needs frozen networks.

    Attributes:
      dir: folder with the converted networks; empty with the preset "tiny" only: random ones.
    """

    dir: str = "weights"
