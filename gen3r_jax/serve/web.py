"""The process that answers HTTP."""

import os
import socket
import threading

import uvicorn

from gen3r_jax.errors import main_guard
from gen3r_jax.serve.api import create_app
from gen3r_jax.serve.bounded import Bounded
from gen3r_jax.serve.child import end_with_supervisor, read_orders
from gen3r_jax.serve.store import Store

LONGEST_HEAD = 64 << 10
"""Bytes of a request's line and headers."""

MOST_CONNECTIONS = 500
PATIENCE = 2
"""Seconds that open connections have when the server is stopped."""


def main() -> None:
    """Serves on the socket that the supervisor has opened."""

    def run() -> int:
        options, own = read_orders()
        store = Store(options.store)
        store.tidy()
        call = Bounded(options.limits.decode_seconds, options.limits.decode_bytes)
        app = create_app(options, store, call)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            ws="none",
            server_header=False,
            h11_max_incomplete_event_size=LONGEST_HEAD,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_graceful_shutdown=PATIENCE,
            timeout_keep_alive=30,
        )
        server = _Server(config)

        def end() -> None:
            server.should_exit = True
            threading.Timer(PATIENCE + 2, os._exit, (0,)).start()

        end_with_supervisor(end)
        threading.Thread(target=call, args=("describe", options.weights), daemon=True).start()  # its imports are slow
        with socket.socket(fileno=own["socket"]) as listening:
            server.run(sockets=[listening])
        return 0

    main_guard(run)


class _Server(uvicorn.Server):
    """A server whose signals are those of :func:`gen3r_jax.serve.child.end_with_supervisor`."""

    def capture_signals(self):
        from contextlib import nullcontext

        return nullcontext()
