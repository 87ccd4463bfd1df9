"""A scene as a folder of files that other tools open."""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from gen3r_jax.errors import UserError
from gen3r_jax.export.colmap import write_colmap
from gen3r_jax.export.gaussians import Gaussians, scene_gaussians, write_gaussians
from gen3r_jax.export.glb import write_glb
from gen3r_jax.export.grid import spread, write_grid
from gen3r_jax.export.images import write_images
from gen3r_jax.export.mesh import scene_mesh, write_mesh
from gen3r_jax.export.nerfstudio import write_transforms
from gen3r_jax.export.pointcloud import DEFAULT_FILTER, CloudFilter, scene_cloud, write_ply
from gen3r_jax.export.splat_glb import write_splat_glb
from gen3r_jax.export.spz import write_spz
from gen3r_jax.export.usd import write_usd
from gen3r_jax.export.video import colorize_agreement, colorize_depth, require_fps, write_video
from gen3r_jax.export.viewer_page import write_viewer
from gen3r_jax.geometry.camera_files.official import write_cameras
from gen3r_jax.options import nearest
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import replacing, write_text, writing
from gen3r_jax.storage.folders import MARKER, mark, require_ours
from gen3r_jax.storage.locks import lock_beside, locked

SCENE = "a scene"
"""Kind of a scene's folder, as its marker says it."""


@dataclass
class _Job:
    """A scene on its way to a folder; what several formats share is made once."""

    scene: Scene
    folder: Path
    fps: float
    keep: CloudFilter

    @cached_property
    def cloud(self) -> tuple[Float[np.ndarray, "n 3"], UInt8[np.ndarray, "n 3"]]:
        return scene_cloud(self.scene, self.keep)

    @cached_property
    def gaussians(self) -> Gaussians:
        return scene_gaussians(self.scene)

    @cached_property
    def images(self) -> Path:
        """The folder of single frames, once they are there."""
        write_images(self.folder / "images", self.scene.rgb)
        return self.folder / "images"


def _write_videos(job: _Job) -> None:
    write_video(job.folder / "rgb.mp4", job.scene.rgb, job.fps)
    write_video(job.folder / "depth.mp4", colorize_depth(job.scene.depth), job.fps)


def _write_sheet(job: _Job) -> None:
    times = spread(len(job.scene.rgb))
    depth = colorize_depth(job.scene.depth)
    rows = {"frames": job.scene.rgb[times], "depth": depth[times]}
    if job.scene.agreement is not None:
        rows["agreement of the depths: dark below a half"] = colorize_agreement(job.scene.agreement[times])
    write_grid(job.folder / "sheet.png", rows)


def _write_maps(job: _Job) -> None:
    # Half precision reaches to 65504, and VGGT's confidence is unbounded.
    confidence = np.minimum(job.scene.confidence, np.finfo(np.float16).max).astype(np.float16)
    maps = {"depth": job.scene.depth, "confidence": confidence}
    if job.scene.agreement is not None:
        maps["agreement"] = job.scene.agreement.astype(np.float16)
    for name, array in maps.items():
        with replacing(job.folder / f"{name}.npz") as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **{name: array})


def _write_nerfstudio(job: _Job) -> None:
    write_transforms(job.images.parent / "transforms.json", job.scene)


def _write_colmap(job: _Job) -> None:
    write_colmap(job.images.parent / "sparse" / "0", job.scene, *job.cloud)


@dataclass(frozen=True)
class Format:
    """One way to write a scene.

    Attributes:
      write: writes its files.
      default: it is written where no formats are named.
      needs: a module that it takes, and the extra of this package that brings it.
    """

    write: Callable[[_Job], None]
    default: bool = True
    needs: tuple[str, str] | None = None


