"""The page in a real browser, with the nano model behind it. GEN3R_PICTURES=docs/pictures keeps what it looks like."""

import base64
import json
import os
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.browser import chromium, pixels
from tests.helpers.paths import NANO
from tests.serve.server import running

pytestmark = pytest.mark.slow
PROMPT = "The camera orbits to the left around a cream and red shaded table."
IMAGE = NANO / "example.png"
MINUTE = 60_000  # milliseconds


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("page"), maker="gen3r_jax.serve.making:start") as server:
        yield server


@pytest.fixture
def open_page(browser, server):
    """Opens the page in windows of its own; what they complain of, or ask other hosts for, fails the test."""
    contexts, problems = [], []

    def open_page(width=1300, height=900, address=server.address, **how):
        context = browser.new_context(viewport={"width": width, "height": height}, **how)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(MINUTE)
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((server.address, "blob:", "data:", "about:"))
                else problems.append(request.url)
            ),
        )
        page.goto(address)
        page.locator("#main").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def drop(page, path: Path) -> None:
    """Drops a file on the page."""
    content = base64.b64encode(path.read_bytes()).decode()
    transfer = page.evaluate_handle(
        """([text, name]) => {
          const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
          const transfer = new DataTransfer();
          transfer.items.add(new File([bytes], name, { type: "image/png" }));
          return transfer;
        }""",
        [content, path.name],
    )
    for event in ("dragover", "drop"):
        page.dispatch_event("#drop", event, {"dataTransfer": transfer})


def newest(page):
    return page.locator("#list li").first


def until(page, expression: str, argument=None) -> None:
    """Waits until an expression holds. The page's policy forbids what playwright does for that, evaluating texts."""
    end = time.monotonic() + 120
    while not page.evaluate(expression, argument):
        assert time.monotonic() < end, (expression, page.locator("body").inner_text()[-1500:])
        page.wait_for_timeout(50)


def wait_for(page, text: str) -> None:
    until(page, "(text) => document.querySelector('#list .state')?.textContent.startsWith(text)", text)


def keep(page, name: str) -> None:
    if folder := os.environ.get("GEN3R_PICTURES"):
        page.evaluate("window.scrollTo(0, 0)")
        page.screenshot(path=f"{folder}/{name}.jpg", quality=80)


def test_a_photo_becomes_a_scene(open_page, server, tmp_path):
    page = open_page(height=1180)
    until(page, "document.getElementById('server').textContent.includes('9 frames of 112 x 112')")
    drop(page, IMAGE)
    assert page.locator("#pictures img").get_attribute("alt") == "example.png"
    page.locator("#prompt").fill(PROMPT + " A zeppelin.")
    assert page.locator("#unknown").inner_text() == "These weights do not know: zeppelin"
    page.locator("#prompt").fill(PROMPT)
    assert page.locator("#unknown").is_hidden()

    page.locator("#cameras").select_option("orbit_left")
    assert page.locator("#camera_distance").is_hidden()
    page.locator("#camera_angle").fill("15")
    page.get_by_role("button", name="Look at the path").click()
    page.locator("#flight").wait_for()
    page.wait_for_timeout(500)
    first = pixels(page.locator("#view"))
    assert len(np.unique(first.reshape(-1, 3), axis=0)) > 500  # points, not one colour
    page.locator("#frame").fill("8")
    assert page.locator("#frame-number").inner_text() == "frame 9 of 9"
    page.wait_for_timeout(300)
    assert (pixels(page.locator("#view")) != first).mean() > 0.01
    keep(page, "serve_path")

    page.get_by_role("button", name="Make the scene").click()
    page.locator("#list progress:visible").wait_for()
    wait_for(page, "done")
    assert newest(page).locator("img").is_visible()
    newest(page).get_by_role("button", name="Look").click()
    viewer = page.frame_locator("#viewer")
    viewer.locator("canvas").wait_for()
    page.wait_for_timeout(1500)
    shown = pixels(page.locator("#viewer"))
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) > 1000
    viewer.get_by_role("button", name="play").click()
    keep(page, "serve_scene")
    assert page.locator("#command").input_value().startswith("gen3r generate --weights ")
    with page.expect_download() as download:
        page.locator("#zip").click()
    download.value.save_as(tmp_path / "scene.zip")
    with zipfile.ZipFile(tmp_path / "scene.zip") as archive:
        assert archive.testzip() is None
        names = {name.partition("/")[2] for name in archive.namelist()}
    assert {"viewer.html", "run.json", "rgb.mp4", "points.ply"} <= names
    page.keyboard.press("Escape")
    assert not page.locator("#look").is_visible()

    page.reload()
    wait_for(page, "done")
    assert newest(page).locator("p").first.inner_text() == PROMPT


