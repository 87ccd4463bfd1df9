"""The HTTP interface: jobs are accepted, told of, shown and removed. Everything else is the workers'."""

import asyncio
import json
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any
from urllib.parse import quote

from anyio import CapacityLimiter, to_thread
from fastapi import Body, FastAPI, Header, HTTPException, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from gen3r_jax import __version__
from gen3r_jax.errors import UserError, one_line
from gen3r_jax.serve.files import file_response, zip_chunks
from gen3r_jax.serve.metrics import Requests, alive, render
from gen3r_jax.serve.options import ServeOptions
from gen3r_jax.serve.page import add_page
from gen3r_jax.serve.queue import ENDED, Conflict, Full, Job
from gen3r_jax.serve.security import COOKIE, Guard, Rate, cookie_of, same
from gen3r_jax.serve.store import Store, new_id, summary, sync
from gen3r_jax.serve.uploads import Upload, discard, receive

TICK = 0.2
"""Seconds between two looks at the queue of whoever follows a job."""

CHECKS = 4
"""Uploads that are checked at the same time."""

BUSY_SECONDS = 10
"""When to come again to a queue that is full."""

_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "images": {"type": "array", "items": {"type": "string", "format": "binary"}},
                        "prompt": {"type": "string"},
                        "cameras": {"type": "string"},
                        "cameras_file": {"type": "string", "format": "binary"},
                        "seed": {"type": "integer"},
                    },
                    "additionalProperties": {"type": "string"},
                    "required": ["images"],
                }
            }
        },
    }
}

Key = Annotated[str | None, Header(alias="Idempotency-Key")]

Call = Callable[..., Any]
"""Calls a function of :mod:`gen3r_jax.serve.requests` by its name, bounded."""


