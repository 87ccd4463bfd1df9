"""run.json: with what a run was made, how long its stages took, what was compiled and how much memory was needed."""

import json
import os
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

from gen3r_jax.progress import COMPILER, Programs
from gen3r_jax.storage.files import read_json, refuse_newer, write_text

FORMAT_VERSION = 1
PACKAGES = ("jax", "flax", "numpy")


class RunReport:
    """Times the stages of a run, tells the user about them and writes them down.

    Args:
      options: the settings of the run, by name; what JSON cannot hold is written as text.
      quiet: whether nothing is printed.

    Attributes:
      results: what the run found out about itself, by name.
    """

    def __init__(self, options: Mapping[str, Any], *, quiet: bool = False):
        self.options = dict(options)
        self.results: dict[str, Any] = {}
        self.quiet = quiet
        self._stages: list[dict[str, Any]] = []
        self._before = COMPILER.programs()
        self._programs = Programs()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Prints the stage's name as it begins, and its wall time as it ends."""
        self._print(f"{name} ...", end=" ")
        start, before = time.perf_counter(), COMPILER.programs()
        try:
            yield
        except BaseException:
            self._print()
            raise
        seconds = time.perf_counter() - start
        made = COMPILER.programs() - before
        self._programs = COMPILER.programs() - self._before
        self._print(f"{seconds:.1f} s" + (f" ({made.seconds:.1f} s compiling)" if made.seconds > 0.1 else ""))
        self._stages.append({"stage": name, "seconds": seconds, "compile_seconds": made.seconds, **_peak_memory()})

    def document(self) -> dict[str, Any]:
        """Everything that is known so far, as it is written."""
        device = jax.devices()[0]
        return {
            "format_version": FORMAT_VERSION,
            "options": self.options,
            "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
            "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
            "stages": self._stages,
            "programs": {
                "compiled": self._programs.compiled,
                "compile_seconds": round(self._programs.seconds, 3),
                "kept": self._programs.kept,
            },
            "results": self.results,
        }

    def programs(self) -> Programs:
        """The programs from the beginning to the end of the last stage."""
        return self._programs

    def write(self, path: Path | str) -> None:
        write_text(path, json.dumps(self.document(), indent=1, default=str) + "\n")

    def _print(self, *words: str, end: str = "\n") -> None:
        if not self.quiet:
            print(*words, end=end, flush=True, file=sys.stderr)


def describe(value: Any) -> Any:
    """An argument as JSON can hold it: numbers and texts as they are, of arrays dtype and shape, of others the kind."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "dtype"):
        return f"array of {value.dtype} {list(value.shape)}" if value.shape else value.item()
    if type(value) in (list, tuple):
        return [describe(item) for item in value]
    return f"{type(value).__name__} {getattr(value, 'size', '')}".strip()


def read_report(path: Path) -> dict[str, Any]:
    """The content of a run.json. Raises UserError where it is missing, damaged, or of a newer format."""
    document = read_json(path, nan=True)
    refuse_newer(document, FORMAT_VERSION, str(path))
    return document


def _peak_memory() -> dict[str, int | None]:
    """Largest memory so far in bytes: of this process, and of a device where the device says it."""
    unit = 1 if sys.platform == "darwin" else 1024
    devices = [device.memory_stats() or {} for device in jax.local_devices()]
    peaks = [stats["peak_bytes_in_use"] for stats in devices if "peak_bytes_in_use" in stats]
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return {"host_peak_bytes": host, "device_peak_bytes": max(peaks, default=None)}
