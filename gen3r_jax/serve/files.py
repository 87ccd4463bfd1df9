"""A scene's files as they go out: types that are fixed, and all of them as one zip."""

import zipfile
from collections.abc import Iterator
from pathlib import Path

from starlette.responses import FileResponse, Response

from gen3r_jax.serve.security import VIEWER_POLICY

SHOWN = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".mp4": "video/mp4",
    ".json": "application/json",
    ".txt": "text/plain; charset=utf-8",
}
"""Types that a browser may show; everything else is saved."""


def file_response(path: Path, name: str) -> Response:
    """A file of a scene. The only page is the viewer's, which runs without an origin."""
    if name == "viewer.html":
        return FileResponse(
            path, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": VIEWER_POLICY}
        )
    suffix = path.suffix.lower()
    if suffix in SHOWN:
        return FileResponse(path, media_type=SHOWN[suffix], headers={"Content-Security-Policy": "sandbox"})
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


def _policy(policy: str) -> dict[str, str]:
    return {"Content-Security-Policy": policy}


class _Pipe:
    """A file that is only written, in pieces that are taken away."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def zip_chunks(folder: Path, names: list[str], top: str) -> Iterator[bytes]:
    """A zip of files, piece by piece. They are not packed: videos, pictures and maps are so already."""
    pipe = _Pipe()
    with zipfile.ZipFile(pipe, "w", zipfile.ZIP_STORED) as archive:  # pyright: ignore
        for name in names:
            path = folder / name
            with (
                path.open("rb") as source,
                archive.open(zipfile.ZipInfo.from_file(path, f"{top}/{name}"), "w") as target,
            ):
                while chunk := source.read(1 << 20):
                    target.write(chunk)
                    yield pipe.take()
            yield pipe.take()
    yield pipe.take()
