"""What a generation gives, and how it is kept."""

import copy
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gen3r_jax.carried import user_path
from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import scene_folder, write_scene
from gen3r_jax.export.pointcloud import DEFAULT_FILTER, CloudFilter
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.geometry.agreement import Agreement
from gen3r_jax.geometry.cameras import homogeneous
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.scene import Scene


@dataclass(frozen=True)
class Gen3RPipelineOutput:
    """What a generation gives; names and layouts of the official pipeline, in NumPy and float32.

    Attributes:
      rgbs: frames in [0, 1].
      depth_maps: along each camera's optical axis.
      depth_confidence: of the depth, at least 1; 0 where a given picture was transparent.
      point_maps: world points of VGGT's point head, of the generated geometry; None if it has none.
      pcds: world points of the depth, unprojected with the cameras.
      point_masks: pixels whose depth is plausible (percentiles of the frame with ``min_max_depth_mask``), and that were
        not transparent.
      cameras: world-to-camera matrices (OpenCV axes) and intrinsics in pixels.
      latents: the sample Z itself.
      evaluations: how many steps ran the transformer; fewer than there were with a step cache.
      agreement: of every sample, how far the generated geometry and that of the video agree; None where the generated
        one was taken as it is.
      prompts: text of every sample.
      report: what the generation was asked for and how long it took; None for latents that were only decoded.
    """

    rgbs: Float[np.ndarray, "b t h w 3"]
    depth_maps: Float[np.ndarray, "b t h w 1"]
    depth_confidence: Float[np.ndarray, "b t h w"]
    point_maps: Float[np.ndarray, "b t h w 3"] | None
    pcds: Float[np.ndarray, "b t h w 3"]
    point_masks: Bool[np.ndarray, "b t h w"]
    cameras: tuple[Float[np.ndarray, "b t 3 4"], Float[np.ndarray, "b t 3 3"]]
    latents: Float[np.ndarray, "b f h w 16"]
    evaluations: int = 0
    agreement: tuple[Agreement, ...] | None = None
    prompts: tuple[str, ...] = ()
    report: RunReport | None = None

    def without(self, transparent: Bool[np.ndarray, "b k h w"], given: Sequence[int]) -> "Gen3RPipelineOutput":
        """The same, but no point is made of pixels of the frames `given` that were transparent."""
        confidence, masks = self.depth_confidence.copy(), self.point_masks.copy()
        confidence[:, list(given)] *= ~transparent
        masks[:, list(given)] &= ~transparent
        return dataclasses.replace(self, depth_confidence=confidence, point_masks=masks)

    def scene(self, sample: int = 0, prompt: str = "") -> Scene:
        """One sample as exporters take it; `prompt` is by default that of the sample.

        The points are at the centres of pixels, unlike `pcds`, which are at the corners, as in the official pipeline.
        """
        depth, (w2c, intrinsics) = self.depth_maps[sample, ..., 0], self.cameras
        w2c, intrinsics = w2c[sample], intrinsics[sample]
        return Scene(
            rgb=np.floor(255 * self.rgbs[sample]).astype(np.uint8),
            depth=depth,
            confidence=self.depth_confidence[sample],
            w2c=homogeneous(w2c),
            intrinsics=intrinsics,
            points=unproject_depth(depth, w2c, intrinsics, offset=0.5),
            prompt=prompt or (self.prompts[sample] if self.prompts else ""),
            agreement=self.agreement[sample].map if self.agreement else None,
        )

    def save(self, folder: Path | str, **how: Any) -> Path:
        """Writes one sample as a complete scene folder at `folder`, new or empty; see :meth:`write`. Returns it.

        Raises UserError where the folder holds something or cannot be written.
        """
        folder = user_path(folder, "folder")
        with scene_folder(folder) as partial:
            self.write(partial, **how)
        return folder

    def write(
        self,
        folder: Path,
        *,
        sample: int = 0,
        fps: float = 12,
        cloud: CloudFilter = DEFAULT_FILTER,
        formats: Sequence[str] | None = None,
    ) -> None:
        """Writes the files of one sample, and run.json, into a folder.

        Args:
          sample: index within the batch.
          fps: speed at which the videos are played.
          cloud: which points are kept.
          formats: names of :data:`gen3r_jax.export.folder.FORMATS`; by default those that say so.

        Raises:
          UserError: there is no such sample, or the folder cannot be written.
        """
        if not isinstance(sample, Integral) or not 0 <= sample < len(self.rgbs):
            raise UserError(f"sample {sample} of {len(self.rgbs)}: samples are counted from 0")
        report = copy.deepcopy(self.report) or RunReport({}, quiet=True)  # each sample has a record of its own
        report.options["sample"] = int(sample)
        report.results["fps"] = fps
        with report.stage("Writing files"):
            write_scene(self.scene(sample), folder, fps, cloud, formats)
        if self.agreement is not None:
            found = self.agreement[sample]
            report.results |= {"agreement": found.depth, "agreement_of_cameras": found.poses}
        report.write(folder / "run.json")