def create_app(options: ServeOptions, store: Store, call: Call) -> FastAPI:
    """The application of one server."""
    app = FastAPI(title="gen3r serve", version=__version__, docs_url=None, redoc_url=None)
    limits, queue, rate, counted = options.limits, store.queue, Rate(options.limits), Requests()
    app.add_middleware(Guard, options=options, count=counted.count)
    streams, checks = asyncio.Semaphore(limits.streams), CapacityLimiter(CHECKS)
    about: dict[str, Any] = {}

    def found(id: str) -> Job:
        job = queue.get(id)
        if job is None:
            raise HTTPException(404, f"there is no scene {id[:60]!r}")
        return job

    def told(job: Job) -> dict[str, Any]:
        base = f"/v1/scenes/{job.id}"
        return summary(store, job) | {"picture": f"{base}/picture" if store.picture(job.id).exists() else None}

    def told_whole(job: Job) -> dict[str, Any]:
        files = store.files(job.id) if job.status == "done" else {}
        base = f"/v1/scenes/{job.id}/files"
        return told(job) | {
            "files": [{"name": name, "bytes": size, "url": f"{base}/{quote(name)}"} for name, size in files.items()]
        }

    def slow_down(request: Request) -> None:
        if seconds := rate.wait(request.client.host if request.client else ""):
            raise HTTPException(429, "too many requests from this address", {"Retry-After": str(int(seconds))})

    def known_about() -> dict[str, Any]:
        if not about:
            about.update(call("describe", options.weights))
        return about

    async def accept(request: Request, kind: str, key: str | None) -> JSONResponse:
        slow_down(request)
        if key is not None and not (0 < len(key) <= 200 and key.isprintable()):
            raise HTTPException(422, "an Idempotency-Key has 1 to 200 characters")
        if queue.counts()["queued"] >= limits.queued:
            raise _busy(f"{limits.queued} jobs wait already; try again later")
        id = new_id()
        folder = store.incoming / id
        try:
            upload = await receive(request, kind, folder, limits)
            job = await to_thread.run_sync(enqueue, id, kind, upload, key, limiter=checks)
        finally:
            await run_in_threadpool(discard, folder)
        return accepted(job)

    def enqueue(id: str, kind: str, upload: Upload, key: str | None) -> Job:
        """Checks an upload, has it on the disk, and then in the queue."""
        needed = {"generate": ("images", "prompt"), "reconstruct": ("images",), "preview": ("images",)}[kind]
        for name in needed:
            if name not in upload.fields and name not in upload.files:
                raise HTTPException(422, f"{name} is missing")
        if key and (known := queue.find(key, upload.digest)):
            return known
        suffixes = known_about()["suffixes"]
        for name in ("images", "masks"):
            for one in upload.files.get(name, ()):
                if not one.lower().endswith(tuple(suffixes)):
                    raise HTTPException(415, f"{one} is of a kind that is not taken; send one of {' '.join(suffixes)}")
        checked = call("check", kind, upload, options.weights, limits)
        request = {"fields": upload.fields, "files": upload.files, "names": upload.names, **checked}
        target = store.inputs(id)
        upload.folder.rename(target)
        sync(target)
        try:
            job = queue.add(id, kind, request, upload.digest, key, limits.queued)
        except BaseException:
            discard(target)
            raise
        if job.id != id:  # another request with this key was faster
            discard(target)
        return job

    def accepted(job: Job) -> JSONResponse:
        return JSONResponse(told_whole(job), 202, {"Location": f"/v1/scenes/{job.id}"})

    @app.post("/v1/scenes", status_code=202, openapi_extra=_FORM)
    async def make_scene(request: Request, key: Key = None) -> Response:
        """Makes a scene of `images`, a `prompt` and `cameras` (a preset) or `cameras_file`; the other fields are the
        flags of `gen3r generate`."""
        return await accept(request, "generate", key)

    @app.post("/v1/reconstructions", status_code=202, openapi_extra=_FORM)
    async def make_reconstruction(request: Request, key: Key = None) -> Response:
        """Reconstructs cameras, depth and points of `images`; the other fields are the flags of `gen3r reconstruct`."""
        return await accept(request, "reconstruct", key)

    @app.post("/v1/cameras/preview", status_code=202, openapi_extra=_FORM)
    async def preview_cameras(request: Request, key: Key = None) -> Response:
        """Finds points of `images` and the cameras that a scene with these fields would have: `preview.json`."""
        return await accept(request, "preview", key)

    @app.post("/v1/scenes/{id}/again", status_code=202)
    def make_again(request: Request, id: str, seed: Annotated[int, Body(embed=True, ge=0, lt=2**32)]) -> Response:
        """Makes a scene of the same files and fields with another seed."""
        slow_down(request)
        job = found(id)
        source = store.inputs(id)
        if job.kind != "generate" or not source.exists():
            raise HTTPException(422, "what the scene was made of is not here any more; send it again")
        new = new_id()
        fields = {**job.request["fields"], "seed": str(seed)}
        shown = call("command", job.kind, fields, job.request["names"], options.weights)
        store.copy_inputs(id, new)
        try:
            again = queue.add(
                new, job.kind, {**job.request, "fields": fields, "command": shown}, "", most=limits.queued
            )
        except BaseException:
            discard(store.inputs(new))
            raise
        return accepted(again)

    @app.get("/v1/scenes")
    def list_scenes(
        limit: Annotated[int, Query(ge=1, le=200)] = 50, before: Annotated[int | None, Query(ge=0, lt=1 << 62)] = None
    ) -> dict[str, Any]:
        """The newest scenes, without their files; `before` is the `next` of the page before."""
        jobs = queue.page(limit, before)
        return {"scenes": [told(job) for job in jobs], "next": jobs[-1].number if len(jobs) == limit else None}

    @app.get("/v1/scenes/{id}")
    def show_scene(id: str) -> dict[str, Any]:
        """How far a scene is, and its files once it is done."""
        return told_whole(found(id))

    @app.get("/v1/scenes/{id}/events")
    async def follow_scene(id: str) -> Response:
        """Server-sent events: what `GET` says, whenever that changes, until the scene has ended."""
        found(id)
        if streams.locked():
            raise _busy(f"{limits.streams} others follow scenes already; ask from time to time instead")
        await streams.acquire()
        return _Stream(_events(id), streams)

    async def _events(id: str) -> AsyncIterator[str]:
        last, since = "", time.monotonic()
        while True:
            job = await run_in_threadpool(queue.get, id)
            if job is None:
                yield "event: gone\ndata: {}\n\n"
                return
            text = json.dumps(await run_in_threadpool(told_whole, job))
            if text != last:
                yield f"data: {text}\n\n"
                last, since = text, time.monotonic()
            elif time.monotonic() - since > 15:
                yield ": still here\n\n"
                since = time.monotonic()
            if job.status in ENDED:
                return
            await asyncio.sleep(TICK)

    @app.get("/v1/scenes/{id}/files/{name:path}")
    def show_file(id: str, name: str) -> Response:
        """A file of a scene that is done."""
        job = found(id)
        if job.status != "done" or name not in store.files(id):
            raise HTTPException(404, f"there is no file {name[:80]!r} of the scene {id}")
        return file_response(store.scene(id) / name, name)

    @app.get("/v1/scenes/{id}/picture")
    def show_picture(id: str) -> Response:
        """What a scene looks like: while it is sampled, a rough picture."""
        found(id)
        try:
            return Response(store.picture(id).read_bytes(), media_type="image/jpeg")
        except FileNotFoundError:
            raise HTTPException(404, "there is no picture yet") from None

    @app.get("/v1/scenes/{id}/zip")
    def show_zip(id: str) -> Response:
        """All files of a scene as one zip."""
        job = found(id)
        if job.status != "done":
            raise HTTPException(404, f"the scene {id} is {job.status}, it has no files")
        chunks = zip_chunks(store.scene(id), list(store.files(id)), id)
        headers = {"Content-Disposition": f'attachment; filename="{id}.zip"'}
        return StreamingResponse(chunks, media_type="application/zip", headers=headers)

    @app.delete("/v1/scenes/{id}", status_code=204, responses={202: {"description": "it runs and is being cancelled"}})
    def remove_scene(id: str) -> Response:
        """Cancels a scene that waits or runs; removes one that has ended."""
        if found(id).status in ENDED and store.remove(id):
            return Response(status_code=204)
        job = queue.cancel(id)
        return Response(status_code=202 if job and job.status == "running" else 204)

    @app.get("/v1/about")
    def show_about() -> dict[str, Any]:
        """What can be asked for: fields with their defaults, presets, limits; and who works."""
        workers = [{"worker": slot, "device": device} for slot, device in alive(queue).items()]
        bounds = {"upload_bytes": limits.upload_bytes, "files": limits.files, "steps": limits.steps}
        return {
            **known_about(),
            "version": __version__,
            "memory_mode": options.memory_mode,
            "workers": workers,
            "limits": bounds,
        }

    @app.post("/v1/login", status_code=204)
    def log_in(request: Request, token: Annotated[str, Body(embed=True, max_length=1000)]) -> Response:
        """Gives a browser a cookie for the token."""
        slow_down(request)
        if not options.token or not same(token, options.token):
            raise HTTPException(401, "this is not the token")
        response = Response(status_code=204)
        secure = request.headers.get("x-forwarded-proto") == "https"
        response.set_cookie(COOKIE, cookie_of(options.token), httponly=True, samesite="strict", secure=secure)
        return response

    @app.get("/healthz")
    def health() -> Response:
        """Whether the server answers, and how many workers live."""
        workers = len(alive(queue))
        return JSONResponse({"status": "ok" if workers else "no worker", "workers": workers})

    @app.get("/metrics")
    def metrics() -> Response:
        """Numbers for Prometheus."""
        return PlainTextResponse(render(queue, counted))

    add_page(app, call)
    _add_errors(app)
    return app


