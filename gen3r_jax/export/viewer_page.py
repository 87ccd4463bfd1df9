"""viewer.html: one page that opens anywhere, offline: points and cameras to turn, frames to scrub through."""

import base64
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from gen3r_jax.export.glb import frusta, frustum_size
from gen3r_jax.export.pointcloud import at_most, median_depth
from gen3r_jax.geometry.cameras import OPENGL_AXES, invert_se3
from gen3r_jax.scene import Scene
from gen3r_jax.storage.files import write_text

if TYPE_CHECKING:  # imported where it is used: it takes half a second
    import trimesh

MOST_POINTS = 100_000
FRAME_WIDTH = 320

_PANEL = """
<style>
  #frames {{ position: fixed; left: 12px; bottom: 12px; padding: 10px; border-radius: 8px; background: #fffd;
             font: 13px system-ui, sans-serif; width: {width}px; box-shadow: 0 1px 6px #0004; }}
  #frames img {{ width: 100%; display: block; border-radius: 4px; }}
  #frames input {{ width: 100%; margin: 8px 0 4px; }}
  #frames p {{ margin: 4px 0 0; overflow-wrap: anywhere; max-height: 5em; overflow: auto; }}
</style>
<div id="frames">
  <img id="frame" alt="frame">
  <input id="scrubber" type="range" min="0" max="{last}" value="0" aria-label="frame">
  <div id="number"></div>
  <p>{prompt}</p>
</div>
<script>
  (() => {{
    const frames = {frames};
    const edges = {edges};  // of each camera's frustum: pairs of points
    const marked = new THREE.LineSegments(
      new THREE.BufferGeometry(), new THREE.LineBasicMaterial({{ color: 0xff00ff, depthTest: false }}));
    marked.frustumCulled = false;
    scene.add(marked);
    const show = () => {{
      const index = Number(document.getElementById("scrubber").value);
      document.getElementById("frame").src = frames[index];
      document.getElementById("number").textContent = `frame ${{index + 1}} of ${{frames.length}}`;
      marked.geometry.setAttribute("position", new THREE.Float32BufferAttribute(edges[index], 3));
      if (camera) render();  // the page's own; there is no camera before the points have been read
    }};
    document.getElementById("scrubber").addEventListener("input", show);
    show();
    const start = () => {{  // a little behind and above the first camera, looking where it looks
      if (!camera || !controls) return setTimeout(start, 50);
      scene.traverse((object) => {{ if (object.isPoints) object.material.size = 2; }});
      camera.up.set(...{up});
      camera.position.set(...{eye});
      controls.target.set(...{target});
      controls.update();
      render();
    }};
    start();
  }})();
</script>
"""


def write_viewer(
    path: Path | str, scene: Scene, points: Float[np.ndarray, "n 3"], colors: UInt8[np.ndarray, "n 3"]
) -> None:
    """Writes the page: trimesh's self-contained three.js viewer with a panel of the frames.

    The camera of the frame in the panel is marked.
    """
    from trimesh.viewer.notebook import scene_to_html

    page = scene_to_html(_build_scene(scene, points, colors))
    panel = _PANEL.format(
        width=FRAME_WIDTH,
        last=len(scene.rgb) - 1,
        **_first_view(scene),
        prompt=_escape(scene.prompt),
        frames=json.dumps([_data_uri(frame) for frame in scene.rgb]),
        edges=json.dumps(_frustum_edges(scene)),
    )
    write_text(path, page.replace("</body>", f"{panel}</body>"))


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


def _first_view(scene: Scene) -> dict[str, list[float]]:
    """Where the page begins, in its axes: a little behind and above the first camera, looking where it looks."""
    depth = median_depth(scene)
    c2w = OPENGL_AXES @ invert_se3(scene.w2c[0].astype(np.float64))
    points = np.array([[0, -0.3 * depth, -0.8 * depth, 1], [0, 0, depth, 1], [0, -1, 0, 0]]) @ c2w.T
    return {name: np.round(x[:3], 6).tolist() for name, x in zip(("eye", "target", "up"), points, strict=True)}


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


def _escape(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
