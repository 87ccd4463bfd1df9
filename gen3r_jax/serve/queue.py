"""The queue: a table of jobs in SQLite, which web and workers open each for themselves.

Every change is one transaction. What was accepted, claimed or ended is on the disk (``synchronous=FULL``) before
anybody is told; how far a job is, which comes several times a second, may be lost with the machine. A job ends once:
only who has claimed it may end it, and only while it runs.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gen3r_jax.errors import UserError

SCENES = ("generate", "reconstruct")
"""Kinds of jobs that make a scene."""

ENDED = ("done", "failed", "cancelled")
ATTEMPTS = 2
"""How often a job is begun whose worker dies."""

VERSION = 1

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  kind TEXT NOT NULL,
  request TEXT NOT NULL,
  key TEXT UNIQUE,
  digest TEXT NOT NULL,
  status TEXT NOT NULL,
  cancelling INTEGER NOT NULL DEFAULT 0,
  worker INTEGER,
  attempts INTEGER NOT NULL DEFAULT 0,
  progress REAL NOT NULL DEFAULT 0,
  stage TEXT NOT NULL DEFAULT '',
  seconds_left REAL,
  error TEXT NOT NULL DEFAULT '',
  bytes INTEGER NOT NULL DEFAULT 0,
  created REAL NOT NULL,
  started REAL,
  ended REAL
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, number);
CREATE TABLE IF NOT EXISTS workers (slot INTEGER PRIMARY KEY, device TEXT NOT NULL, seen REAL NOT NULL);
CREATE TABLE IF NOT EXISTS ends (status TEXT PRIMARY KEY, count INTEGER NOT NULL, seconds REAL NOT NULL);
"""


class Conflict(UserError):
    """Another request was made under the same key."""


class Full(UserError):
    """As many jobs wait as may."""


@dataclass(frozen=True)
class Job:
    """A row of the table.

    Attributes:
      number: its place in the order of acceptance.
      kind: "generate", "reconstruct" or "preview".
      request: what was asked for; see :mod:`gen3r_jax.serve.requests`.
      status: "queued", "running", "done", "failed" or "cancelled".
      cancelling: whether a running job is to end.
      worker: slot of the worker that has it.
      attempts: how often it was begun.
      progress: from 0 to 1.
      created, started, ended: seconds since 1970.
    """

    number: int
    id: str
    kind: str
    request: dict[str, Any]
    key: str | None
    digest: str
    status: str
    cancelling: bool
    worker: int | None
    attempts: int
    progress: float
    stage: str
    seconds_left: float | None
    error: str
    bytes: int
    created: float
    started: float | None
    ended: float | None

    @classmethod
    def of(cls, row: sqlite3.Row) -> "Job":
        return cls(**{**dict(row), "request": json.loads(row["request"]), "cancelling": bool(row["cancelling"])})


