"""Starts web and workers, and starts them again when they die. It holds the socket, so no call is refused meanwhile."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from gen3r_jax.errors import UserError
from gen3r_jax.serve.options import ServeOptions
from gen3r_jax.serve.store import claimed_store

WEB, WORKER = "gen3r_jax.serve.web", "gen3r_jax.serve.worker"
LOOK = 0.1
"""Seconds between two looks at the children."""

LONGEST_PAUSE = 5.0
"""Seconds before a child is started again that dies again and again."""

STEADY = 10.0
"""Seconds that a child has to live for its earlier deaths to be forgotten."""

USER_ERROR, STARTING = 2, 120.0
"""Exit status of a child that cannot work with what it was told, and has said why; seconds after which it has begun to
work, so that another beginning may help."""


class Child:
    """A process that is kept alive.

    Args:
      own: what it is told beside the options.
      environment: what its environment has besides.
      passed: descriptors that it inherits.
    """

    def __init__(
        self,
        module: str,
        options: ServeOptions,
        own: dict[str, int],
        environment: dict[str, str] | None = None,
        passed: Sequence[int] = (),
    ):
        self._module, self._orders = module, json.dumps({"options": options.document(), "own": own})
        self._environment, self._passed = environment or {}, passed
        self._deaths, self._next = 0, 0.0
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        # Not by -m: processes that decode uploads would import what is __main__ here once more.
        code = f"from {self._module} import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._environment},
            pass_fds=self._passed,
        )
        self._started = time.monotonic()
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.write(self._orders + "\n")
            self.process.stdin.flush()

    def look(self) -> int | None:
        """Starts the process again if it has died and its pause is over; its exit status where there is no use."""
        now = time.monotonic()
        if self.process is not None:
            status = self.process.poll()
            if status is None:
                return None
            if status == USER_ERROR and now - self._started < STARTING:
                return status
            self.close()
            self._deaths = 1 if now - self._started > STEADY else self._deaths + 1
            pause = 0.0 if self._deaths < 3 else min(LONGEST_PAUSE, 2.0 ** (self._deaths - 3))
            print(f"{self._module} ended with status {status}; it starts again", file=sys.stderr, flush=True)
            self.process, self._next = None, now + pause
        if now >= self._next:
            self.start()
        return None

    def close(self) -> None:
        """Lets the process know that it is to end."""
        if self.process and self.process.stdin:
            with suppress(OSError):
                self.process.stdin.close()


def serve(options: ServeOptions, devices: Sequence[str]) -> int:
    """Runs a server until it is interrupted; returns the exit status.

    Args:
      devices: numbers of those that the workers have, one each; empty: one worker, which has all there are.
    """
    with _terminated(), claimed_store(options.store) as store, listening(options) as sock:
        web = Child(WEB, options, {"socket": sock.fileno()}, passed=(sock.fileno(),))
        seen = [{"CUDA_VISIBLE_DEVICES": device, "TPU_VISIBLE_CHIPS": device} for device in devices] or [{}]
        workers = [Child(WORKER, options, {"slot": slot}, environment) for slot, environment in enumerate(seen)]
        children = [web, *workers]
        store.queue.recover(len(workers), others=True)  # of a server that had more workers
        try:
            print(address(options, sock), flush=True)
            while True:
                for child in children:
                    if status := child.look():
                        return status
                time.sleep(LOOK)
        finally:
            for child in children:
                child.close()
            _wait(children)
    return 0


def address(options: ServeOptions, sock: socket.socket) -> str:
    """The address of the page. The token stands behind a #, which no browser sends and no log has."""
    host = "127.0.0.1" if options.host in ("0.0.0.0", "::", "localhost") else options.host
    host = f"[{host}]" if ":" in host else host
    return f"http://{host}:{sock.getsockname()[1]}/" + (f"#token={options.token}" if options.token else "")


@contextmanager
def listening(options: ServeOptions) -> Iterator[socket.socket]:
    """A socket at the address of the options. Raises UserError where nothing can listen there."""
    try:
        family, *_, place = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        sock = socket.create_server(place[:2], family=family, backlog=256)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"cannot listen at {options.host} port {options.port}: {reason}; give another --host or --port"
        ) from None
    with sock:
        yield sock


@contextmanager
def _terminated() -> Iterator[None]:
    """Has SIGTERM end the server as Ctrl+C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        print("stopped; jobs that wait are kept", file=sys.stderr)
    finally:
        signal.signal(signal.SIGTERM, before)


def _wait(children: Sequence[Child], patience: float = 10.0) -> None:
    until = time.monotonic() + patience
    for child in children:
        if child.process:
            try:
                child.process.wait(max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
