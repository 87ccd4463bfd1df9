"""What web and worker have in common: what they are told at the start, and when they end.

The supervisor writes one line of JSON to the standard input of a child and leaves it open. When the supervisor ends,
however that happens, the input ends, too.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from gen3r_jax.serve.options import ServeOptions, options_of


def read_orders() -> tuple[ServeOptions, dict[str, Any]]:
    """The server's options, and what is this child's alone."""
    document = json.loads(sys.stdin.readline())
    return options_of(document["options"]), document["own"]


def end_with_supervisor(end: Callable[[], None]) -> None:
    """Has `end` called, in a thread, when the supervisor is gone or asks this process to stop."""
    read, write = os.pipe()

    def wake(*_: object) -> None:
        os.write(write, b".")

    def watch_input() -> None:
        sys.stdin.read()
        wake()

    def watch() -> None:
        os.read(read, 1)
        end()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, wake)
    for function in (watch_input, watch):
        threading.Thread(target=function, daemon=True).start()
