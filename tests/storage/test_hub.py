"""Weights from the Hub, by huggingface_hub itself: a small server on this machine stands for the Hub."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from conversion.commands import random_checkpoint
from conversion.pipeline_folder import find_weights, random_pipeline
from gen3r_jax.errors import UserError
from gen3r_jax.info import describe
from gen3r_jax.models.registry import PRESETS
from gen3r_jax.storage.hub import is_hub_id, read_licence, source_of
from tests.helpers.paths import REPOSITORY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CARD = "---\nlicense: cc-by-nc-4.0\n---\n# Weights\n"
DOWNLOAD = """
import sys
from gen3r_jax.errors import main_guard
from gen3r_jax.storage.hub import download
main_guard(lambda: print(download(sys.argv[1])))
"""
OPEN = """
import sys
from gen3r_jax import VGGT, Gen3RPipeline
from gen3r_jax.errors import main_guard
def main():
    print(Gen3RPipeline.from_pretrained("user/gen3r").licence)
    VGGT.from_pretrained("user/vggt@main")
main_guard(main)
"""


class Hub(ThreadingHTTPServer):
    """The part of the Hub's interface that a download needs.

    Attributes:
      files: content by repository and name.
      refusals: (status, X-Error-Code) by repository, for its files.
      asked: methods, names and ranges of the requests for files, in their order.
      breaks: after how many bytes the next file breaks off, once.
      claimed: size that files are said to have, in bytes.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.refusals: dict[str, tuple[int, str]] = {}
        self.asked: list[tuple[str, str, str | None]] = []
        self.breaks, self.claimed = 0, 0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        if match := re.fullmatch(r"/api/models/(\w+/\w+)/(revision|tree)/(\w+)(\?.*)?", self.path):
            repository, what, revision, _ = match.groups()
            files = self.server.files.get(repository)
            if files is None:
                return self._refuse(401, "RepoNotFound")
            if revision not in ("main", COMMIT):
                return self._refuse(404, "RevisionNotFound")
            listed = [{"type": "file", "path": name, "size": len(data), "oid": "0"} for name, data in files.items()]
            return self._send(json.dumps({"id": repository, "sha": COMMIT} if what == "revision" else listed).encode())
        if not (match := re.fullmatch(rf"/(\w+/\w+)/resolve/{COMMIT}/(.*)", self.path)):
            return self._refuse(404, "")  # huggingface_hub asks for more than files
        repository, name = match.groups()
        self.server.asked.append((self.command, name, self.headers["Range"]))
        if repository in self.server.refusals:
            return self._refuse(*self.server.refusals[repository])
        return self._send(self.server.files[repository][name], file=True)

    do_HEAD = do_GET

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, content: bytes, file: bool = False) -> None:
        first = int(re.fullmatch(r"bytes=(\d+)-\d*", self.headers["Range"] or "bytes=0-")[1])
        self.send_response(206 if self.headers["Range"] else 200)
        self.send_header("Content-Length", str(len(content) - first))
        if self.headers["Range"]:
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if file:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if self.server.claimed:
                self.send_header("X-Linked-Size", str(self.server.claimed))
        self.end_headers()
        if self.command == "HEAD":
            return
        if file and self.server.breaks:
            content, self.server.breaks, self.close_connection = content[: self.server.breaks], 0, True
        self.wfile.write(content[first:])

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def run(hub, tmp_path):
    """Runs a script that meets the server as the Hub -> (status, standard output, standard error).

    Caches are in `tmp_path`.
    """

    def run(script: str, *arguments: str, **changes: str) -> tuple[int, str, str]:
        environment = os.environ | {
            "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(tmp_path / "hf"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PYTHONPATH": str(REPOSITORY),
        }
        command, options = [sys.executable, "-c", script, *arguments], {"capture_output": True, "text": True}
        done = subprocess.run(command, cwd=tmp_path, env=environment | changes, timeout=200, **options)
        return done.returncode, done.stdout.strip(), done.stderr

    return run