def test_two_tabs_cancel_and_delete(open_page):
    one, two = open_page(), open_page()
    one.locator("#files").set_input_files(IMAGE)
    one.locator("#prompt").fill("a red table")
    one.get_by_label("num inference steps").fill("200")
    one.get_by_role("button", name="Make the scene").click()
    two.locator("#list progress:visible").wait_for()
    two.get_by_role("button", name="Cancel").first.click()
    for page in (one, two):
        wait_for(page, "cancelled")
    before = two.locator("#list li").count()
    two.on("dialog", lambda dialog: dialog.accept())
    newest(two).get_by_role("button", name="Delete").click()
    until(one, "(count) => document.querySelectorAll('#list li').length === count", before - 1)


def test_key_poses_make_a_path(open_page, server):
    page = open_page()
    page.locator("#files").set_input_files(IMAGE)
    page.locator("#prompt").fill("a red table")
    page.locator("#cameras").select_option("keys")
    page.get_by_role("button", name="Look at the path").click()
    page.locator("#flight").wait_for()
    for _ in range(3):
        page.get_by_role("button", name="right", exact=True).click()
    page.get_by_role("button", name="Add this view as a key pose").click()
    until(page, "document.getElementById('frame-number').textContent === 'frame 1 of 9'")
    assert page.locator("#key-poses li").count() == 1
    page.get_by_role("button", name="Make the scene").click()
    page.locator("#list progress:visible").wait_for()
    wait_for(page, "done")
    scene = server.client.scene(newest(page).get_attribute("data-id"))
    given = json.loads(
        (Path(server._log).parent / "store/inputs" / scene["id"] / "cameras_file/camera_path.json").read_text()
    )
    eye = np.array(given["camera_path"][1]["camera_to_world"]).reshape(4, 4)[:3, 3]
    depth = eye[0] / (3 * 0.08)
    assert depth > 0 and np.abs(eye[1:]).max() < 1e-6  # to the right, and nowhere else
    # Points that move to the left as the camera moves to the right: the path is seen as it was meant.
    page.locator("#frame").fill("8")
    page.wait_for_timeout(300)


def test_several_photos_are_frames_of_the_clip(open_page, server):
    page = open_page()
    page.locator("#files").set_input_files([IMAGE, IMAGE])
    numbers = page.locator("#pictures input")
    assert [numbers.nth(index).input_value() for index in range(2)] == ["0", "8"]
    numbers.nth(1).fill("4")
    page.locator("#prompt").fill("a red table")
    before = page.locator("#list li").count()
    page.get_by_role("button", name="Make the scene").click()
    until(page, "(count) => document.querySelectorAll('#list li').length > count", before)
    scene = server.client.scene(newest(page).get_attribute("data-id"))
    assert scene["fields"]["frame_index"] == "0,4"
    assert "--frame_index 0 4" in scene["command"] and scene["command"].count("example.png") == 2
    wait_for(page, "done")


