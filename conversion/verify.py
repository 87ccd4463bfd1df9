"""Replays recorded tensors and compares: ``python -m conversion.verify PATH...``

Each file is computed again from its own inputs, weights and config, in float32 on the default device, and every
recorded output is compared. Exit status 1 if anything differs by more than its tolerance, if a file cannot be read or
if its kind is unknown. ``docs/parity.md`` describes the files.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import jax
import numpy as np

from conversion.recording import Recording, Tolerance
from conversion.replay import REPLAYS, kind_of
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.storage.files import natural_key


@dataclass(frozen=True)
class Comparison:
    """One tensor, recorded against recomputed. Errors are infinite where the two cannot be subtracted."""

    name: str
    absolute_error: float
    relative_error: float
    tolerance: Tolerance
    passed: bool
    note: str = ""


@dataclass(frozen=True)
class Report:
    """One file. `status` is ``pass``, ``fail`` or ``skip`` (a companion with weights only)."""

    path: str
    kind: str | None
    status: str
    message: str = ""
    tensors: list[Comparison] = field(default_factory=list)
    not_replayed: list[str] = field(default_factory=list)
    seconds: float = 0.0


def verify(path: Path) -> Report:
    """Recomputes one recorded file. Never raises for what is wrong with the file: the report says it."""
    start, kind = time.perf_counter(), None
    try:
        recording = Recording(path)
        if recording.weights_only:
            return Report(str(path), None, "skip", "weights only, used by other recordings")
        kind = kind_of(recording)
        if kind is None:
            return Report(str(path), None, "fail", f"unknown kind of recording; known: {', '.join(sorted(REPLAYS))}")
        if not recording.outputs:
            return Report(str(path), kind, "fail", "it holds no recorded outputs")
        with jax.default_matmul_precision("highest"):
            computed = {name: np.asarray(x) for name, x in REPLAYS[kind].function(recording).items()}
        tensors = list(_compare_all(recording, computed, kind))
    except UserError as error:
        return Report(str(path), kind, "fail", str(error))
    except Exception as error:  # a replay that stumbles over one file must not hide the others
        reason = (str(error).splitlines() or [""])[0]
        return Report(str(path), kind, "fail", f"replay stopped: {type(error).__name__}: {reason}")
    names = {f"intermediates/{name}" for name in recording.intermediates}
    return Report(
        str(path),
        kind,
        "pass" if all(tensor.passed for tensor in tensors) else "fail",
        tensors=tensors,
        not_replayed=sorted(names - computed.keys(), key=natural_key),
        seconds=time.perf_counter() - start,
    )


def compare(name: str, recorded: np.ndarray, computed: np.ndarray, tolerance: Tolerance) -> Comparison:
    """Largest errors of a tensor; the relative one is against the largest recorded magnitude."""

    def failed(note: str) -> Comparison:
        return Comparison(name, math.inf, math.inf, tolerance, False, note)

    if recorded.shape != computed.shape:
        return failed(f"shape {list(computed.shape)}, recorded {list(recorded.shape)}")
    if recorded.dtype.kind not in "biuf":
        equal = np.array_equal(recorded, computed)
        return Comparison(name, 0.0, 0.0, Tolerance(), True) if equal else failed("not equal")
    kind = recorded.dtype.kind
    recorded, computed = recorded.astype(np.float64), computed.astype(np.float64)
    finite = np.isfinite(recorded)
    if not np.array_equal(np.where(finite, 0, recorded), np.where(np.isfinite(computed), 0, computed), equal_nan=True):
        return failed("other infinities or NaNs")
    error = np.abs(recorded[finite] - computed[finite]).max(initial=0)
    largest = np.abs(recorded[finite]).max(initial=0)
    relative = error / largest if largest else math.copysign(math.inf, error) if error else 0.0
    if kind == "f":
        passed = error <= max(tolerance.absolute, tolerance.relative * largest)
    else:
        tolerance = Tolerance(flips=tolerance.flips)
        if kind == "b":
            error = relative = np.mean(recorded != computed)  # the share of flipped entries
        passed = relative <= tolerance.flips
    return Comparison(name, float(error), float(relative), tolerance, bool(passed))


def _compare_all(recording: Recording, computed: dict[str, np.ndarray], kind: str) -> Iterator[Comparison]:
    for prefix, group in (("outputs", recording.outputs), ("intermediates", recording.intermediates)):
        for short in group:
            name = f"{prefix}/{short}"
            if name in computed:
                yield compare(name, group[short], computed[name], REPLAYS[kind].tolerance(name))
            elif prefix == "outputs":
                tolerance = REPLAYS[kind].tolerance(name)
                yield Comparison(name, math.inf, math.inf, tolerance, False, "not recomputed")


def files_in(paths: Iterable[Path]) -> list[Path]:
    """The recorded files among `paths`; folders are searched with all their subfolders."""
    files = []
    for path in paths:
        found = sorted([*path.rglob("*.safetensors"), *path.rglob("*.json")]) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path} holds no recorded files (.safetensors or .json)")
        files += found
    return files


def _text(report: Report) -> Iterator[str]:
    kind = f" ({report.kind})" if report.kind else ""
    yield f"{report.path}{kind}: {report.status}{': ' if report.message else ''}{report.message}"
    width = max((len(tensor.name) for tensor in report.tensors), default=0)
    for tensor in report.tensors:
        allowed = tensor.tolerance
        limits = [f"abs {allowed.absolute:.0e}"] * bool(allowed.absolute)
        limits += [f"rel {allowed.relative:.0e}"] * bool(allowed.relative)
        limits += [f"flips {allowed.flips:.0e}"] * bool(allowed.flips)
        yield (
            f"  {tensor.name:<{width}}  abs {tensor.absolute_error:8.1e}  rel {tensor.relative_error:8.1e}"
            f"  allowed {' or '.join(limits) or 'exact':<21}  {'pass' if tensor.passed else 'FAIL'}"
            f"{'  ' if tensor.note else ''}{tensor.note}"
        )
    if report.not_replayed:
        yield f"  not replayed: {len(report.not_replayed)} intermediates: {', '.join(report.not_replayed)}"


def _summary(reports: list[Report]) -> str:
    count = {status: sum(report.status == status for report in reports) for status in ("pass", "fail", "skip")}
    tensors = [tensor for report in reports for tensor in report.tensors]
    return (
        f"{count['pass']} files passed, {count['fail']} failed, {count['skip']} skipped; "
        f"{sum(tensor.passed for tensor in tensors)} of {len(tensors)} tensors passed"
    )


def _for_json(value: object) -> object:
    """Infinite errors become null: JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _for_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_for_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m conversion.verify", description=str(__doc__).split("\n\n")[0])
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a recorded file, or a folder of them")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = parser.parse_args(arguments)
    reports = []
    for path in files_in(options.paths):
        reports.append(verify(path))
        if not options.json:
            print("\n".join(_text(reports[-1])), flush=True)
    passed = all(report.status != "fail" for report in reports)
    if options.json:
        software = {"jax": jax.__version__, "device": str(jax.devices()[0])}
        document = {**software, "passed": passed, "files": [asdict(report) for report in reports]}
        print(json.dumps(_for_json(document), indent=1))
    else:
        print(_summary(reports))
    return 0 if passed else 1


if __name__ == "__main__":
    main_guard(main)
