"""Requests of somebody who means harm, as bytes: the same ones for the same seed."""

import io
import json
import random
import struct
import zlib
from collections.abc import Iterator
from urllib.parse import quote

from PIL import Image

NAMES = [
    "../../x.png",
    "..\\..\\x.png",
    "/etc/passwd",
    "a\0.png",
    "con.png",
    "." * 300 + ".png",
    "x.png/../../y.png",
    "",
    "%2e%2e%2fx.png",
    "a.php",
    "\u202egnp.exe",
    "-rf.png",
    "$(touch x).png",
    "a;b.png",
    "\r\nX: y.png",
    ".gen3r.json",
]
PATHS = [
    "/v1/scenes/../../etc/passwd",
    "/v1/scenes/%2e%2e/files/x",
    "/v1/scenes/ID/files/../../../queue.sqlite",
    "/v1/scenes/ID/files/..%2f..%2fqueue.sqlite",
    "/v1/scenes/ID/files//etc/passwd",
    "/v1/scenes/ID/files/%00",
    "/page/../api.py",
    "/page/%2e%2e%2fapi.py",
    "/v1/scenes/" + "a" * 5000,
    "//etc/passwd",
    "/v1/scenes?limit=1e9",
    "/v1/scenes?before=-1",
    "/v1/scenes?limit=" + "9" * 400,
    "/v1/scenes/\xff\xfe",
    "*",
    "http://elsewhere/",
    "/v1/scenes/%F0%28%8C%28/events",
]
VALUES = [
    "",
    "-1",
    "1e400",
    "nan",
    "9" * 50,
    "--output=/tmp/x",
    "/etc/passwd",
    "../../x",
    "a\0b",
    "\ud800",
    "x" * 9000,
    "[]",
    "{}",
    "$(id)",
    "<script>alert(1)</script>",
    "' OR 1=1 --",
    "\u202e",
    "orbit_left",
]
FIELDS = [
    "prompt",
    "seed",
    "size",
    "num_frames",
    "num_inference_steps",
    "guidance_scale",
    "cameras",
    "frame_index",
    "format",
    "task",
    "weights",
    "output",
    "jobs",
    "lora",
    "compile_cache",
    "dry_run",
    "fps",
    "shift",
    "__proto__",
    "stride",
    "masks",
    "mesh",
]


def requests(seed: int, count: int, token: str) -> Iterator[bytes]:
    """So many requests, of all kinds in turn."""
    rng = random.Random(seed)
    kinds = [_path, _fields, _files, _multipart, _headers, _documents, _camera_files]
    for number in range(count):
        yield kinds[number % len(kinds)](rng, token)


def request(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, token: str = "") -> bytes:
    told = {"Host": "127.0.0.1", "Connection": "close", "Content-Length": str(len(body))}
    told |= {"Authorization": f"Bearer {token}"} if token else {}
    told |= headers or {}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in told.items()), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogatepass") + body


def form(parts: list[tuple[str, str | None, str | bytes]], boundary: str = "b") -> bytes:
    """A form of (name, file name, content)."""
    body = b""
    for name, file, content in parts:
        named = "" if file is None else f'; filename="{file}"'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        content = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
        body += head.encode("utf-8", "surrogatepass") + content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode()


def post(parts, token: str, path: str = "/v1/scenes", headers: dict[str, str] | None = None) -> bytes:
    told = {"Content-Type": "multipart/form-data; boundary=b", **(headers or {})}
    return request("POST", path, form(parts), told, token)


