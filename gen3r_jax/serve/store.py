"""The folder of a server: the queue, what was uploaded, and the scenes.

STORE/queue.sqlite      the jobs; see :mod:`gen3r_jax.serve.queue`
STORE/inputs/ID/        files of a job, as they were uploaded, under names of ours
STORE/scenes/ID/        what came out: there whole, or not at all
STORE/incoming/         uploads on their way
STORE/workers/          a lock of every worker
"""

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gen3r_jax.errors import UserError
from gen3r_jax.serve.options import Keep
from gen3r_jax.serve.queue import ENDED, SCENES, Job, Queue
from gen3r_jax.storage.folders import claimed
from gen3r_jax.storage.locks import lock_beside

KIND = "scenes of a server"
"""Kind of the folder, as its marker says it."""

PREVIEWS_KEPT = 3600.0
"""Seconds: how long the points of a preview are kept."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


class Store:
    """The places of a store; the folders are made when they are missing."""

    def __init__(self, root: Path | str):
        self.root = Path(root).absolute()
        for name in ("inputs", "scenes", "incoming", "workers"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        self.queue = Queue(self.root / "queue.sqlite")

    def inputs(self, id: str) -> Path:
        return self._place("inputs", id)

    def scene(self, id: str) -> Path:
        return self._place("scenes", id)

    def picture(self, id: str) -> Path:
        """What a scene that is being made looks like so far."""
        return self._place("inputs", id) / "preview.jpg"

    def lock(self, slot: int) -> Path:
        return self.root / "workers" / f"{slot}.lock"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    def is_whole(self, id: str, kind: str = "generate") -> bool:
        """Whether what a job makes is there."""
        return (self.scene(id) / ("preview.json" if kind == "preview" else "run.json")).is_file()

    def files(self, id: str) -> dict[str, int]:
        """Names of a scene's files below its folder, and their sizes; what begins with a dot is ours."""
        folder, found = self.scene(id), {}
        for place, folders, names in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(names):
                path = Path(place, name)
                if not name.startswith(".") and path.is_file() and not path.is_symlink():
                    found[path.relative_to(folder).as_posix()] = path.stat().st_size
        return found

    def size(self, id: str) -> int:
        """Bytes of a scene."""
        return sum(self.files(id).values())

    def copy_inputs(self, id: str, new: str) -> None:
        """Gives a new job the files of another."""
        partial = self.incoming / new
        shutil.copytree(self.inputs(id), partial, ignore=shutil.ignore_patterns("preview.jpg"))
        os.rename(partial, self.inputs(new))
        sync(self.inputs(new))

    def remove(self, id: str) -> bool:
        """Removes a job that has ended, with its files; whether there was one."""
        if not self.queue.remove(id):
            return False
        # Under another name first: nobody is to see half of a scene.
        for folder in (self.scene(id), self.inputs(id)):
            gone = self.incoming / f"gone-{secrets.token_hex(8)}"
            with suppress(FileNotFoundError):
                os.rename(folder, gone)
                shutil.rmtree(gone, ignore_errors=True)
        return True

    def sweep(self) -> None:
        """Removes what is left of half scenes whose jobs have ended: those whose worker died."""
        for partial in (self.root / "scenes").glob(".*.partial"):
            scene = partial.with_name(partial.name[1:].removesuffix(".partial"))
            job = self.queue.get(scene.name)
            if job is None or job.status in ENDED:
                shutil.rmtree(partial, ignore_errors=True)
                lock_beside(scene).unlink(missing_ok=True)

    def trim(self, keep: Keep) -> None:
        """Removes the oldest scenes that are more than is kept, and previews that nobody looks at any more."""
        now = time.time()
        for job in self.queue.ended_before(now - PREVIEWS_KEPT, ("preview",)):
            self.remove(job.id)
        jobs = self.queue.ended_before(now + 1, SCENES)
        total = sum(job.bytes for job in jobs)
        for index, job in enumerate(jobs):
            old = keep.days is not None and (job.ended or now) < now - 86400 * keep.days
            many = keep.scenes is not None and len(jobs) - index > keep.scenes
            large = keep.bytes is not None and total > keep.bytes
            if not (old or many or large):
                return
            self.remove(job.id)
            total -= job.bytes

    def tidy(self) -> None:
        """Removes what a server left that was killed, and adds scenes to the queue that it does not know."""
        for left in self.incoming.iterdir():
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        known = self.queue.ids()
        for folder in (self.root / "inputs").iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)
        for folder in (self.root / "scenes").iterdir():
            if folder.name not in known and _NAME.fullmatch(folder.name) and (folder / "run.json").is_file():
                made = (folder / "run.json").stat().st_mtime
                kind, request = _told(folder)
                self.queue.adopt(folder.name, kind, request, self.size(folder.name), made)

    def _place(self, kind: str, id: str) -> Path:
        if not _NAME.fullmatch(id):
            raise UserError(f"{id[:80]!r} is no name of a scene")
        return self.root / kind / id


@contextmanager
def claimed_store(root: Path | str) -> Iterator[Store]:
    """A store for one server alone. Raises UserError where the folder is another's or holds other things."""
    with claimed(root, KIND, advice="give another --output"):
        yield Store(root)


def new_id() -> str:
    return secrets.token_hex(8)


def sync(folder: Path) -> None:
    """Has a folder, what is in it and its name on the disk before it returns."""
    inside = [Path(place, name) for place, _, names in os.walk(folder) for name in ("", *names)]
    for path in (*inside, folder.parent):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def summary(store: Store, job: Job) -> dict[str, Any]:
    """What a client is told of a job."""
    told = {
        "id": job.id,
        "number": job.number,
        "kind": job.kind,
        "status": job.status,
        "progress": round(job.progress, 4),
        "stage": job.stage,
        "seconds_left": job.seconds_left if job.seconds_left is None else round(job.seconds_left, 1),
        "error": job.error,
        "cancelling": job.cancelling,
        "prompt": job.request.get("fields", {}).get("prompt", ""),
        "fields": job.request.get("fields", {}),
        "command": job.request.get("command", ""),
        "created": job.created,
        "ended": job.ended,
        "bytes": job.bytes,
    }
    if job.status == "queued":
        told["ahead"] = store.queue.ahead(job)
    return told


def _told(folder: Path) -> tuple[str, dict[str, Any]]:
    """Kind and request of a scene that a command made."""
    with suppress(OSError, ValueError, AttributeError):
        options = json.loads((folder / "run.json").read_text(encoding="utf-8")).get("options", {})
        if "prompt" not in options:
            return "reconstruct", {"fields": {}}
        return "generate", {"fields": {"prompt": (folder / "prompts.txt").read_text(encoding="utf-8").strip()}}
    return "generate", {"fields": {}}
