"""Web and workers are killed at random while jobs come in: every job that was accepted ends once."""

import os
import random
import signal
import threading
import time

import pytest

from gen3r_jax.client import Client, ServerError
from tests.serve import hostile
from tests.serve.server import running

KILLS = 50


class Load(threading.Thread):
    """Sends jobs, cancels some, and looks at what is shown, until it is told to stop."""

    def __init__(self, address: str, folder, seed: int):
        super().__init__(daemon=True)
        self._client, self._rng, self._name = Client(address, timeout=10), random.Random(seed), f"load{seed}"
        self._photo = folder / f"{self._name}.png"
        self._photo.write_bytes(hostile.picture())
        self.accepted: dict[str, str] = {}
        self.wrong: list[str] = []
        self.stopped = threading.Event()

    def run(self) -> None:
        number = 0
        while not self.stopped.is_set():
            try:
                key = f"{self._name}-{number}"
                seconds = (0.02, 0.2, 0.6)[number % 3]
                id = self._client.make([self._photo], f"wait {seconds}", key=key)["id"]
                if self.accepted.setdefault(key, id) != id:
                    self.wrong.append(f"{key} was accepted twice: {id}, {self.accepted[key]}")
                if self._rng.random() < 0.8:  # else the same once more
                    number += 1
                    if self._rng.random() < 0.15:
                        self._client.delete(id)
                self._look(self._rng.choice(list(self.accepted.values())))
            except ServerError as error:
                if error.status not in (404, 429):
                    self.wrong.append(str(error))
            except OSError:  # web has been killed; the same request comes again
                pass
            time.sleep(0.05)

    def _look(self, id: str) -> None:
        scene = self._client.scene(id)
        names = {file["name"] for file in scene["files"]}
        whole = {"prompts.txt", "run.json", "viewer.html", "images/0000.png"}
        if names != (whole if scene["status"] == "done" else set()):
            self.wrong.append(f"{id} is {scene['status']} and shows {names}")
        if scene["status"] == "failed" and not scene["error"]:
            self.wrong.append(f"{id} failed without a reason")


@pytest.mark.slow
@pytest.mark.timeout(800)
def test_every_job_ends_once_whoever_is_killed(tmp_path):
    rng = random.Random(7)
    with running(tmp_path, workers=2) as server:
        loads = [Load(server.address, tmp_path, seed) for seed in range(2)]
        [load.start() for load in loads]
        killed = {"web": 0, "worker": 0}
        while sum(killed.values()) < KILLS:
            time.sleep(rng.uniform(0.2, 2.0))
            kind = rng.choice(["web", "worker", "worker"])
            if pids := server.children(kind):
                os.kill(rng.choice(pids), signal.SIGKILL)
                killed[kind] += 1
        for load in loads:
            load.stopped.set()
            load.join(60)
        client = server.client
        accepted = {id for load in loads for id in load.accepted.values()}
        assert [load.wrong for load in loads] == [[], []]
        assert len(accepted) > KILLS and min(killed.values()) > 5
        # Accepted are also those whose answer was lost; gone are only those that were deleted when they had ended.
        there = {scene["id"] for scene in client.scenes()}
        ended = {id: client.wait(id, 120)["status"] for id in there}
        assert {"done"} <= set(ended.values()) <= {"done", "failed", "cancelled"}
        with client._open("GET", "/metrics") as answer:
            lines = answer.read().decode().splitlines()
        counts = [int(line.split()[-1]) for line in lines if line.startswith("gen3r_jobs_ended_total")]
        assert sum(counts) == len(accepted | there)
    scenes = tmp_path / "store" / "scenes"
    shown = {path.name for path in scenes.iterdir() if not path.name.startswith(".")}
    assert shown == {id for id, status in ended.items() if status == "done"}
    assert not list(scenes.glob(".*.partial"))
