"""What VGGT reconstructs from, how, and what comes out of it; :class:`gen3r_jax.generation.vggt.VGGT` does the work."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from gen3r_jax.carried import user_path
from gen3r_jax.data.clips import fit_mask, fit_picture, fitted_places, quantize, tell_fit, uncrop_depth
from gen3r_jax.data.colour import Picture
from gen3r_jax.data.depth_maps import STEPS
from gen3r_jax.data.images import Clip, read_clip, require_choice
from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import scene_folder, write_scene
from gen3r_jax.export.pointcloud import DEFAULT_FILTER, CloudFilter
from gen3r_jax.export.run_report import RunReport
from gen3r_jax.generation.background import require_background
from gen3r_jax.generation.inputs import Images, as_paths, read_pictures, require_fit
from gen3r_jax.generation.known import KnownGeometry, require_scale_source
from gen3r_jax.generation.known_files import read_known
from gen3r_jax.generation.settings import MOST_FRAMES
from gen3r_jax.generation.windows import SHORTEST_WINDOW, default_window
from gen3r_jax.geometry.cameras import Size, uncrop_intrinsics
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.models.sizes import longest_clip, whole_size
from gen3r_jax.options import check_fields
from gen3r_jax.scene import Scene

MOST_ORIGINAL_PIXELS = 200_000_000
"""Of all pictures together: a scene holds 35 bytes a pixel."""


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions:
    """Says how a clip is reconstructed. The fields are the flags of ``gen3r reconstruct``.

    Attributes:
      num_frames: how many frames of files are used, spread evenly; by default all, at most 49 without `window`.
      stride, first: every `stride`-th frame of files from number `first` on, instead of an even spread.
      window: all frames are used, so many at a time; by default as :func:`default_window` says.
      masks: files, one mask for each frame there is: white where it is known.
      size: side of the frames, or (height, width), multiples of 112; by default that of the weights.
      fit: how pictures of another aspect are brought to it, one of :data:`gen3r_jax.data.clips.FITS`.
      through_adapter: whether the tokens pass through the latents of the geometry adapter.
      original_size: whether the scene is also written in the pixels of the pictures.
      cameras: known cameras: a camera file, :class:`Cameras`, or camera-to-world matrices [t, 4, 4] with OpenCV axes.
      camera_format: of a file whose form does not tell.
      intrinsics: known ones: fx, fy, cx, cy, or matrices [3, 3] or [t, 3, 3], in pixels of the pictures, or a camera
        file.
      depth: known depth: maps [t, h, w] of whole pictures, or files; 0 is unknown.
      depth_steps: of 16-bit PNG files in a unit of length.
      scale_from: what the unit of length is taken from: "cameras", "depth", or the distance of the last camera from
        the first; by default the first of these that is known.
      min_confidence, far_percentile: see :func:`gen3r_jax.generation.background.without_background`.

    Cameras, intrinsics and depth are for each frame there is, or for each that is used.

    Raises:
      UserError: settings that do not fit, before anything is read.
    """

    num_frames: int | None = None
    stride: int | None = None
    first: int | None = None
    window: int | None = None
    masks: Any = ()
    size: int | Sequence[int] | None = None
    fit: str = "crop"
    through_adapter: bool = False
    original_size: bool = False
    cameras: Any = None
    camera_format: str | None = None
    intrinsics: Any = None
    depth: Any = None
    depth_steps: float = STEPS
    scale_from: str | float | None = None
    min_confidence: float | None = None
    far_percentile: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.num_frames is not None and self.num_frames < 1:
            raise UserError(f"--num_frames {self.num_frames} is not a positive number")
        if self.window is not None and self.window < SHORTEST_WINDOW:
            raise UserError(f"--window {self.window} is too short to share frames; give at least {SHORTEST_WINDOW}")
        require_choice(self.stride, self.first)
        require_fit(self.fit)
        require_background(self.min_confidence, self.far_percentile)
        require_scale_source(self.scale_from, self.cameras is not None, self.depth is not None)
        if self.depth is not None and self.fit == "pad":
            raise UserError("--depth goes with --fit crop and --fit whole, not with pad")


class Frames(NamedTuple):
    """A clip as the network takes it.

    frames: what it sees of the pictures.
    opaque: where frames are known.
    window: how many it sees at a time.
    known: what is known of their geometry.
    """

    pictures: Sequence[Picture]
    frames: UInt8[np.ndarray, "t h w 3"]
    opaque: Bool[np.ndarray, "t h w"]
    window: int
    known: KnownGeometry
    fps: float | None


def read_clip_for(images: Images, options: ReconstructionOptions, size: Size, multiple: int) -> Frames:
    """Reads pictures and what is known of them, and brings them to a size.

    Args:
      size: with the fit "whole" so many pixels, in sides of `multiple`.

    Raises:
      UserError: pictures or known geometry that cannot be read or do not fit.
    """
    clip = _read(images, options)
    pictures, pad = clip.frames, options.fit == "pad"
    if options.original_size:
        _require_one_size(pictures)
    if options.fit == "whole":
        size = whole_size(pictures[0].shape[:2], size, multiple)
    window = min(options.window or default_window(len(pictures), size), len(pictures))
    if options.through_adapter and (below := longest_clip(window)) < window:
        more = f"--num_frames {below}" if window == len(pictures) else f"--window {max(below, 5)}"
        raise UserError(f"--through_adapter takes 4k+1 frames, not {window}; add {more}")
    tell_fit(pictures[0].shape[:2], size, pad)
    frames = np.stack([quantize(fit_picture(picture, size, pad)) for picture in pictures])
    pairs = zip(clip.masks, pictures, strict=True)
    opaque = np.stack([fit_mask(mask, picture.shape[:2], size, pad) for mask, picture in pairs])
    given = options.cameras, options.camera_format, options.intrinsics, options.depth, options.depth_steps
    return Frames(pictures, frames, opaque, window, read_known(clip, size, pad, *given), clip.fps)


def _read(images: Images, options: ReconstructionOptions) -> Clip:
    """The frames that are used, in 8 bits."""
    if paths := as_paths(images, "images"):
        return read_clip(
            paths,
            options.num_frames,
            stride=options.stride,
            first=options.first,
            at_most=None if options.window else MOST_FRAMES,
            masks=as_paths(options.masks, "masks") or (),
        )
    for name in ("num_frames", "stride", "first", "masks"):
        if getattr(options, name) not in (None, ()):
            raise UserError(f"{name} is for files; of pictures in memory give those that are to be used, with alpha")
    clip = read_pictures(images)
    frames = [frame if frame.dtype == np.uint8 else quantize(255 * frame) for frame in clip.frames]
    return clip._replace(frames=frames)


@dataclass(frozen=True)
class Reconstruction:
    """A scene, and how it was made.

    Attributes:
      scene: frames with their depth, cameras and points.
      pictures: what the frames were cropped, or padded, from.
      options: how it was made.
      fps: speed of the video that the frames are of, if they are.
      report: what run.json says: times, joins of windows, the scale.
    """

    scene: Scene
    pictures: Sequence[Picture]
    options: ReconstructionOptions
    fps: float | None
    report: RunReport

    def original(self) -> Scene:
        """The scene in the pixels of the pictures. Raises UserError unless these are of one size, and not too many."""
        _require_one_size(self.pictures)
        return at_original_size(self.scene, self.pictures, self.options.fit == "pad")

    def save(self, folder: Path | str, **how: Any) -> Path:
        """Writes a complete scene folder at `folder`, new or empty; see :meth:`write`. Returns it.

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
        fps: float | None = None,
        cloud: CloudFilter = DEFAULT_FILTER,
        formats: Sequence[str] | None = None,
    ) -> None:
        """Writes the files of the scene, and run.json, into a folder.

        Args:
          fps: speed at which the videos are played; by default that of the video, or 12.
          cloud: which points are kept.
          formats: names of :data:`gen3r_jax.export.folder.FORMATS`; by default those that say so.

        Raises:
          UserError: the folder cannot be written.
        """
        report = copy.deepcopy(self.report)
        speed = report.results["fps"] = fps or self.fps or 12
        with report.stage("Writing files"):
            write_scene(self.scene, folder, speed, cloud, formats=formats)
            if self.options.original_size:
                write_scene(self.original(), folder / "original", speed, cloud, formats=("maps", "ply"))
        report.write(folder / "run.json")


