"""A server whose callers mean harm."""

import asyncio
import re
import socket
import time
from contextlib import suppress

import pytest

from gen3r_jax.client import Client, ServerError
from gen3r_jax.serve.api import create_app
from gen3r_jax.serve.options import Limits, ServeOptions
from gen3r_jax.serve.security import Guard, Rate, cookie_of, same
from gen3r_jax.serve.store import Store
from tests.serve import hostile
from tests.serve.server import running

TOKEN = "correct-horse-battery-staple"
LIMITS = Limits(
    upload_bytes=2 << 20, decode_seconds=5, upload_seconds=1.0, burst=100_000, queued=1000, pixels=1_000_000
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@pytest.fixture(scope="module")
def server(folder):
    with running(folder, token=TOKEN, limits=LIMITS, names=("scenes.example.org",)) as server:
        yield server


def answer(server, data: bytes, seconds: float = 6.0) -> bytes:
    """What the server says to bytes; nothing where it hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=seconds) as connection:
        with suppress(OSError):  # it may have answered already and closed
            connection.sendall(data)
        said = b""
        try:
            while chunk := connection.recv(1 << 16):
                said += chunk
        except (ConnectionResetError, TimeoutError):
            pass
        return said


def status(said: bytes) -> int:
    return int(said.split(b" ", 2)[1]) if said.startswith(b"HTTP/1.1 ") else 0


def get(server, path: str = "/v1/scenes", **headers: str) -> int:
    return status(answer(server, hostile.request("GET", path, b"", headers, TOKEN)))


def survive(server, folder, seed: int, count: int) -> dict[int, int]:
    """Sends hostile requests; how many answers of each status came."""
    before = {path for path in folder.rglob("*") if (folder / "store") not in path.parents}
    found: dict[int, int] = {}
    for data in hostile.requests(seed, count, TOKEN):
        said = answer(server, data)
        code = status(said)
        assert code < 500, (data[:300], said[:500])
        assert b"Traceback" not in said and b"root:" not in said
        found[code] = found.get(code, 0) + 1
    client = Client(server.address)
    for scene in client.scenes():
        client.wait(scene["id"], 60)
    assert {path for path in folder.rglob("*") if (folder / "store") not in path.parents} == before
    assert {path.name for path in (folder / "store").iterdir()} == {
        *("inputs", "scenes", "incoming", "workers", "queue.sqlite", "queue.sqlite-wal", "queue.sqlite-shm"),
        *(".gen3r.json", ".gen3r.lock"),
    }
    assert not list((folder / "store" / "incoming").iterdir())
    assert "Traceback" not in server.log and TOKEN not in server.log
    assert len(server.children("web")) == 1
    return found


def test_hostile_requests(server, folder):
    found = survive(server, folder, 0, 70)
    assert {400, 401, 403, 404, 405, 415, 422} & set(found) >= {404, 422}


@pytest.mark.slow
def test_many_hostile_requests(server, folder):
    found = survive(server, folder, 1, 500)
    assert {202, 401, 403, 404, 405, 415, 422} <= set(found)


def test_only_who_knows_the_token_gets_in(server):
    with pytest.raises(ServerError) as refused:
        Client(server.address.partition("#")[0]).scene("x")
    assert refused.value.status == 401
    with pytest.raises(ServerError) as refused:
        Client(server.address.partition("#")[0], token=TOKEN + "x").scene("x")
    assert refused.value.status == 401
    assert list(Client(server.address.partition("#")[0], token=TOKEN).scenes()) is not None
    for path in ("/", "/healthz"):
        assert status(answer(server, hostile.request("GET", path))) == 200
    for path in ("/v1/scenes", "/metrics", "/v1/about", "/openapi.json", "/docs"):
        assert status(answer(server, hostile.request("GET", path))) == 401


def test_a_browser_gets_a_cookie_for_the_token(server):
    body = b'{"token": "%s"}' % TOKEN.encode()
    said = answer(server, hostile.request("POST", "/v1/login", body, {"Content-Type": "application/json"})).decode()
    cookie = re.search(r"set-cookie: (gen3r=\w+); (.*)", said)
    assert cookie and {"httponly", "samesite=strict"} <= set(cookie[2].lower().replace("\r", "").split("; "))
    assert TOKEN not in said
    assert status(answer(server, hostile.request("GET", "/v1/scenes", b"", {"Cookie": cookie[1]}))) == 200
    wrong = hostile.request("POST", "/v1/login", b'{"token": "x"}', {"Content-Type": "application/json"})
    assert status(answer(server, wrong)) == 401


@pytest.mark.parametrize(
    "headers, allowed",
    [
        ({}, True),
        ({"Host": "localhost:8000"}, True),
        ({"Host": "[::1]:8000"}, True),
        ({"Host": "scenes.example.org"}, True),
        ({"Host": "evil.example"}, False),
        ({"Host": "127.0.0.1.evil.example"}, False),
        ({"Host": "192.168.0.7"}, False),
        ({"Host": "127.0.0.1", "Origin": "http://127.0.0.1"}, True),
        ({"Host": "scenes.example.org", "Origin": "https://scenes.example.org"}, True),
        ({"Host": "127.0.0.1", "Origin": "http://127.0.0.1:9000"}, False),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "cors"}, True),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, True),
    ],
)
def test_hosts_and_origins(server, headers, allowed):
    assert get(server, **headers) == (200 if allowed else 403)


@pytest.mark.parametrize(
    "host, ours",
    [
        ("192.168.0.7:8000", True),
        ("localhost", True),
        ("scenes.example.org", True),
        ("[2001:db8::1]:80", True),
        ("evil.example", False),
        ("192.168.0.7.evil.example:8000", False),
        ("", False),
    ],
)
def test_a_server_that_others_reach_is_called_by_addresses_and_its_names(host, ours):
    options = ServeOptions("nano", "store", host="0.0.0.0", token="x" * 16, names=("Scenes.example.org",))
    assert Guard(None, options, lambda *_: None)._is_ours(host) == ours


def test_a_store_that_cannot_be_written_is_told(tmp_path):
    """As on a full disk: no traceback, and the client may come again."""
    store = Store(tmp_path / "store")
    app = create_app(ServeOptions("nano", str(tmp_path / "store")), store, lambda *_: {})
    store.queue._database.execute("DROP TABLE jobs")
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http"}
    scope |= {
        "path": "/v1/scenes/x",
        "raw_path": b"/v1/scenes/x",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
    }
    scope |= {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80), "root_path": ""}
    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 503 and b"no such table" in sent[1]["body"]


def test_nobody_speaks_websocket_here(server):
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "eA==",
        "Sec-WebSocket-Version": "13",
    }
    said = answer(server, hostile.request("GET", "/v1/scenes", b"", upgrade, TOKEN), seconds=1)
    assert status(said) == 200


def test_bodies_that_are_too_large_or_too_slow(server):
    large = hostile.post([("images", "a.png", b"x" * (3 << 20)), ("prompt", None, "x")], TOKEN)
    assert status(answer(server, large)) == 413
    chunked = hostile.request("POST", "/v1/scenes", b"", {"Content-Type": "multipart/form-data; boundary=b"}, TOKEN)
    chunked = chunked.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
    piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    part = b'--b\r\nContent-Disposition: form-data; name="images"; filename="a.png"\r\n\r\n'
    chunks = b"%x\r\n%s\r\n" % (len(part), part) + piece * 40 + b"0\r\n\r\n"
    assert status(answer(server, chunked + chunks)) == 413
    whole = hostile.post([("images", "a.png", b"x" * 1000), ("prompt", None, "x")], TOKEN)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
        slow.sendall(whole[:-500])
        start = time.monotonic()
        assert status(slow.recv(1000)) == 408
        assert 0.5 < time.monotonic() - start < 10


def test_pictures_that_are_bombs(server):
    for content, told in [
        (hostile.bomb(100_000, 100_000), b"megapixels"),
        (hostile.bomb(5000, 5000, 5000), b"at most 1 megapixels"),
        (b"\x89PNG\r\n\x1a\n", b"a.png"),
    ]:
        said = answer(server, hostile.post([("images", "a.png", content), ("prompt", None, "x")], TOKEN))
        assert status(said) == 422 and told in said, said


def test_what_goes_out_says_how_browsers_may_use_it(server, folder):
    said = answer(server, hostile.request("GET", "/")).decode()
    for header in ("default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "nosniff", "no-referrer"):
        assert header in said
    assert "unsafe-inline" not in said
    client = Client(server.address)
    (folder / "a.png").write_bytes(hostile.picture())
    scene = client.wait(client.make([folder / "a.png"], "<script>alert(1)</script>")["id"])
    files = f"/v1/scenes/{scene['id']}/files"
    heads = {}
    for name in ("viewer.html", "run.json", "prompts.txt", "images/0000.png"):
        said = answer(server, hostile.request("GET", f"{files}/{name}", token=TOKEN))
        heads[name] = said.partition(b"\r\n\r\n")[0].decode().lower()
    assert "content-security-policy: sandbox allow-scripts; default-src 'none'" in heads["viewer.html"]
    assert "content-type: text/plain" in heads["prompts.txt"] and "content-type: image/png" in heads["images/0000.png"]
    assert all("nosniff" in head for head in heads.values())


def test_how_often_an_address_may_ask():
    now = [0.0]
    rate = Rate(Limits(burst=2, a_minute=60), lambda: now[0])
    assert [rate.wait("a") for _ in range(3)] == [0, 0, 1]
    assert rate.wait("b") == 0
    now[0] = 1.0
    assert [rate.wait("a") for _ in range(2)] == [0, 1]


@pytest.mark.slow
def test_too_many_requests_are_told_when_to_come_again(tmp_path):
    with running(tmp_path, limits=Limits(burst=1, a_minute=1)) as server:
        client = Client(server.address)
        (tmp_path / "a.png").write_bytes(b"no picture")
        with pytest.raises(ServerError) as refused:
            client.make([tmp_path / "a.png"], "x")
        assert refused.value.status == 422
        with pytest.raises(ServerError) as refused:
            client.make([tmp_path / "a.png"], "x")
        assert refused.value.status == 429 and 50 < refused.value.retry_after <= 60


def test_tokens_are_compared_whole():
    assert same("token", "token") and not same("token", "token ") and not same("", "token") and not same("\ud800", "x")
    assert cookie_of("a" * 16) != cookie_of("b" * 16)