class _Stream(StreamingResponse):
    """Events; gives its place back whenever and however it ends."""

    def __init__(self, events: AsyncIterator[str], places: asyncio.Semaphore):
        super().__init__(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._places = places

    async def __call__(self, *arguments: Any) -> None:
        try:
            await super().__call__(*arguments)
        finally:
            self._places.release()


def _busy(error: str) -> HTTPException:
    return HTTPException(429, error, {"Retry-After": str(BUSY_SECONDS)})


def _add_errors(app: FastAPI) -> None:
    """Every error is JSON with one line."""

    def answer(status: int, error: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": error}, status, headers)

    @app.exception_handler(AnyHTTPException)
    async def _(_: Request, error: AnyHTTPException) -> Response:
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(RequestValidationError)
    async def _(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first.get("loc", ()) if part not in ("query", "body", "path"))
        return answer(422, f"{place}: {first.get('msg', 'not valid')}"[:300])

    @app.exception_handler(Conflict)
    async def _(_: Request, error: Conflict) -> Response:
        return answer(409, str(error))

    @app.exception_handler(Full)
    async def _(_: Request, error: Full) -> Response:
        busy = _busy(str(error))
        return answer(busy.status_code, busy.detail, busy.headers)

    @app.exception_handler(OSError)
    @app.exception_handler(sqlite3.Error)
    async def _(_: Request, error: Exception) -> Response:  # a full disk, a store that cannot be written
        print(f"the store cannot be used: {one_line(error)}", file=sys.stderr, flush=True)
        reason = getattr(error, "strerror", None) or one_line(error)
        return answer(503, f"the store cannot be used: {reason}", {"Retry-After": str(BUSY_SECONDS)})

    @app.exception_handler(UserError)
    async def _(_: Request, error: UserError) -> Response:
        return answer(422, str(error))
