"""Look at a scene in the browser: ``gen3r view SCENE_DIR``"""

import argparse
import errno
import socket
import time
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.export.pointcloud import confident_pixels, median_depth
from gen3r_jax.export.read import read_scene
from gen3r_jax.geometry.cameras import invert_se3, matrix_to_quaternion
from gen3r_jax.scene import Scene

POINTS_A_FRAME = 50_000


def serve(scene: Scene, port: int, host: str = "127.0.0.1") -> Any:
    """Starts a viser server with the scene's points frame by frame, its cameras and a timeline; returns it.

    Where the port is in use, the next free one is taken.
    Raises UserError when viser is not installed, or nothing can listen at `host`.
    """
    _require_address(host, port)
    try:
        import viser
    except ImportError:
        raise UserError(
            "the viewer needs viser: pip install 'gen3r-jax[viewer]'; or open the scene's viewer.html"
        ) from None
    server = viser.ViserServer(host=host, port=port, verbose=False)
    server.scene.set_up_direction("-y")
    frames, height, width = scene.depth.shape
    confident = confident_pixels(scene, 20)
    rng = np.random.default_rng(0)
    clouds = []
    for index in range(frames):
        kept = np.flatnonzero(confident[index])
        if len(kept) > POINTS_A_FRAME:
            kept = rng.choice(kept, POINTS_A_FRAME, replace=False, shuffle=False)
        points, colors = (x[index].reshape(-1, 3)[kept] for x in (scene.points, scene.rgb))
        clouds.append(server.scene.add_point_cloud(f"/points/{index}", points, colors, visible=index == 0))
    size = 0.1 * median_depth(scene)
    c2w = invert_se3(scene.w2c.astype(np.float64))
    for index, (pose, k) in enumerate(zip(c2w, scene.intrinsics, strict=True)):
        x, y, z, w = matrix_to_quaternion(pose[:3, :3])
        server.scene.add_camera_frustum(
            f"/cameras/{index}",
            fov=2 * float(np.arctan(height / 2 / k[1, 1])),
            aspect=width / height,
            scale=size,
            image=scene.rgb[index, ::4, ::4],
            wxyz=np.array([w, x, y, z]),
            position=pose[:3, 3],
        )
    everything = server.gui.add_checkbox("All frames", initial_value=False)
    timeline = server.gui.add_slider("Frame", min=0, max=max(1, frames - 1), step=1, initial_value=0)

    def show(_: Any) -> None:
        for index, cloud in enumerate(clouds):
            cloud.visible = everything.value or index == min(timeline.value, frames - 1)

    timeline.on_update(show)
    everything.on_update(show)
    return server


def _require_address(host: str, port: int) -> None:
    """Raises UserError where the server, which would only tell its own thread, could not listen."""
    if not 0 <= port < 1 << 16:  # some systems take the rest of a larger number
        raise UserError(f"cannot listen at {host} port {port}: ports are below 65536; give another --host or --port")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.create_server(address[:2], family=family):
            pass
    except OSError as error:
        if getattr(error, "errno", None) != errno.EADDRINUSE:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot listen at {host} port {port}: {reason}; give another --host or --port") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gen3r view", description="Shows a scene folder in the browser, live.")
    parser.add_argument("scene", type=Path, metavar="SCENE_DIR", help="a folder written by generate or reconstruct")
    parser.add_argument("--port", type=int, default=8080, help="default: 8080")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines look too (default: 127.0.0.1)")
    options = parser.parse_args(arguments)
    server = serve(read_scene(options.scene), options.port, options.host)
    print(f"http://localhost:{server.get_port()} (Ctrl+C ends it)")
    try:
        while True:
            time.sleep(1)
    finally:
        server.stop()


if __name__ == "__main__":
    main_guard(main)