def at_original_size(scene: Scene, pictures: Sequence[Picture], pad: bool) -> Scene:
    """A scene in the pixels of the pictures that its frames were cropped, or padded, from.

    Intrinsics are those of the whole pictures, exactly; what was cut off has no depth and the confidence 0.
    """
    size = pictures[0].shape[:2]
    rows, columns = fitted_places(size, scene.rgb.shape[1:3], pad)
    (height, width), depth = scene.rgb.shape[1:3], np.stack([uncrop_depth(one, size, pad) for one in scene.depth])
    nearest = np.ix_(*(np.clip(place.astype(int), 0, side - 1) for place, side in ((rows, height), (columns, width))))
    confidence = np.stack([one[nearest] for one in scene.confidence]) * (depth > 0)
    intrinsics = uncrop_intrinsics(scene.intrinsics, size, (height, width), pad=pad).astype(np.float32)
    points = unproject_depth(depth, scene.w2c, intrinsics, offset=0.5)
    return Scene(np.stack(pictures), depth, confidence, scene.w2c, intrinsics, points, scene.prompt)


def _require_one_size(pictures: Sequence[Picture]) -> None:
    sizes = {picture.shape[:2] for picture in pictures}
    if len(sizes) > 1:
        (h, w), (h2, w2), *_ = sorted(sizes)
        raise UserError(f"--original_size needs pictures of one size; here are some of {w} x {h} and of {w2} x {h2}")
    if (pixels := sum(picture.shape[0] * picture.shape[1] for picture in pictures)) > MOST_ORIGINAL_PIXELS:
        raise UserError(
            f"--original_size: {len(pictures)} pictures have {pixels / 1e6:.0f} megapixels together, "
            f"{MOST_ORIGINAL_PIXELS // 10**6} can be held; give fewer (--num_frames) or smaller ones"
        )
