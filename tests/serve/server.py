"""A server of its own for a test, in real processes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gen3r_jax.client import Client
from gen3r_jax.serve.options import ServeOptions
from tests.helpers.paths import REPOSITORY

CODE = """
import json, sys
from gen3r_jax.errors import main_guard
from gen3r_jax.serve.options import options_of
from gen3r_jax.serve.supervisor import serve
options = options_of(json.loads(sys.argv[1]))
main_guard(lambda: serve(options, sys.argv[2:]))
"""
STUB = "tests.serve.stub:start"


class Server:
    """A running server; `log` is what it wrote to standard error so far."""

    def __init__(self, process: subprocess.Popen, address: str, log: Path):
        self.process, self.address, self._log = process, address, log
        self.client = Client(address)
        self.port = int(address.partition("#")[0].rstrip("/").rpartition(":")[2])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def children(self, module: str) -> list[int]:
        """Processes of web ("web") or of workers ("worker")."""
        pid = self.process.pid
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [int(child) for child in found if f"gen3r_jax.serve.{module} " in _command(child)]


def _command(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


@contextmanager
def running(folder: Path, workers: int = 1, maker: str = STUB, port: int = 0, **options) -> Iterator[Server]:
    """Starts a server on a store in `folder`; it is ended with the block."""
    told = ServeOptions(weights="pretrained/nano", store=str(folder / "store"), port=port, maker=maker, **options)
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    log = folder / "log.txt"
    command = [sys.executable, "-c", CODE, json.dumps(told.document()), *map(str, range(workers))]
    with log.open("a") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=REPOSITORY
        )
    try:
        assert process.stdout
        address = process.stdout.readline().strip()
        assert address, log.read_text()
        yield Server(process, address, log)
    finally:
        process.terminate()
        process.wait(30)
        process.stdout.close()
