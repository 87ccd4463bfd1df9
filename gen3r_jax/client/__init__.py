"""A client of ``gen3r serve``, of nothing but the standard library.

client = Client("http://127.0.0.1:8000", token="...")
scene = client.make(["photo.jpg"], "a red table", cameras="orbit_left")
client.wait(scene["id"])
client.download(scene["id"], "scene.zip")
"""

import json
import os
import secrets
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from gen3r_jax.errors import UserError

ENDED = ("done", "failed", "cancelled")


class ServerError(UserError):
    """The server has refused something.

    Attributes:
      status: of HTTP.
      retry_after: seconds after which there is use in trying again; 0 where it did not say.
    """

    def __init__(self, status: int, message: str, retry_after: float = 0.0):
        super().__init__(f"{message} (HTTP status {status})")
        self.status, self.retry_after = status, retry_after


class Client:
    """Calls a server.

    Args:
      address: as ``gen3r serve`` prints it; a token after ``#token=`` is taken from there.
      timeout: seconds that an answer may take.
    """

    def __init__(self, address: str, token: str = "", timeout: float = 60.0):
        address, _, fragment = address.partition("#")
        self._address, self._timeout = address.rstrip("/"), timeout
        token = token or fragment.removeprefix("token=")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def make(
        self,
        images: Sequence[os.PathLike | str],
        prompt: str,
        *,
        cameras_file: os.PathLike | str | None = None,
        key: str | None = None,
        **flags: Any,
    ) -> dict[str, Any]:
        """Asks for a scene; returns what the server says of it, with its ``id``.

        Args:
          images: files of pictures, or one video.
          cameras_file: any camera file, instead of a preset as `cameras`.
          key: the same request under the same key is made once; by default one that is drawn, so that a call that is
            tried again here makes no second scene.
          flags: those of ``gen3r generate``, such as ``cameras="orbit_left"`` or ``seed=3``; lists are welcome.

        Raises ServerError where the server refuses it.
        """
        return self._send("/v1/scenes", images, {"prompt": prompt, **flags}, cameras_file, key)

    def reconstruct(
        self, images: Sequence[os.PathLike | str], *, key: str | None = None, **flags: Any
    ) -> dict[str, Any]:
        """Asks for a reconstruction; `flags` are those of ``gen3r reconstruct``."""
        return self._send("/v1/reconstructions", images, flags, None, key)

    def preview(
        self, images: Sequence[os.PathLike | str], *, cameras_file: os.PathLike | str | None = None, **flags: Any
    ) -> dict[str, Any]:
        """Asks for points of the pictures and the cameras of a scene with these flags; waits, and returns both."""
        id = self._send("/v1/cameras/preview", images, flags, cameras_file, None)["id"]
        if (scene := self.wait(id))["status"] != "done":
            raise ServerError(200, scene["error"] or scene["status"])
        return json.loads(self.read(id, "preview.json"))

    def again(self, id: str, seed: int) -> dict[str, Any]:
        """Asks for the same scene with another seed."""
        return self._json("POST", f"/v1/scenes/{quote(id)}/again", {"seed": seed})

    def scene(self, id: str) -> dict[str, Any]:
        """Return what the server says of a scene: status, progress, files and more."""
        return self._json("GET", f"/v1/scenes/{quote(id)}")

    def scenes(self) -> Iterator[dict[str, Any]]:
        """All scenes, the newest first."""
        before: int | None = None
        while True:
            query = {"limit": 100} | ({} if before is None else {"before": before})
            page = self._json("GET", f"/v1/scenes?{urlencode(query)}")
            yield from page["scenes"]
            if (before := page["next"]) is None:
                return

    def events(self, id: str) -> Iterator[dict[str, Any]]:
        """Yield what the server says of a scene whenever that changes, until it has ended."""
        with self._open("GET", f"/v1/scenes/{quote(id)}/events") as answer:
            for line in answer:
                if line.startswith(b"data: ") and len(line) > 10:
                    yield json.loads(line[6:])

    def wait(self, id: str, seconds: float = 3600.0) -> dict[str, Any]:
        """Waits until a scene has ended; a server that is being started again is waited for, too.

        Raises UserError after `seconds`.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                if (scene := self.scene(id))["status"] in ENDED:
                    return scene
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                pass
            time.sleep(0.1)
        raise UserError(f"the scene {id} has not ended in {seconds:.0f} s")

    def read(self, id: str, name: str) -> bytes:
        """The content of one of a scene's files."""
        with self._open("GET", f"/v1/scenes/{quote(id)}/files/{quote(name)}") as answer:
            return answer.read()

    def download(self, id: str, path: os.PathLike | str) -> Path:
        """Writes all files of a scene to a zip."""
        with self._open("GET", f"/v1/scenes/{quote(id)}/zip") as answer, Path(path).open("wb") as file:
            shutil.copyfileobj(answer, file)
        return Path(path)

    def delete(self, id: str) -> bool:
        """Cancels a scene that waits or runs, removes one that has ended; whether it has ended."""
        with self._open("DELETE", f"/v1/scenes/{quote(id)}") as answer:
            return answer.status == 204

    def _send(
        self,
        path: str,
        images: Sequence[os.PathLike | str],
        flags: dict[str, Any],
        cameras_file: os.PathLike | str | None,
        key: str | None,
    ) -> dict[str, Any]:
        images = [images] if isinstance(images, (str, os.PathLike)) else images
        files = [("images", Path(image)) for image in images]
        files += [("cameras_file", Path(cameras_file))] if cameras_file is not None else []
        fields = {name: _text(value) for name, value in flags.items() if value is not None}
        body, content_type = _form(fields, files)
        headers = {"Content-Type": content_type, "Idempotency-Key": key or secrets.token_hex(16)}
        with self._open("POST", path, body, headers) as answer:
            return json.load(answer)

    def _json(self, method: str, path: str, document: Any = None) -> Any:
        body = None if document is None else json.dumps(document).encode()
        with self._open(method, path, body, {"Content-Type": "application/json"} if body else {}) as answer:
            return json.load(answer)

    def _open(self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(
            self._address + path, body, {**self._headers, **(headers or {})}, method=method
        )
        try:
            return self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            try:
                message = json.loads(error.read())["error"]
            except (ValueError, KeyError, TypeError):
                message = error.reason
            raise ServerError(error.code, str(message), float(error.headers.get("Retry-After") or 0)) from None


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _form(fields: dict[str, str], files: Sequence[tuple[str, Path]]) -> tuple[bytes, str]:
    """A form as multipart/form-data, and its type."""
    boundary = secrets.token_hex(16)
    parts = []
    for name, value in fields.items():
        parts.append(f'Content-Disposition: form-data; name="{_quoted(name)}"\r\n\r\n'.encode() + value.encode())
    for name, path in files:
        head = f'Content-Disposition: form-data; name="{name}"; filename="{_quoted(path.name)}"\r\n'
        parts.append((head + "Content-Type: application/octet-stream\r\n\r\n").encode() + path.read_bytes())
    body = b"".join(b"--" + boundary.encode() + b"\r\n" + part + b"\r\n" for part in parts)
    return body + f"--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def _quoted(name: str) -> str:
    return name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
