"""The nano model behind a server: a job is what the command makes."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.paths import NANO, REPOSITORY
from tests.serve.server import running

MAKER = "gen3r_jax.serve.making:start"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with running(tmp_path_factory.mktemp("nano"), maker=MAKER) as server:
        yield server


@pytest.mark.slow
def test_a_job_is_what_its_command_makes(server, tmp_path):
    client, image = server.client, NANO / "example.png"
    made = client.make([image], "a red table", cameras="orbit_left", camera_angle=10, format=["maps", "viewer"], seed=3)
    told = list(client.events(made["id"]))
    assert told[-1]["status"] == "done", told[-1]["error"]
    stages = {event["stage"] for event in told}
    assert {"Sampling", "Writing files"} <= stages
    assert [event["progress"] for event in told] == sorted(event["progress"] for event in told)
    assert told[-1]["picture"]

    command = told[-1]["command"].replace("example.png", str(image)).replace("SCENE", str(tmp_path / "scene"))
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    subprocess.run(
        [sys.executable, "-m", "gen3r_jax", *shlex.split(command)[1:]],
        cwd=REPOSITORY, env=environment, check=True, timeout=300,
    )  # fmt: skip
    written = {path.relative_to(tmp_path / "scene").as_posix() for path in (tmp_path / "scene").rglob("[!.]*.*")}
    assert {file["name"] for file in told[-1]["files"]} == written
    for name in ("cameras.json", "prompts.txt"):
        assert client.read(made["id"], name) == (tmp_path / "scene" / name).read_bytes(), name
    (tmp_path / "depth.npz").write_bytes(client.read(made["id"], "depth.npz"))
    np.testing.assert_array_equal(
        np.load(tmp_path / "depth.npz")["depth"], np.load(tmp_path / "scene" / "depth.npz")["depth"]
    )

    again = client.wait(client.again(made["id"], 4)["id"])
    programs = json.loads(client.read(again["id"], "run.json"))["programs"]
    assert (programs["compiled"], programs["kept"]) == (0, 0)
    assert client.read(again["id"], "cameras.json") != client.read(made["id"], "cameras.json")


@pytest.mark.slow
def test_a_preview_has_points_and_the_path(server):
    preview = server.client.preview([NANO / "example.png"], cameras="truck_left", camera_distance=0.5)
    points = np.array(preview["points"]).reshape(-1, 3)
    assert len(points) == 112 * 112 and len(preview["colors"]) == points.size
    c2w = np.array(preview["c2w"])
    assert c2w.shape == (9, 4, 4)
    np.testing.assert_allclose(c2w[0], np.eye(4), atol=1e-6)
    np.testing.assert_allclose(c2w[-1, :3, 3], [-0.5 * 0.8 * preview["depth"], 0, 0], rtol=1e-2, atol=1e-6)
    assert server.client.preview([NANO / "example.png"])["c2w"] == []  # cameras are free


@pytest.mark.slow
def test_a_reconstruction(server):
    scene = server.client.wait(server.client.reconstruct([NANO / "example.png"], format=["maps"])["id"])
    assert scene["status"] == "done", scene["error"]
    assert "depth.npz" in {file["name"] for file in scene["files"]}
