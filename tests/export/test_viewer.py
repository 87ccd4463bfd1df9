"""viewer.html, as a browser shows it."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.export.pointcloud import CloudFilter, scene_cloud
from gen3r_jax.export.viewer_page import write_viewer
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.scene import Scene

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
# WebGL is drawn by the processor; nothing is fetched.
FLAGS = [
    *("--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


def _scene(frames: int, side: int) -> Scene:
    v, u = np.mgrid[:side, :side]
    w2c = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    w2c[:, 0, 3] = -0.5 * np.arange(frames) / frames
    k = np.array([[side, 0, side / 2], [0, side, side / 2], [0, 0, 1]], np.float32)
    intrinsics = np.tile(k, (frames, 1, 1))
    depth = np.tile(2 + 0.3 * np.sin(9 * u / side), (frames, 1, 1)).astype(np.float32)
    rgb = np.stack([255 * u / side, 255 * v / side, 0 * u], axis=-1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 60, (frames, side, side, 1))
    return Scene(
        rgb=np.clip(rgb + noise, 0, 255).astype(np.uint8),
        depth=depth,
        confidence=np.full_like(depth, 5),
        w2c=w2c,
        intrinsics=intrinsics,
        points=unproject_depth(depth, w2c, intrinsics),
        prompt='a wall </script><b>"quoted"</b> & {braces}',
    )


@pytest.mark.slow
def test_the_page_is_small_and_needs_nothing_else(tmp_path):
    scene = _scene(49, 560)
    points, colors = scene.points.reshape(-1, 3)[::10], scene.rgb.reshape(-1, 3)[::10]
    write_viewer(tmp_path / "viewer.html", scene, points, colors)
    page = (tmp_path / "viewer.html").read_text(encoding="utf-8")
    assert len(page) < 10e6  # measured 4.2e6
    assert page.count("data:image/jpeg;base64,") == 49
    for fetched in ('src="http', 'href="http', "url(http", 'src="//'):
        assert fetched not in page


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
def test_the_page_works_in_a_browser(tmp_path):
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra: dev)")
    scene = _scene(4, 56)
    keep = CloudFilter(confidence_percentile=0, outliers=False, voxel_size=None)
    write_viewer(tmp_path / "viewer.html", scene, *scene_cloud(scene, keep))
    problems = []
    with playwright.sync_playwright() as browsers:
        browser = browsers.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        page = browser.new_context(offline=True, viewport={"width": 900, "height": 700}).new_page()
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto((tmp_path / "viewer.html").as_uri())
        page.wait_for_function("typeof controls !== 'undefined'")
        first = _shown(page)
        assert (np.abs(first.astype(int) - first[0, 0]).max(axis=-1) > 20).mean() > 0.02  # points, not only background
        source = page.locator("#frame").get_attribute("src")
        assert page.locator("#number").inner_text() == "frame 1 of 4"
        page.locator("#scrubber").fill("3")
        assert page.locator("#number").inner_text() == "frame 4 of 4"
        assert page.locator("#frame").get_attribute("src") != source
        assert page.locator("#frames p").inner_text() == scene.prompt
        moved = _shown(page)
        assert (first != moved).any()  # another camera is marked
        browser.close()
    assert problems == []


def _shown(page) -> np.ndarray:
    """What the canvas shows, as an image."""
    page.wait_for_timeout(300)
    page.evaluate("document.getElementById('frames').style.visibility = 'hidden'")
    picture = np.asarray(Image.open(io.BytesIO(page.locator("canvas").screenshot())).convert("RGB"))
    page.evaluate("document.getElementById('frames').style.visibility = 'visible'")
    return picture
