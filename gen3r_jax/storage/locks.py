"""Locks between processes, on files that say who holds them and are gone when nobody does.

The kernel's lock on the file ends with the process that holds it, however that ends. Network file systems may have no
such locks, or locks that other machines do not see. There the file itself is the lock: its holder touches it every few
seconds, and a process on another machine takes it over when it has seen that stop.
"""

import errno
import fcntl
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from gen3r_jax.errors import UserError, notice
from gen3r_jax.storage.files import writing

HEARTBEAT = 5.0
"""Seconds between two touches of a lock's file."""

SILENCE = 30.0
"""Seconds without a touch after which a holder on another machine is taken for gone."""

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class Held(UserError):
    """Another process holds the lock."""


@contextmanager
def locked(file: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Holds `file`, which is made together with the folders above it.

    Args:
      what: what is locked, for messages.
      wait: whether to wait while another process holds it.

    Raises:
      Held: another process holds it, which the message names.
      CannotWrite: the file cannot be written.
    """
    with writing(what, "choose another output"):
        file.parent.mkdir(parents=True, exist_ok=True)
        while isinstance(handle := _acquire(file), str):
            if not wait:
                raise Held(f"{what} is in use by {handle}; wait until that has ended, or give another output")
            notice(f"waiting for {handle}, which uses {what}")
            time.sleep(0.1)
    ended = threading.Event()
    threading.Thread(target=_touch, args=(handle, ended), daemon=True).start()
    try:
        yield
    finally:
        ended.set()
        with suppress(OSError):
            if _is(file, handle):
                file.unlink()
        os.close(handle)


def lock_beside(path: Path) -> Path:
    """The lock of a file, or of a folder that is moved into its place when it is whole."""
    path = path.absolute()
    return path.with_name(f".{path.name}.lock")


def _acquire(file: Path) -> int | str:
    """A descriptor of the file, which this process then holds, or in words who holds it."""
    while True:
        try:
            handle, made = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666), True
        except FileExistsError:
            made = False
            try:
                handle = os.open(file, os.O_RDWR)
            except FileNotFoundError:
                continue
        holder = _take(file, handle, made)
        if holder is None:
            return handle
        os.close(handle)
        if holder:
            return holder


def _take(file: Path, handle: int, made: bool) -> str | None:
    """Writes into an open file that this process holds it. Returns None, or who does; "" where the file is gone."""
    locks = True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return _describe(_read(handle))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        locks = False
    if not _is(file, handle):  # who held it removed it
        return ""
    holder = _read(handle)
    if not made and _lives(holder, file, handle, locks):
        return _describe(holder)
    if not _is(file, handle):
        return ""
    since = f"{datetime.now():%F %T.%f}"
    ours = {"host": socket.gethostname(), "pid": os.getpid(), "command": _command(), "since": since}
    os.ftruncate(handle, 0)
    os.pwrite(handle, json.dumps(ours).encode(), 0)
    os.fsync(handle)
    if not made and not locks:  # of several that take it over, the last one has it
        time.sleep(1)
        if (last := _read(handle)) != ours:
            return _describe(last)
    return None


def _lives(holder: dict, file: Path, handle: int, locks: bool) -> bool:
    """Whether who wrote itself into the file may still run."""
    if holder.get("host") == socket.gethostname() or (locks and not holder):
        return not locks and _runs(holder.get("pid"))
    notice(f"looking for {SILENCE:.0f} s whether {_describe(holder)}, which holds {file}, still runs")
    touched, until = os.fstat(handle).st_mtime_ns, time.monotonic() + SILENCE
    while time.monotonic() < until and _is(file, handle):
        if os.fstat(handle).st_mtime_ns != touched:
            return True
        time.sleep(min(1.0, SILENCE / 10))
    return False


def _runs(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (ValueError, ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _touch(handle: int, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        with suppress(OSError):
            os.utime(handle)


def _is(file: Path, handle: int) -> bool:
    """Whether the open file is still the one of that name; opening it makes network file systems look anew."""
    try:
        with file.open("rb") as opened:
            return os.path.samestat(os.fstat(opened.fileno()), os.fstat(handle))
    except FileNotFoundError:
        return False


def _read(handle: int) -> dict:
    try:
        holder = json.loads(os.pread(handle, 4096, 0))
    except ValueError:  # it was made a moment ago, or by hand
        holder = {}
    return holder if isinstance(holder, dict) else {}


def _describe(holder: dict) -> str:
    said = {key: str(holder.get(key, "?"))[:60] for key in ("command", "pid", "host", "since")}
    if not holder:
        return "another process"
    return f"{said['command']} (process {said['pid']} on {said['host']}, since {said['since'].partition('.')[0]})"


def _command() -> str:
    program = Path(sys.argv[0] or "python")
    return program.parent.name if program.stem == "__main__" else program.stem
