"""VGGT alone: cameras, depth and points of pictures, as the official package gives them or as whole scenes."""

import dataclasses
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32

from conversion.pipeline_folder import find_weights
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.export.run_report import RunReport, describe
from gen3r_jax.generation import networks
from gen3r_jax.generation.background import without_background
from gen3r_jax.generation.inputs import Images, as_size
from gen3r_jax.generation.known import with_known
from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.reconstruction import Reconstruction, ReconstructionOptions, read_clip_for
from gen3r_jax.generation.settings import read_settings
from gen3r_jax.generation.weights import default_dtype
from gen3r_jax.generation.windows import reconstruct_in_windows
from gen3r_jax.models import vggt as network
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.models.registry import EXACT
from gen3r_jax.models.sizes import SIDE_MULTIPLE, require_side
from gen3r_jax.sharding import fetch
from gen3r_jax.storage.checkpoint import holds_weights, load_network, read_config
from gen3r_jax.storage.hub import read_licence


class VGGT:
    """The reconstruction network, for any number of pictures of one still scene; its weights are read when needed."""

    def __init__(self, folder: Path, dtype: Any = None):
        """See :meth:`from_pretrained`."""
        self._folder, self._dtype = folder, default_dtype(dtype)
        self._size = read_settings(folder).size
        self._config: network.VGGTConfig = _read_config(vggt_folder(folder), "vggt", network.VGGT)

    @classmethod
    def from_pretrained(cls, path: os.PathLike | str, *, dtype: Any = None) -> "VGGT":
        """Opens a folder of weights, of VGGT or of a whole pipeline.

        Args:
          path: as :meth:`Gen3RPipeline.from_pretrained` takes it.
          dtype: dtype of the weights; by default bfloat16, on CPUs float32. The heads stay as they are stored.

        Raises:
          UserError: there are no weights of VGGT.
        """
        return cls(find_weights(path), dtype)

    def reconstruct(self, images: Images, *, progress: bool = True, **options: Any) -> Reconstruction:
        """Reconstructs a clip of any length, in windows, with what is known of it, as ``gen3r reconstruct`` does.

        Args:
          images: a path of a video, a folder or a picture, a PIL image, an array, or a list of pictures.
          progress: whether stages are told on standard error.
          options: fields of :class:`gen3r_jax.generation.reconstruction.ReconstructionOptions`, such as `window`,
            `cameras`, `intrinsics`, `depth` and `scale_from`.

        Raises:
          UserError: pictures, known geometry, weights or settings that do not fit.
        """
        wanted = ReconstructionOptions(**options)
        size = as_size(self._size if wanted.size is None else wanted.size)
        for side in size:
            require_side(side)
        if wanted.through_adapter:
            self._require_adapter()
        told = {name: describe(value) for name, value in vars(wanted).items()}
        report = RunReport({"weights": str(self._folder), "images": describe(images), **told}, quiet=not progress)
        if licence := read_licence(self._folder):
            report.results["licence"] = licence
        with report.stage("Reading frames"):
            multiple = SIDE_MULTIPLE if wanted.through_adapter else self._config.patch_size
            clip = read_clip_for(images, wanted, size, multiple)
        with report.stage("Loading weights"):
            vggt, adapter = self._network, self._adapter if wanted.through_adapter else None
        (count, height, width, _), through = clip.frames.shape, " through the adapter" * wanted.through_adapter
        with report.stage(f"Reconstructing {count} frames of {width} x {height}{through}"):
            scene, joined = reconstruct_in_windows(
                clip.frames, clip.window, lambda some: networks.reconstruct(some, vggt, adapter)
            )
            if not clip.opaque.all():
                scene = dataclasses.replace(scene, confidence=np.where(clip.opaque, scene.confidence, np.float32(0)))
            scene, scaled = with_known(scene, clip.known, wanted.scale_from)
            scene = without_background(scene, wanted.min_confidence, wanted.far_percentile)
            report.results |= joined | scaled
        return Reconstruction(scene, clip.pictures, wanted, clip.fps, report)

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
        return fetch(_predict(self._network, images)) | {"images": images}

    @cached_property
    def _network(self) -> Network:
        return load_network(vggt_folder(self._folder), network.VGGT, dtype=self._dtype, exact=EXACT["vggt"])

    @cached_property
    def _adapter(self) -> Network:
        return load_network(self._folder / "geometry_adapter", GeometryAdapter, dtype=self._dtype)

    def _require_adapter(self) -> None:
        """Raises UserError unless there is an adapter beside VGGT that was made for it."""
        adapter = _read_config(self._folder / "geometry_adapter", "geometry_adapter", GeometryAdapter)
        if adapter.input_dim != 10 * self._config.embed_dim:
            raise UserError(
                f"the adapter in {self._folder} takes {adapter.input_dim} channels and the VGGT beside it gives "
                f"{10 * self._config.embed_dim}; put networks there that were made for each other"
            )


def vggt_folder(weights: Path) -> Path:
    """The folder of VGGT in a folder of weights, which may be of VGGT alone."""
    return weights if holds_weights(weights) else weights / "vggt"


def _read_config(folder: Path, name: str, kind: type[network.VGGT] | type[GeometryAdapter]) -> Any:
    if not folder.exists():
        raise UserError(
            f"no weights at {folder}; make them with: "
            f"gen3r convert {name} --source OFFICIAL_FILE_OR_DIR --output {folder}"
        )
    return read_config(folder, kind)


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
