"""viewer.html: one page that opens anywhere, offline: points and cameras to turn, frames to play."""

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from gen3r_jax.export.glb import frusta, frustum_size
from gen3r_jax.export.pointcloud import at_most, median_depth
from gen3r_jax.export.video import colorize_agreement
from gen3r_jax.geometry.cameras import OPENGL_AXES, invert_se3
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import read_text, write_text

if TYPE_CHECKING:  # imported where it is used: it takes half a second
    import trimesh

MOST_POINTS = 100_000
FRAME_WIDTH = 320


def write_viewer(
    path: Path | str,
    scene: Scene,
    points: Float[np.ndarray, "n 3"],
    colors: UInt8[np.ndarray, "n 3"],
    fps: float = 12,
) -> None:
    """Writes the page: trimesh's self-contained three.js viewer with the panel of ``viewer_panel.html``.

    The camera of the frame in the panel is marked; frames are played at `fps`. Where two readings of the depth were
    compared, the panel can show the map of their agreement in the frame's place.
    """
    from trimesh.viewer.notebook import scene_to_html

    views = _views(scene)
    maps = () if scene.agreement is None else scene.agreement
    data = {
        "frames": [_data_uri(frame) for frame in scene.rgb],
        "agreement": [_data_uri(colorize_agreement(frame)) for frame in maps],
        "edges": _frustum_edges(scene),
        "views": views,
        "first": views[0] | _behind(scene),
        "prompt": scene.prompt,
        "fps": fps,
    }
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # nothing in it ends the script
    panel = read_text(Path(__file__).with_name("viewer_panel.html"))
    added = f'<script type="application/json" id="scene-data">{text}</script>\n{panel}'
    page = scene_to_html(_build_scene(scene, points, colors))
    write_text(path, page.replace("</body>", f"{added}</body>"))


def three_js() -> str:
    """The script of the page that is three.js with its controls and loaders, for other pages; it sets ``THREE``."""
    import trimesh
    from trimesh.viewer.notebook import scene_to_html

    page = scene_to_html(trimesh.Scene(trimesh.PointCloud([[0, 0, 0]])))
    script = page[page.index("<script>") + len("<script>") : page.rindex("</script>")]
    return script[: script.rindex("var camera,controls,scene,renderer")]


def _build_scene(scene: Scene, points: np.ndarray, colors: np.ndarray) -> "trimesh.Scene":
    """Points (a random choice, if there are more than ``MOST_POINTS``) and frusta, turned to y up."""
    import trimesh
    from trimesh.path import Path3D
    from trimesh.path.entities import Line

    points, colors = at_most(MOST_POINTS, points, colors)
    edges, tints = frusta(scene, frustum_size(scene))
    tints = np.column_stack([tints, np.full(len(tints), 255, np.uint8)])
    built = trimesh.Scene()
    if len(points):
        built.add_geometry(trimesh.PointCloud(points, colors=colors), geom_name="points")
    lines = [Line([2 * i, 2 * i + 1]) for i in range(len(edges))]
    path = Path3D(entities=lines, vertices=edges.reshape(-1, 3), colors=tints, process=False)
    built.add_geometry(path, geom_name="cameras")
    built.apply_transform(OPENGL_AXES)
    return built


def _views(scene: Scene) -> list[dict[str, Any]]:
    """How the page looks from every camera, in its axes.

    Slopes are the half width and half height of the picture at distance 1.
    """
    height, width = scene.rgb.shape[1:3]
    depth = median_depth(scene)
    views = []
    for pose, k in zip(_page_poses(scene), scene.intrinsics, strict=True):
        eye, down, forward = (pose[:3, column] for column in (3, 1, 2))
        slopes = np.array([width, height]) / (2 * np.maximum(k[[0, 1], [0, 1]], 1e-6))
        view = {"eye": eye, "target": eye + depth * forward, "up": -down, "slopes": slopes}
        views.append({name: np.round(value, 6).tolist() for name, value in view.items()})
    return views


def _behind(scene: Scene) -> dict[str, list[float]]:
    """Where the page begins: a little behind and above the first camera, looking where it looks."""
    depth = median_depth(scene)
    points = np.array([[0, -0.3 * depth, -0.8 * depth, 1], [0, 0, depth, 1]]) @ _page_poses(scene)[0].T
    return {name: np.round(x[:3], 6).tolist() for name, x in zip(("eye", "target"), points, strict=True)}


def _page_poses(scene: Scene) -> Float[np.ndarray, "t 4 4"]:
    """Camera-to-world matrices: cameras have OpenCV axes, the world those of the page (y up)."""
    return OPENGL_AXES @ invert_se3(scene.w2c.astype(np.float64))


def _frustum_edges(scene: Scene) -> list[list[float]]:
    """For every camera, the coordinates of its frustum's edges as the page has them: a little larger than its own."""
    edges, _ = frusta(scene, 1.3 * frustum_size(scene))
    edges = edges @ OPENGL_AXES[:3, :3]
    return np.round(edges.reshape(len(scene.rgb), -1), 6).tolist()


def _data_uri(frame: UInt8[np.ndarray, "h w 3"]) -> str:
    image = Image.fromarray(frame)
    image.thumbnail((FRAME_WIDTH, FRAME_WIDTH))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