def picture(side: int = 16, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(buffer, kind)
    return buffer.getvalue()


def bomb(width: int, height: int, real_rows: int = 1) -> bytes:
    """A PNG that says that it is huge."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(b"\0" * (width * 3 + 1) * real_rows, 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def _path(rng: random.Random, token: str) -> bytes:
    method = rng.choice(["GET", "DELETE", "POST", "PUT", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"])
    return request(method, rng.choice(PATHS), token=token)


def _fields(rng: random.Random, token: str) -> bytes:
    parts = [("images", "a.png", picture()), ("prompt", None, "a table")]
    parts += [(rng.choice(FIELDS), None, rng.choice(VALUES)) for _ in range(rng.randint(1, 3))]
    return post(parts, token, rng.choice(["/v1/scenes", "/v1/reconstructions", "/v1/cameras/preview"]))


def _files(rng: random.Random, token: str) -> bytes:
    whole = picture(64, rng.choice(["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"]))
    cut = bytearray(whole)
    for _ in range(5):
        cut[rng.randrange(len(cut))] = rng.randrange(256)
    content = rng.choice(
        [whole[: len(whole) // 2], bytes(cut), b"", rng.randbytes(500), bomb(50000, 50000), bomb(9000, 9000, 200)]
    )
    name = (
        rng.choice(NAMES)
        if rng.random() < 0.5
        else "a" + rng.choice([".png", ".jpg", ".gif", ".mp4", ".tif", ".heic", ".svg"])
    )
    field = rng.choice(["images", "images", "images", "masks", "weights"])
    return post([(field, name.replace("\r\n", "%0D%0A"), content), ("prompt", None, "a table")], token)


def _multipart(rng: random.Random, token: str) -> bytes:
    whole = form([("images", "a.png", picture()), ("prompt", None, "a table")])
    body = rng.choice(
        [
            whole[: rng.randrange(len(whole))],
            whole.replace(b"--b", b"--c"),
            whole * 2,
            b"--b" * 500,
            b"",
            rng.randbytes(200),
            whole.replace(b"form-data", b"attachment"),
            whole.replace(b"\r\n", b"\n"),
            whole.replace(b'name="', b"name="),
            form([("images", "a.png", picture())] * 80),
            form([(f"f{n}", None, "1") for n in range(300)]),
            form([("prompt", None, "x" * 90000)]),
            b"--b\r\n" + b"X-Y: z\r\n" * 2000 + b"\r\n\r\n--b--\r\n",
        ]
    )
    kind = rng.choice(
        [
            "multipart/form-data; boundary=b",
            "multipart/form-data",
            "multipart/form-data; boundary=",
            "text/plain",
            "multipart/form-data; boundary=" + "b" * 500,
            "application/json",
            "multipart/mixed; boundary=b",
            'multipart/form-data; boundary="\u00e9"',
        ]
    )
    length = rng.choice([str(len(body))] * 4 + ["-1", "9" * 30, "x"])
    return request("POST", "/v1/scenes", body, {"Content-Type": kind, "Content-Length": length}, token)


def _headers(rng: random.Random, token: str) -> bytes:
    strange = rng.choice(
        [
            {"Host": "evil.example"},
            {"Host": "127.0.0.1:x"},
            {"Host": ""},
            {"Origin": "http://evil.example"},
            {"Origin": "null"},
            {"Cookie": "gen3r=" + "x" * 5000},
            {"Cookie": "gen3r"},
            {"X": "y" * 70000},
            {"Idempotency-Key": "k" * 300},
            {"Idempotency-Key": ""},
            {"Transfer-Encoding": "chunked"},
            {"Sec-Fetch-Site": "cross-site"},
            {"Range": "bytes=0-,0-,0-"},
            {
                "Upgrade": "websocket",
                "Connection": "Upgrade, close",
                "Sec-WebSocket-Key": "x",
                "Sec-WebSocket-Version": "13",
            },
            {"Authorization": "Bearer \u00e9"},
            {"Authorization": "Basic eA=="},
            {"Expect": "100-continue"},
            {"Content-Encoding": "gzip"},
        ]
    )
    if rng.random() < 0.5:
        return post([("images", "a.png", b"none"), ("prompt", None, "x")], token, headers=strange)
    return request("GET", rng.choice(["/", "/v1/scenes", "/v1/scenes/ID/events", "/metrics"]), b"", strange, token)


def _documents(rng: random.Random, token: str) -> bytes:
    body = rng.choice(
        [
            b"",
            b"{",
            b"[]",
            b"null",
            b'{"seed": "x"}',
            b'{"seed": 1e400}',
            b'{"seed": -1}',
            b'{"token": 1}',
            b"[" * 5000,
            b'{"token": "' + b"x" * 3000 + b'"}',
            b'{"seed": ' + b"9" * 5000 + b"}",
            b"\xff\xfe",
            b'{"token": "\\ud800"}',
        ]
    )
    path = rng.choice(["/v1/login", "/v1/scenes/ID/again", "/v1/scenes/..%2f/again"])
    return request("POST", path, body, {"Content-Type": "application/json"}, token)


def _camera_files(rng: random.Random, token: str) -> bytes:
    eye = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    documents = [
        {"extrinsics": [eye], "intrinsics": [[[1, 0, 0]] * 3]},
        {"extrinsics": [eye] * 2000, "intrinsics": []},
        {"camera_path": [{"camera_to_world": ["x"] * 16, "fov": 1e400}], "render_height": 1, "render_width": "y"},
        {
            "frames": [{"file_path": "/etc/passwd", "transform_matrix": eye}],
            "camera_convention": "opengl_c2w",
            "fl_x": 1,
        },
        {
            "frames": [{"file_path": "../../x", "transform_matrix": eye}],
            "camera_convention": "opencv_c2w",
            "w": 1e9,
            "h": -1,
        },
        [],
        {"a": "\ud800"},
    ]
    text = json.dumps(rng.choice(documents)).encode()
    content = rng.choice(
        [text, b"[" * 100000, b"0 " * 12 + b"\n", rng.randbytes(300), b"PK\x03\x04" + rng.randbytes(100)]
    )
    name = rng.choice(
        ["cameras.json", "path.txt", "a.npz", "a.npy", "cameras", "../../cameras.json", quote("\u00e9.json")]
    )
    return post([("images", "a.png", picture()), ("prompt", None, "x"), ("cameras_file", name, content)], token)
