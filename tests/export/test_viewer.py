"""viewer.html, as a browser shows it."""

from dataclasses import replace

import numpy as np
import pytest

from gen3r_jax.export.pointcloud import CloudFilter, scene_cloud
from gen3r_jax.export.viewer_page import write_viewer
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.scene import Scene
from tests.helpers.browser import chromium, pixels


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
        points=unproject_depth(depth, w2c, intrinsics, offset=0.5),
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


@pytest.mark.parametrize("agrees", [True, False])
def test_the_agreement_of_two_readings_is_in_the_page_where_there_is_one(tmp_path, agrees):
    scene = _scene(2, 56)
    scene = replace(scene, agreement=np.full_like(scene.depth, 0.9)) if agrees else scene
    write_viewer(tmp_path / "viewer.html", scene, scene.points.reshape(-1, 3)[::10], scene.rgb.reshape(-1, 3)[::10])
    page = (tmp_path / "viewer.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 2 * (1 + agrees)


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def scene():
    return _scene(4, 56)


@pytest.fixture(scope="module")
def written(scene, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "viewer.html"
    keep = CloudFilter(confidence_percentile=0, outliers=False, voxel_size=None)
    write_viewer(path, scene, *scene_cloud(scene, keep), fps=20)
    return path


def _open(browser, written, width: int, height: int, **how):
    """The page in a window of a size, and what it complains of."""
    problems = []
    page = browser.new_context(offline=True, viewport={"width": width, "height": height}, **how).new_page()
    page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(written.as_uri())
    page.wait_for_function("typeof controls !== 'undefined' && document.getElementById('scrubber').max === '3'")
    return page, problems


@pytest.fixture(scope="module")
def opened(browser, written):
    return _open(browser, written, 500, 400)


@pytest.fixture
def page(opened):
    """The page as it begins."""
    page, problems = opened
    page.locator("#size").fill("2")
    page.locator("#dark").uncheck()
    page.get_by_role("button", name="reset").click()
    yield page
    assert problems == []


def test_frames_are_scrubbed_and_played(scene, page):
    first = _shown(page)
    assert _points(first) > 0.02  # not only background
    source = page.locator("#frame").get_attribute("src")
    number = page.locator("#number")
    assert number.inner_text() == "frame 1 of 4"
    page.locator("#scrubber").fill("3")
    assert number.inner_text() == "frame 4 of 4"
    assert page.locator("#frame").get_attribute("src") != source
    assert page.locator("#prompt").inner_text() == scene.prompt
    assert (first != _shown(page)).any()  # another camera is marked
    page.get_by_role("button", name="play").click()
    page.wait_for_function(
        "document.getElementById('number').textContent == 'frame 2 of 4'"
    )  # after the last, the first
    page.get_by_role("button", name="pause").click()
    stopped = number.inner_text()
    page.wait_for_timeout(200)
    assert number.inner_text() == stopped
    page.get_by_role("button", name="reset").click()
    assert number.inner_text() == "frame 1 of 4"
    np.testing.assert_array_equal(_shown(page), first)


def test_a_camera_shows_what_its_frame_shows(scene, page):
    before = _shown(page)
    page.locator("#scrubber").fill("2")
    page.locator("#look").check()
    # Where the window shows what corners and middle of the frame show: the frame fills its height.
    rows, columns = np.array([0, 0, 27, 55]), np.array([0, 55, 27, 55])
    points = (scene.points[2, rows, columns] * [1, -1, -1]).tolist()
    project = "(points) => points.map((p) => new THREE.Vector3(...p).project(camera).toArray())"
    wanted = np.stack([(2 * columns + 1) / 56 - 1, 1 - (2 * rows + 1) / 56], axis=-1) * [400 / 500, 1]
    np.testing.assert_allclose(np.array(page.evaluate(project, points))[:, :2], wanted, atol=1e-4)
    shown = _shown(page)
    page.mouse.move(450, 60)
    page.mouse.down()
    page.mouse.move(400, 90)
    page.mouse.up()
    assert not page.locator("#look").is_checked()  # whoever turns the view has left the camera
    assert (_shown(page) != shown).any()
    page.get_by_role("button", name="reset").click()
    np.testing.assert_array_equal(_shown(page), before)


def test_points_background_and_panel_can_be_set(page):
    page.locator("#size").fill("0.5")
    small = _shown(page)
    page.locator("#size").fill("6")
    large = _shown(page)
    assert _points(large) > 2 * _points(small)
    page.locator("#dark").check()
    assert (_shown(page)[0, 0] < 32).all() and (large[0, 0] == 255).all()
    page.get_by_role("button", name="hide the panel").click()
    assert not page.locator("#frames").is_visible()
    page.get_by_role("button", name="show the panel").click()
    assert page.locator("#frames").is_visible() and not page.locator("#unhide").is_visible()


def test_a_phone_shows_points_above_the_panel(browser, written):
    page, problems = _open(browser, written, 390, 800, has_touch=True, is_mobile=True, color_scheme="dark")
    panel = page.locator("#frames").bounding_box()
    assert panel["x"] == 0 and panel["width"] == 390
    assert panel["y"] > 800 / 2 and panel["y"] + panel["height"] == pytest.approx(800, abs=1)
    for name in ("play", "reset", "hide the panel"):
        box = page.get_by_role("button", name=name).bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["height"] >= 30
    shown = _shown(page)
    assert (shown[0, 0] < 32).all()  # as dark as the phone
    assert _points(shown[: int(panel["y"])]) > 0.02
    assert problems == []


def test_a_lost_context_is_drawn_again(page):
    """As after a driver's reset, or on a phone that had to free memory."""
    page.locator("#scrubber").fill("1")
    before = _shown(page)
    page.evaluate("lost = renderer.getContext().getExtension('WEBGL_lose_context'); lost.loseContext()")
    assert page.evaluate("renderer.getContext().isContextLost()")
    assert _points(_shown(page)) < 0.001  # of the browser
    page.evaluate("lost.restoreContext()")
    page.wait_for_function("!renderer.getContext().isContextLost()")
    np.testing.assert_array_equal(_shown(page), before)


def _points(picture: np.ndarray) -> float:
    """The share of pixels that are not of the colour in the corner."""
    return (np.abs(picture.astype(int) - picture[0, 0]).max(axis=-1) > 20).mean()


def _shown(page) -> np.ndarray:
    """What the canvas shows, as an image."""
    page.wait_for_timeout(200)
    page.evaluate("document.getElementById('frames').style.visibility = 'hidden'")
    picture = pixels(page.locator("canvas"))
    page.evaluate("document.getElementById('frames').style.visibility = 'visible'")
    return picture