class Queue:
    """The jobs of a store. Threads may share it: each has a connection of its own."""

    def __init__(self, path: Path):
        self._path, self._local = path, threading.local()
        with self._writing() as database:
            found = database.execute("PRAGMA user_version").fetchone()[0]
            if found > VERSION:
                raise UserError(f"{path} has version {found}, this gen3r-jax knows {VERSION}; update it")
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version = {VERSION}")

    # What web does.

    def add(
        self, id: str, kind: str, request: dict[str, Any], digest: str, key: str | None = None, most: int = 1 << 30
    ) -> Job:
        """Accepts a job, or gives the one that was accepted under the same key.

        Raises:
          Conflict: the key belongs to another request.
          Full: `most` jobs wait already.
        """
        with self._writing() as database:
            if key and (job := self.find(key, digest)):
                return job
            if database.execute("SELECT count(*) FROM jobs WHERE status = 'queued'").fetchone()[0] >= most:
                raise Full(f"{most} jobs wait already; try again later")
            row = database.execute(
                "INSERT INTO jobs (id, kind, request, key, digest, status, created) VALUES (?, ?, ?, ?, ?, 'queued', ?)"
                " RETURNING *",
                (id, kind, json.dumps(request), key, digest, time.time()),
            ).fetchone()
            return Job.of(row)

    def find(self, key: str, digest: str) -> Job | None:
        """The job that was accepted under a key. Raises Conflict where that was another request."""
        row = self._database.execute("SELECT * FROM jobs WHERE key = ?", (key,)).fetchone()
        if row and row["digest"] != digest:
            raise Conflict(f"the Idempotency-Key {key[:60]!r} belongs to another request; give a new one")
        return Job.of(row) if row else None

    def adopt(self, id: str, kind: str, request: dict[str, Any], size: int, made: float) -> None:
        """Adds a scene that is there, if nothing of its name is known."""
        with self._writing() as database:
            database.execute(
                "INSERT OR IGNORE INTO jobs (id, kind, request, digest, status, progress, bytes, created, ended) "
                "VALUES (?, ?, ?, '', 'done', 1, ?, ?, ?)",
                (id, kind, json.dumps(request), size, made, made),
            )

    def get(self, id: str) -> Job | None:
        row = self._database.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
        return Job.of(row) if row else None

    def page(self, limit: int, before: int | None = None) -> list[Job]:
        """The newest jobs that make scenes and whose number is below `before`."""
        rows = self._database.execute(
            f"SELECT * FROM jobs WHERE kind IN {SCENES} AND number < ? ORDER BY number DESC LIMIT ?",
            (before if before is not None else 1 << 62, limit),
        )
        return [Job.of(row) for row in rows]

    def ids(self) -> set[str]:
        return {row[0] for row in self._database.execute("SELECT id FROM jobs")}

    def ahead(self, job: Job) -> int:
        """How many jobs will be begun before one that waits."""
        return self._database.execute(
            "SELECT count(*) FROM jobs WHERE status = 'queued' AND number < ?", (job.number,)
        ).fetchone()[0]

    def cancel(self, id: str) -> Job | None:
        """Ends a job that waits, and asks the worker of one that runs to stop; returns it as it is then."""
        with self._writing() as database:
            row = database.execute("SELECT * FROM jobs WHERE id = ?", (id,)).fetchone()
            if row and row["status"] == "queued":
                self._end(database, row, "cancelled", "")
            elif row and row["status"] == "running":
                database.execute("UPDATE jobs SET cancelling = 1 WHERE id = ?", (id,))
        return self.get(id)

    def remove(self, id: str) -> bool:
        """Forgets a job that has ended; whether there was one."""
        with self._writing() as database:
            return database.execute(
                f"DELETE FROM jobs WHERE id = ? AND status IN {ENDED}", (id,)
            ).rowcount == 1  # fmt: skip

    def counts(self) -> dict[str, int]:
        """How many jobs there are of each status."""
        rows = self._database.execute("SELECT status, count(*) FROM jobs GROUP BY status")
        return dict.fromkeys(("queued", "running", *ENDED), 0) | dict(rows)

    def ends(self) -> dict[str, tuple[int, float]]:
        """How many jobs ended in each way since the store was made, and how many seconds they ran."""
        rows = self._database.execute("SELECT status, count, seconds FROM ends")
        ends: dict[str, tuple[int, float]] = dict.fromkeys(ENDED, (0, 0.0))
        return ends | {status: (count, seconds) for status, count, seconds in rows}

    def ended_before(self, seconds: float, kinds: Sequence[str]) -> list[Job]:
        """Jobs that ended before a time, the oldest first."""
        marks = ", ".join("?" * len(kinds))
        rows = self._database.execute(
            f"SELECT * FROM jobs WHERE status IN {ENDED} AND kind IN ({marks}) AND ended < ? ORDER BY ended",
            (*kinds, seconds),
        )
        return [Job.of(row) for row in rows]

    # What workers do.

    def claim(self, slot: int) -> Job | None:
        """Takes the oldest job that waits; previews, at which somebody waits, come first."""
        if self._database.execute("SELECT 1 FROM jobs WHERE status = 'queued' LIMIT 1").fetchone() is None:
            return None
        with self._writing() as database:
            row = database.execute(
                "UPDATE jobs SET status = 'running', worker = ?, attempts = attempts + 1, started = ?, progress = 0, "
                "stage = '' WHERE number = (SELECT number FROM jobs WHERE status = 'queued' "
                "ORDER BY kind != 'preview', number LIMIT 1) RETURNING *",
                (slot, time.time()),
            ).fetchone()
            return Job.of(row) if row else None

    def tell(self, job: Job, progress: float, stage: str, seconds_left: float | None) -> bool:
        """Writes how far a job is; whether it is to go on."""
        row = self._quick.execute(
            "UPDATE jobs SET progress = ?, stage = ?, seconds_left = ? "
            "WHERE id = ? AND status = 'running' AND worker = ? RETURNING cancelling",
            (progress, stage, seconds_left, job.id, job.worker),
        ).fetchall()
        return bool(row) and not row[0][0]

    def end(self, job: Job, status: str, error: str = "", size: int = 0) -> bool:
        """Ends a job that this worker has; whether it still had it."""
        with self._writing() as database:
            row = database.execute(
                "SELECT * FROM jobs WHERE id = ? AND status = 'running' AND worker = ?", (job.id, job.worker)
            ).fetchone()
            if row:
                self._end(database, row, status, error, size)
            return bool(row)

    def release(self, job: Job) -> None:
        """Puts a job back, as if it had not been begun: the worker is told to stop."""
        with self._writing() as database:
            database.execute(
                "UPDATE jobs SET status = 'queued', worker = NULL, attempts = attempts - 1, progress = 0, stage = '', "
                "seconds_left = NULL WHERE id = ? AND status = 'running' AND worker = ?",
                (job.id, job.worker),
            )

    def recover(self, slot: int, others: bool = False) -> None:
        """Puts back the job of a worker that has died; what was begun ``ATTEMPTS`` times has failed.

        Args:
          slot: the worker's; it must not run any more.
          others: whether those of all slots above are put back, too.
        """
        with self._writing() as database:
            rows = database.execute(
                f"SELECT * FROM jobs WHERE status = 'running' AND worker {'>=' if others else '='} ?", (slot,)
            )
            for row in rows.fetchall():
                if row["cancelling"]:
                    self._end(database, row, "cancelled", "")
                elif row["attempts"] >= ATTEMPTS:
                    self._end(database, row, "failed", f"its worker died {row['attempts']} times while it made this")
                else:
                    database.execute(
                        "UPDATE jobs SET status = 'queued', worker = NULL, progress = 0, stage = '', "
                        "seconds_left = NULL WHERE id = ?",
                        (row["id"],),
                    )

    def seen(self, slot: int, device: str) -> None:
        """Says that a worker lives."""
        self._quick.execute(
            "INSERT INTO workers VALUES (?, ?, ?) ON CONFLICT (slot) DO UPDATE SET device = excluded.device, "
            "seen = excluded.seen",
            (slot, device, time.time()),
        )

    def workers(self) -> dict[int, tuple[str, float]]:
        """Of each slot what it works on, and how many seconds ago its worker was seen."""
        rows = self._database.execute("SELECT slot, device, seen FROM workers")
        return {slot: (device, time.time() - seen) for slot, device, seen in rows}

    def _end(self, database: sqlite3.Connection, row: sqlite3.Row, status: str, error: str, size: int = 0) -> None:
        now = time.time()
        progress = 1.0 if status == "done" else row["progress"]
        database.execute(
            "UPDATE jobs SET status = ?, error = ?, ended = ?, bytes = ?, progress = ?, seconds_left = NULL, "
            "cancelling = 0 WHERE id = ?",
            (status, error, now, size, progress, row["id"]),
        )
        database.execute(
            "INSERT INTO ends VALUES (?, 1, ?) ON CONFLICT (status) DO UPDATE SET count = count + 1, "
            "seconds = seconds + excluded.seconds",
            (status, now - row["started"] if row["started"] else 0.0),
        )

    @property
    def _database(self) -> sqlite3.Connection:
        return self._connection("durable", "FULL")

    @property
    def _quick(self) -> sqlite3.Connection:
        """For what may be lost with the machine."""
        return self._connection("quick", "NORMAL")

    def _connection(self, name: str, synchronous: str) -> sqlite3.Connection:
        if not hasattr(self._local, name):
            connection = sqlite3.connect(self._path, isolation_level=None, timeout=20)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            setattr(self._local, name, connection)
        return getattr(self._local, name)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        database = self._database
        database.execute("BEGIN IMMEDIATE")
        try:
            yield database
        except BaseException:
            database.execute("ROLLBACK")
            raise
        database.execute("COMMIT")
