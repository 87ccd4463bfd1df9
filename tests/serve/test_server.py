"""A server in real processes, whose worker is a stub: what a program sees of it."""

import json
import os
import signal
import time
import zipfile

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.client import Client, ServerError
from tests.serve.server import running


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def server(folder):
    with running(folder) as server:
        yield server


@pytest.fixture(scope="module")
def client(server):
    return server.client


@pytest.fixture(scope="module")
def photo(folder):
    path = folder / "my photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (130, 120, 3), np.uint8)).save(path)
    return path


def until(holds, seconds=20.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_scene_from_request_to_zip(client, photo, folder):
    made = client.make([photo], "a red table", cameras="orbit_left", camera_angle=20, frame_index=[0], seed=7)
    told = list(client.events(made["id"]))
    scene = told[-1]
    assert (scene["status"], scene["progress"]) == ("done", 1)
    assert sorted(event["progress"] for event in told) == [event["progress"] for event in told]
    assert [file["name"] for file in scene["files"]] == ["prompts.txt", "run.json", "viewer.html", "images/0000.png"]
    assert client.read(made["id"], "images/0000.png") == photo.read_bytes()
    with zipfile.ZipFile(client.download(made["id"], folder / "scene.zip")) as archive:
        assert archive.testzip() is None
        assert archive.read(f"{made['id']}/prompts.txt") == b"a red table\n"
    assert scene["command"] == (
        "gen3r generate --weights " + scene["command"].split()[3] + " --prompt 'a red table' --cameras=orbit_left "
        "--camera_angle=20 --frame_index 0 --seed=7 --images 'my photo.png' --output SCENE"
    )
    assert client.delete(made["id"])
    with pytest.raises(ServerError, match="no scene") as gone:
        client.scene(made["id"])
    assert gone.value.status == 404


def test_the_same_key_makes_one_scene(client, photo):
    ids = {client.make([photo], "a table", key="once")["id"] for _ in range(3)}
    assert len(ids) == 1
    with pytest.raises(ServerError) as other:
        client.make([photo], "another table", key="once")
    assert other.value.status == 409


def test_what_fails_says_why(client, photo, server):
    scene = client.wait(client.make([photo], "fail")["id"])
    assert (scene["status"], scene["error"]) == ("failed", "images/photo.png is not to be had")  # no place of the store
    scene = client.wait(client.make([photo], "crash")["id"])
    assert (scene["status"], scene["error"]) == ("failed", "RuntimeError: a bug")
    assert "Traceback" not in server.log


def test_a_job_that_kills_its_worker_is_tried_twice(client, photo):
    scene = client.wait(client.make([photo], "die")["id"])
    assert (scene["status"], scene["error"]) == ("failed", "its worker died 2 times while it made this")
    assert client.wait(client.make([photo], "a table")["id"])["status"] == "done"


def test_cancelling(client, photo):
    slow, waiting = (client.make([photo], "wait 30")["id"] for _ in range(2))
    until(lambda: client.scene(slow)["status"] == "running")
    assert client.scene(waiting)["ahead"] == 0 and client.scene(slow)["seconds_left"] is not None
    assert client.delete(waiting) and client.scene(waiting)["status"] == "cancelled"
    assert not client.delete(slow)
    scene = client.wait(slow, 10)
    assert (scene["status"], scene["files"]) == ("cancelled", [])
    assert client.delete(slow)


def test_again_with_another_seed(client, photo):
    first = client.wait(client.make([photo], "a table", seed=1)["id"])
    second = client.wait(client.again(first["id"], 2)["id"])
    assert (second["status"], second["fields"]["seed"]) == ("done", "2")
    assert second["command"] == first["command"].replace("--seed=1", "--seed=2")
    with pytest.raises(ServerError, match="seed"):
        client.again(first["id"], -1)


def test_previews_and_reconstructions_are_jobs_too(client, photo):
    assert client.preview([photo], cameras="spiral") == {"options": {}}
    scene = client.wait(client.reconstruct([photo], num_frames=1)["id"])
    assert (scene["kind"], scene["status"]) == ("reconstruct", "done")
    assert "preview" not in {scene["kind"] for scene in client.scenes()}


def test_pages(client, photo):
    ids = [client.make([photo], f"table {number}")["id"] for number in range(3)]
    client.wait(ids[-1])
    assert [scene["id"] for scene in client.scenes()][:3] == ids[::-1]
    page = client._json("GET", "/v1/scenes?limit=2")
    assert [scene["id"] for scene in page["scenes"]] == ids[:0:-1] and page["next"] == page["scenes"][-1]["number"]


@pytest.mark.parametrize(
    "flags, told",
    [
        ({"num_frames": 6}, "frame"),
        ({"seed": "x"}, "invalid int value"),
        ({"weights": "/etc"}, "no field 'weights'"),
        ({"output": "/tmp/x"}, "no field 'output'"),
        ({"cameras": "/etc/passwd"}, "none of free"),
        ({"cameras": "orbit_lefty"}, "none of free"),
        ({"format": ["--output=/tmp"]}, "is a list"),
        ({"size": 11200, "num_frames": 49}, "megapixels"),
        ({"num_inference_steps": 100000}, "above 200"),
        ({"task": "2view"}, "1 frame, 2view takes 2"),
        ({"camera_angle": 10}, "of presets"),
        ({"remove_far_points": "maybe"}, "true or false"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_accepted(client, photo, flags, told):
    with pytest.raises(ServerError, match=told) as refused:
        client.make([photo], "a table", **flags)
    assert refused.value.status == 422
    assert str(photo.parent) not in str(refused.value)


def test_a_prompt_is_a_text_and_never_a_file(client, photo):
    scene = client.wait(client.make([photo], "/etc/hostname")["id"])
    assert (scene["status"], scene["prompt"]) == ("done", "/etc/hostname")
    assert client.read(scene["id"], "prompts.txt") == b"/etc/hostname\n"


def test_pictures_that_are_none(client, folder):
    for name, content in {"a.png": b"no picture", "b.txt": b"text", "c.mp4": b"\0" * 100}.items():
        (folder / name).write_bytes(content)
        with pytest.raises(ServerError, match=name) as refused:
            client.make([folder / name], "a table")
        assert refused.value.status == (415 if name == "b.txt" else 422)


def test_what_can_be_asked_for(client):
    about = client._json("GET", "/v1/about")
    fields = {field["name"]: field for field in about["fields"]}
    assert fields["num_frames"]["default"] == 9 and fields["size"]["kind"] == "list"
    assert {
        "name": "orbit_left",
        "help": "around the scene's middle, moving left by an angle",
        "options": ["angle"],
    } in about["presets"]
    assert "table" in about["words"] and len(about["words"]) > 50
    assert about["workers"] == [{"worker": 0, "device": "stub"}]


def test_health_and_numbers(client):
    assert client._json("GET", "/healthz") == {"status": "ok", "workers": 1}
    with client._open("GET", "/metrics") as answer:
        text = answer.read().decode()
    assert 'gen3r_jobs{status="queued"} 0' in text and "gen3r_workers 1" in text
    assert float(text.split('gen3r_jobs_ended_total{status="done"} ')[1].split()[0]) > 5


def test_web_and_worker_are_killed_and_nothing_is_lost(server, client, photo):
    ids = [client.make([photo], f"wait 0.{number}")["id"] for number in range(1, 6)]
    for module in ("web", "worker"):
        (pid,) = server.children(module)
        os.kill(pid, signal.SIGKILL)
        until(lambda module=module, pid=pid: server.children(module) not in ([], [pid]))
    assert {client.wait(id)["status"] for id in ids} == {"done"}


@pytest.mark.slow
def test_a_stopped_server_goes_on_where_it_was(tmp_path, photo):
    with running(tmp_path) as server:
        done = server.client.make([photo], "a table")["id"]
        server.client.wait(done)
        ids = [server.client.make([photo], "wait 0.6")["id"] for _ in range(2)]
        until(lambda: server.client.scene(ids[0])["status"] == "running")
    with running(tmp_path, workers=2) as server:
        assert {server.client.wait(id)["status"] for id in ids} == {"done"}
        assert [scene["id"] for scene in server.client.scenes()] == [*ids[::-1], done]
        assert server.client._json("GET", "/healthz")["workers"] == 2


def test_a_client_of_a_server_that_is_not_there():
    with pytest.raises(OSError):
        Client("http://127.0.0.1:9", timeout=1).scene("x")


def test_the_interface_describes_itself(client):
    paths = client._json("GET", "/openapi.json")["paths"]
    assert {
        "/v1/scenes",
        "/v1/scenes/{id}",
        "/v1/reconstructions",
        "/v1/cameras/preview",
        "/healthz",
        "/metrics",
    } <= set(paths)
    assert "multipart/form-data" in json.dumps(paths["/v1/scenes"]["post"])
