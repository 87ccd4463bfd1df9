"""run.json: with what a command ran, how long each of its stages took and how much memory it had needed by then."""

import json
import platform
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax

from gen3r_jax.storage.files import write_text

PACKAGES = ("jax", "flax", "numpy")


class RunReport:
    """Times the stages of a command, tells the user about them and writes them down.

    Args:
      options: the settings of the run, by name; what JSON cannot hold is written as text.
    """

    def __init__(self, options: Mapping[str, Any]):
        self._options = dict(options)
        self._stages: list[dict[str, Any]] = []
        self.results: dict[str, Any] = {}  # what the run found out about itself, by name
        self._compile_seconds = 0.0
        jax.monitoring.register_event_duration_secs_listener(self._on_event)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Prints the stage's name as it begins, and its wall time as it ends."""
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        start, compiled = time.perf_counter(), self._compile_seconds
        try:
            yield
        except BaseException:
            print(file=sys.stderr)
            raise
        seconds, compiled = time.perf_counter() - start, self._compile_seconds - compiled
        print(f"{seconds:.1f} s" + (f" ({compiled:.1f} s compiling)" if compiled > 0.1 else ""), file=sys.stderr)
        self._stages.append({"stage": name, "seconds": seconds, "compile_seconds": compiled, **_peak_memory()})

    def document(self) -> dict[str, Any]:
        """Everything that is known so far, as it is written."""
        device = jax.devices()[0]
        return {
            "options": self._options,
            "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "stages": self._stages,
            "results": self.results,
        }

    def write(self, path: Path | str) -> None:
        write_text(path, json.dumps(self.document(), indent=1, default=str) + "\n")

    def _on_event(self, event: str, seconds: float, **_: Any) -> None:
        if event.endswith("backend_compile_duration"):
            self._compile_seconds += seconds


def _peak_memory() -> dict[str, int | None]:
    """Largest memory so far in bytes: of this process, and of a device where the device says it."""
    unit = 1 if sys.platform == "darwin" else 1024
    devices = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in devices if "peak_bytes_in_use" in stats]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"host_peak_bytes": host, "device_peak_bytes": max(peaks, default=None)}