def test_four_seeds(open_page):
    page = open_page()
    page.locator("#files").set_input_files(IMAGE)
    page.locator("#prompt").fill("a red table")
    page.locator("#four").check()
    page.get_by_role("button", name="Make the scene").click()
    until(page, "document.querySelectorAll('#list li').length >= 4")
    states = page.locator("#list .state")
    until(
        page,
        "[...document.querySelectorAll('#list .state')].slice(0, 4).every((one) => one.textContent.startsWith('done'))",
    )
    assert [states.nth(index).inner_text().split(";")[1] for index in range(3)] == [
        f" seed {45 - index}" for index in range(3)
    ]


def test_what_is_missing_is_told(open_page):
    page = open_page()
    page.get_by_role("button", name="Make the scene").click()
    until(page, "document.getElementById('message').textContent === 'say what the scene shows'")
    page.locator("#prompt").fill("x")
    page.get_by_role("button", name="Make the scene").click()
    until(page, "document.getElementById('message').textContent.startsWith('give a picture first')")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone(open_page, scheme):
    page = open_page(390, 800, has_touch=True, is_mobile=True, color_scheme=scheme)
    page.locator("#files").set_input_files(IMAGE)
    page.locator("#prompt").fill("a red table")
    page.get_by_role("button", name="Look at the path").click()
    page.locator("#flight").wait_for()
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    background = pixels(page.locator("header"))[2, 2]
    assert (background < 64).all() if scheme == "dark" else (background > 200).all()
    for button in page.locator("button:visible").all():
        box = button.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    if scheme == "dark":
        keep(page, "serve_phone_dark")


def test_by_keyboard_alone(open_page):
    page = open_page()

    def reach(holds: str) -> None:
        for _ in range(80):
            if page.evaluate(f"(() => {{ const at = document.activeElement; return {holds}; }})()"):
                return
            page.keyboard.press("Tab")
        raise AssertionError(holds)

    reach("at.id === 'files'")
    assert page.evaluate("getComputedStyle(document.getElementById('drop')).borderColor") != ""
    page.locator("#files").set_input_files(IMAGE)  # the system's dialog is not the page's
    reach("at.id === 'prompt'")
    page.keyboard.type("a red table")
    reach("at.id === 'cameras'")
    page.keyboard.type("truck left")
    assert page.locator("#cameras").input_value() == "truck_left"
    reach("at.textContent === 'Make the scene'")
    page.keyboard.press("Enter")
    page.locator("#list progress:visible").wait_for()
    wait_for(page, "done")
    reach("at.textContent === 'Look'")
    page.keyboard.press("Space")
    page.locator("#viewer").wait_for()
    page.keyboard.press("Escape")
    assert not page.locator("#look").is_visible()


def test_a_lost_context_is_drawn_again(open_page):
    page = open_page()
    page.locator("#files").set_input_files(IMAGE)
    page.locator("#cameras").select_option("dolly_in")
    page.get_by_role("button", name="Look at the path").click()
    page.locator("#flight").wait_for()
    page.wait_for_timeout(500)
    before = pixels(page.locator("#view"))
    page.evaluate("lost = document.getElementById('view').getContext('webgl2').getExtension('WEBGL_lose_context')")
    page.evaluate("lost.loseContext()")
    page.wait_for_timeout(200)
    page.evaluate("lost.restoreContext()")
    page.wait_for_timeout(1000)
    assert (np.abs(pixels(page.locator("#view")).astype(int) - before).max(axis=-1) > 20).mean() < 0.01


def test_the_interface_is_described(open_page, server):
    page = open_page()
    page.goto(server.address + "docs")
    page.locator("#calls dt").first.wait_for()
    assert "POST /v1/scenes" in page.locator("#calls").inner_text()


def test_a_token_opens_the_page_and_leaves_the_address(browser, tmp_path):
    with running(tmp_path, token="correct-horse-battery-staple") as server:
        page = browser.new_page()
        page.goto(server.address)
        page.locator("#main").wait_for()
        assert page.url == server.address.partition("#")[0]
        page.reload()
        page.locator("#main").wait_for()
        page.context.clear_cookies()
        page.reload()
        page.locator("#token").fill("correct-horse-battery-staple")
        page.keyboard.press("Enter")
        page.locator("#main").wait_for()
        page.close()