# What can be written, in this order; docs/formats.md describes the files.
FORMATS: dict[str, Format] = {
    "video": Format(_write_videos),  # rgb.mp4, depth.mp4
    "sheet": Format(_write_sheet),  # sheet.png
    "maps": Format(_write_maps),  # depth.npz, confidence.npz, agreement.npz where two readings were compared
    "ply": Format(lambda job: write_ply(job.folder / "points.ply", *job.cloud)),
    "nerfstudio": Format(_write_nerfstudio),  # transforms.json, images/
    "colmap": Format(_write_colmap),  # sparse/0/, images/
    "glb": Format(lambda job: write_glb(job.folder / "scene.glb", job.scene, *job.cloud)),
    "gaussians": Format(lambda job: write_gaussians(job.folder / "gaussians.ply", job.gaussians)),
    "spz": Format(lambda job: write_spz(job.folder / "gaussians.spz", job.gaussians), default=False),
    "splat_glb": Format(lambda job: write_splat_glb(job.folder / "gaussians.glb", job.gaussians), default=False),
    "usd": Format(
        lambda job: write_usd(job.folder / "gaussians.usdc", job.gaussians), default=False, needs=("pxr.UsdVol", "usd")
    ),
    "mesh": Format(
        lambda job: write_mesh(job.folder / "mesh.glb", scene_mesh(job.scene, job.keep.confidence_percentile)),
        default=False,
        needs=("skimage", "mesh"),
    ),
    "viewer": Format(lambda job: write_viewer(job.folder / "viewer.html", job.scene, *job.cloud, job.fps)),
}


def describe_formats() -> str:
    """What ``--help`` says of the choice."""
    others = ", ".join(name for name, form in FORMATS.items() if not form.default)
    return f"write only these of {', '.join(FORMATS)} (default: all but {others})"


def require_formats(names: Sequence[str]) -> None:
    """Raises UserError where a format is unknown, or a package that it takes is not installed."""
    if isinstance(names, str):
        raise UserError(f"formats must be a list of names, such as [{names!r}], not {names!r}")
    for name in names:
        if name not in FORMATS:
            raise UserError(
                f"there is no format {name!r} for scenes{nearest(name, FORMATS)}; give some of {', '.join(FORMATS)}"
            )
        if needs := FORMATS[name].needs:
            module, extra = needs
            if find_spec(module.split(".")[0]) is None or find_spec(module) is None:
                raise UserError(f"the format {name} needs a package: pip install 'gen3r-jax[{extra}]'")


def write_scene(
    scene: Scene,
    directory: Path | str,
    fps: float = 12,
    cloud: CloudFilter = DEFAULT_FILTER,
    formats: Sequence[str] | None = None,
) -> None:
    """Writes a scene; each file appears under its name only when it is whole, and replaces an older one.

    ``cameras.json`` (world-to-camera, OpenCV axes, pixels), and ``prompts.txt`` where there is a text, are always
    written; the rest are the `formats` (keys of ``FORMATS``), by default those that say so.

    Args:
      fps: only the speed at which videos are played.
      cloud: what is kept of the points.

    Raises:
      UserError: the directory cannot be written, or a format's package is missing.
    """
    names = [name for name, form in FORMATS.items() if form.default] if formats is None else formats
    require_formats(names)
    require_fps(fps)
    job = _Job(scene, Path(directory), fps, cloud)
    write_cameras(job.folder / "cameras.json", scene.w2c, scene.intrinsics, scene.rgb.shape[1:3])
    if scene.prompt:
        write_text(job.folder / "prompts.txt", scene.prompt + "\n")
    for name, form in FORMATS.items():
        if name in names:
            form.write(job)


@contextmanager
def scene_folder(path: Path) -> Iterator[Path]:
    """Gives a hidden folder beside `path` to write to, and moves it there when the block succeeds.

    So what stands at `path` is whole. Of several processes one writes it. Raises UserError when it cannot be written,
    or `path` holds something already, and Held while another process writes it.
    """
    if path.absolute() == Path.cwd():
        raise UserError("the output cannot be the current folder; name a new one")
    partial = path.with_name(f".{path.name}.partial")
    with locked(lock_beside(path), str(path)):
        if path.exists() and not (path.is_dir() and all(file.name == MARKER for file in path.iterdir())):
            raise UserError(f"cannot write {path}: it is there already; remove it or give another name")
        require_ours(partial, SCENE, lambda folder: False, advice="move it away")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
        mark(partial, SCENE)
        try:
            with writing(path):
                yield partial
                (path / MARKER).unlink(missing_ok=True)  # of a scene that the user has removed
                os.rename(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):  # an empty folder that was reserved for what has failed
                path.rmdir()


def unique_folder(parent: Path, name: str) -> Path:
    """A folder below `parent` that nobody else has: `name`, or `name` with -2, -3, ... It is made."""
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        path = parent / (name if number == 1 else f"{name}-{number}")
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
        else:
            return path
