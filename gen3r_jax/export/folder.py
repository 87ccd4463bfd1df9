"""A scene as a folder of files that other tools open."""

from pathlib import Path

import numpy as np

from gen3r_jax.export.cameras import write_cameras
from gen3r_jax.export.files import replacing
from gen3r_jax.export.pointcloud import DEFAULT_FILTER, CloudFilter, scene_cloud, write_ply
from gen3r_jax.export.video import colorize_depth, write_video
from gen3r_jax.scene import Scene


def write_scene(scene: Scene, directory: Path | str, fps: float = 12, cloud: CloudFilter = DEFAULT_FILTER) -> None:
    """Writes a scene; each file appears under its name only when it is whole, and replaces an older one.

    ========================  =======================================================================================
    ``rgb.mp4``               the frames (``fps`` is only the speed they are played at)
    ``depth.mp4``             the depth as colours, one range for the clip (:func:`.video.colorize_depth`)
    ``depth.npz``             ``depth``: float32 ``[t, h, w]``, along the optical axis, in the cameras' unit
    ``confidence.npz``        ``confidence``: float16 ``[t, h, w]``, 1 and above
    ``cameras.json``          world-to-camera matrices (OpenCV axes) and intrinsics in pixels (:mod:`.cameras`)
    ``points.ply``            the coloured cloud that `cloud` leaves (:class:`.pointcloud.CloudFilter`)
    ``prompts.txt``           the text, if the scene was made from one
    ========================  =======================================================================================

    Raises:
      UserError: the directory cannot be written.
    """
    directory = Path(directory)
    write_video(directory / "rgb.mp4", scene.rgb, fps)
    write_video(directory / "depth.mp4", colorize_depth(scene.depth), fps)
    _write_arrays(directory / "depth.npz", depth=scene.depth)
    # Half precision reaches to 65504, and VGGT's confidence is unbounded.
    confidence = np.minimum(scene.confidence, np.finfo(np.float16).max).astype(np.float16)
    _write_arrays(directory / "confidence.npz", confidence=confidence)
    write_cameras(directory / "cameras.json", scene.w2c, scene.intrinsics, scene.rgb.shape[1:3])
    write_ply(directory / "points.ply", *scene_cloud(scene, cloud))
    if scene.prompt:
        with replacing(directory / "prompts.txt") as temporary:
            temporary.write_text(scene.prompt + "\n")


def _write_arrays(path: Path, **arrays: np.ndarray) -> None:
    with replacing(path) as temporary:
        np.savez_compressed(temporary, **arrays)
