"""VGGT alone: cameras, depth and points of pictures, as the official package gives them."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from conversion.pipeline_folder import find_weights
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.weights import default_dtype
from gen3r_jax.models import vggt as network
from gen3r_jax.models.registry import EXACT
from gen3r_jax.sharding import fetch
from gen3r_jax.storage.checkpoint import holds_weights, load_network, read_config


class VGGT:
    """The reconstruction network with its weights, for any number of pictures of one still scene."""

    def __init__(self, config: network.VGGTConfig, weights: Network):
        """See :meth:`from_pretrained`."""
        self._config, self._weights = config, weights

    @classmethod
    def from_pretrained(cls, path: os.PathLike | str, *, dtype: Any = None) -> "VGGT":
        """Opens a folder of weights, of VGGT or of a whole pipeline.

        Args:
          path: as :meth:`Gen3RPipeline.from_pretrained` takes it.
          dtype: dtype of the weights; by default bfloat16, on CPUs float32. The heads stay as they are stored.

        Raises:
          UserError: there are no weights of VGGT.
        """
        folder = find_weights(path)
        return cls(read_config(vggt_folder(folder), network.VGGT), load_vggt(folder, dtype))

    def __call__(self, images: Float[Array | np.ndarray, "*b t h w 3"]) -> dict[str, Float32[np.ndarray, "..."]]:
        """Reconstructs one clip ``t h w 3`` or several, ``b t h w 3``, in [0, 1]; sides are multiples of 14.

        Returns:
          NumPy arrays in float32 with a batch axis, under the names of the official package: ``pose_enc`` [b t 9],
          ``depth`` [b t h w 1], ``depth_conf`` [b t h w], where the weights have a point head ``world_points``
          [b t h w 3] and ``world_points_conf`` [b t h w], and ``images`` [b t h w 3].
          :func:`gen3r_jax.geometry.cameras.decode_pose` gives cameras from ``pose_enc``.

        Raises:
          UserError: arrays of other shapes or values.
        """
        images, patch = np.asarray(images), self._config.patch_size
        if images.ndim == 4:
            images = images[None]
        if images.ndim != 5 or images.shape[-1] != 3 or not images.size:
            raise UserError(f"images have the shape {list(images.shape)}; needed is [t, h, w, 3] or [b, t, h, w, 3]")
        if images.shape[2] % patch or images.shape[3] % patch:
            raise UserError(f"images of {images.shape[3]} x {images.shape[2]}: sides must be multiples of {patch}")
        if not np.issubdtype(images.dtype, np.floating) or not (images.min() >= 0 and images.max() <= 1):
            raise UserError("images must be floating-point numbers from 0 to 1; divide colours of 8 bits by 255")
        images = images.astype(np.float32)
        return fetch(_predict(self._weights, images)) | {"images": images}


def vggt_folder(weights: Path) -> Path:
    """The folder of VGGT in a folder of weights, which may be of VGGT alone."""
    return weights if holds_weights(weights) else weights / "vggt"


def load_vggt(weights: Path, dtype: Any = None) -> Network:
    """Read VGGT from a folder of weights, in `dtype` (see :func:`default_dtype`) but for its heads."""
    return load_network(vggt_folder(weights), network.VGGT, dtype=default_dtype(dtype), exact=EXACT["vggt"])


@jax.jit
def _predict(weights: Network, images: Float[Array, "b t h w 3"]) -> dict[str, Float[Array, "..."]]:
    output = module.merge(*weights)(images)
    predictions = {
        "pose_enc": output.pose_enc,
        "depth": output.depth[..., None],
        "depth_conf": output.depth_confidence,
        "world_points": output.points,
        "world_points_conf": output.points_confidence,
    }
    return {name: array for name, array in predictions.items() if array is not None}