def read(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_ids():
    assert all(map(is_hub_id, ("facebook/VGGT-1B", "JaceyH919/Gen3R", "a/b@v1.0", f"a/b@{COMMIT}", "a/b@refs/pr/1")))
    assert not any(map(is_hub_id, ("weights", "/a/b", "./b", "../b", "a/b/c", "a/b@", "gs://a/b", "a/b@c/", "a/b@/c")))
    assert source_of(Path(f"/x/models--user--nets/snapshots/{COMMIT}")) == f"user/nets@{COMMIT}"
    assert source_of(Path(f"/x/nets/snapshots/{COMMIT}")) is None and source_of(Path("nets")) is None


def test_what_is_needed_is_downloaded_once(hub, run):
    hub.files["user/nets"] = {
        "README.md": CARD.encode(),
        "vggt/model.safetensors": b"tensors",
        "vggt/model.pt": b"the same",
        "vggt/config.json": b"{}",
        "demo.mp4": b"film",
    }
    hub.files["user/old"] = {"model.pt": b"pickle", "demo.mp4": b"film"}
    status, folder, errors = run(DOWNLOAD, "user/nets@main")
    assert status == 0, errors
    assert set(read(Path(folder))) == {"README.md", "vggt/model.safetensors", "vggt/config.json"}
    assert "downloading user/nets@main, 0.00 GB" in errors
    assert set(read(Path(run(DOWNLOAD, "user/old")[1]))) == {"model.pt"}
    asked = len(hub.asked)
    assert run(DOWNLOAD, "user/nets@main")[1] == folder and len(hub.asked) == asked
    hub.shutdown()
    assert run(DOWNLOAD, "user/nets@main", HF_HUB_OFFLINE="1")[1] == folder
    status, _, errors = run(DOWNLOAD, "user/more", HF_HUB_OFFLINE="1")
    assert status == 2 and "cannot be had from" in errors and "pretrained/nano" in errors


def test_a_connection_that_breaks_goes_on_where_it_was(hub, run):
    content = os.urandom(12 << 20)
    hub.files["user/nets"] = {"model.safetensors": content}
    hub.breaks = 11 << 20  # huggingface_hub writes 10 MiB at a time
    status, folder, errors = run(DOWNLOAD, "user/nets")
    assert status == 0, errors
    assert (Path(folder) / "model.safetensors").read_bytes() == content
    assert [asked for method, _, asked in hub.asked if method == "GET"] == [None, f"bytes={10 << 20}-"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("user/gated", "is gated: ask for access at http.*/user/gated, then set HF_TOKEN"),
        ("user/none", "no such folder here and no such repository .* if it is private, set HF_TOKEN"),
        ("user/gated@v2", "no such revision"),
        ("user/large", "needs 1000000.00 GB, but .* set HF_HOME"),
        ("user/broken", r"cannot be had from .* now \(.*418"),
    ],
)
def test_refusals_are_one_line(hub, run, name, message):
    hub.files |= {name: {"model.safetensors": b"tensors"} for name in ("user/gated", "user/large", "user/broken")}
    hub.refusals |= {"user/gated": (403, "GatedRepo"), "user/broken": (418, "")}
    hub.claimed = 10**15 if name == "user/large" else 0
    status, _, errors = run(DOWNLOAD, name)
    last = errors.splitlines()[-1]
    assert status == 2 and last.startswith("error: ") and re.search(message, last), errors
    assert len(last) < 400


@pytest.mark.slow
def test_official_weights_are_converted_once(hub, run, tmp_path):
    random_pipeline(tmp_path / "gen3r", tiny=True, dtype="float32")
    random_checkpoint("vggt", tmp_path / "vggt", config=PRESETS["tiny"]["vggt"])
    for name in ("gen3r", "vggt"):
        hub.files[f"user/{name}"] = read(tmp_path / name) | {"README.md": CARD.encode()}
    status, output, errors = run(OPEN)
    assert status == 0, errors
    licence = f"cc-by-nc-4.0, not for commercial use (of user/gen3r@{COMMIT})"
    assert output == licence and errors.count("licence of the weights: cc-by-nc-4.0") == 2
    folder = tmp_path / "cache" / "gen3r_jax" / "converted" / f"user--gen3r@{COMMIT}"
    assert read_licence(folder) == licence and f"licence: {licence}" in describe(folder)
    hub.shutdown()
    status, output, errors = run(OPEN, HF_HUB_OFFLINE="1")
    assert status == 0 and output == licence and "converting" not in errors, errors


def test_a_folder_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "nets").mkdir(parents=True)
    with pytest.raises(UserError, match="user/nets holds neither converted weights nor the official folder"):
        find_weights("user/nets")
