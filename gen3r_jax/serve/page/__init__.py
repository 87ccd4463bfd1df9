"""The page: plain files of ours, and three.js as ``viewer.html`` has it. Nothing is asked of another host."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Response

TYPES = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}
_FOLDER = Path(__file__).parent


def add_page(app: FastAPI, call: Callable[..., Any]) -> None:
    """Adds the page, its files and the description of the interface to an application."""
    three = cache(lambda: call("three_js").encode())
    files = {file.name: file for file in _FOLDER.iterdir() if file.suffix in TYPES}

    @app.get("/", include_in_schema=False)
    def page() -> Response:
        return _file(files["index.html"])

    @app.get("/docs", include_in_schema=False)
    def docs() -> Response:
        return _file(files["docs.html"])

    @app.get("/page/{name}", include_in_schema=False)
    def part(name: str) -> Response:
        if name == "three.js":
            return Response(three(), media_type=TYPES[".js"])
        if name not in files:
            raise HTTPException(404, f"the page has no part {name[:60]!r}")
        return _file(files[name])


def _file(file: Path) -> Response:
    return Response(file.read_bytes(), media_type=TYPES[file.suffix])
