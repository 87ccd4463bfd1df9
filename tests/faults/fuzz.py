"""Damaged and odd files for every reader: each is refused in one line, or read as what it says."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from gen3r_jax import errors
from gen3r_jax.errors import UserError
from tests.faults import mutations
from tests.faults.doors import DOORS, Door, require_one_line
from tests.helpers.paths import REPOSITORY

MOST_SECONDS = 30
MOST_BYTES = 1 << 30
"""That reading may take more than before."""

NOBODY = 65534
TOLERANCE = 1e-5
PRINTED = (OSError, MemoryError, RecursionError)
"""What ``main_guard`` prints in one line, beside UserErrors."""


class Late(BaseException):
    """Reading took too long."""


@dataclass
class Case:
    """What became of a changed file; problem: what should not be, empty where all is well."""

    door: str
    file: str
    way: str
    refused: str = ""
    problem: str = ""


def run(scratch: Path, seed: int, count: int, names: Sequence[str] = tuple(DOORS)) -> Iterator[tuple[str, list[str]]]:
    """Yields for each case what it was and what was wrong. A child runs them: it may die of one, and is replaced."""
    first = 0
    while first < count:
        arguments = [scratch, seed, first, count, *names]
        command = [sys.executable, "-m", "tests.faults.fuzz", *map(str, arguments)]
        with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            for line in child.stdout:
                case = Case(**json.loads(line))
                yield f"case {first}: {case.door}, {case.way} of {case.file}", [case.problem] if case.problem else []
                first += 1
        if child.returncode:
            yield f"case {first}", [f"the process died with {child.returncode}"]
            first += 1


def cases(scratch: Path, seed: int, first: int, last: int, names: Sequence[str]) -> Iterator[Case]:
    """The cases of these numbers, which are the same for the same seed and names."""
    scratch.mkdir(parents=True, exist_ok=True)
    shares = np.array([DOORS[name].share for name in names], float)
    valid: dict[str, Any] = {}
    for number in range(first, last):
        rng = np.random.default_rng([seed, number])
        name = names[rng.choice(len(names), p=shares / shares.sum())]
        if name not in valid:
            valid[name] = write(DOORS[name], scratch / "valid" / name)
        change = partial(mutations.apply, odd=DOORS[name].odd)
        yield try_case(name, scratch / "valid" / name, valid[name], scratch / "case", rng, change)


def write(door: Door, folder: Path) -> Any:
    """Writes a valid input; gives what is read of it."""
    mutations.remove(folder)
    folder.mkdir(parents=True)
    door.write(folder)
    copy = folder.with_name(f"{folder.name}.read")  # reading may write, too
    mutations.remove(copy)
    shutil.copytree(folder, copy)
    with _quiet(StringIO()):
        return _plain(door.read(copy))


def try_case(name: str, valid: Path, wanted: Any, folder: Path, rng: np.random.Generator, change: Any) -> Case:
    """Changes one file of a copy of `valid`, reads the copy and judges what comes of it."""
    door = DOORS[name]
    mutations.remove(folder)
    shutil.copytree(valid, folder)
    paths = sorted(path for path in folder.glob(door.files) if path.is_file() and path.stat().st_size)
    path = paths[rng.integers(len(paths))]
    case = Case(name, path.relative_to(folder).as_posix(), change(path, rng))
    kept = {other.relative_to(folder): other.read_bytes() for other in paths if other != path}
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    said = StringIO()
    try:
        with _quiet(said), _in_time(), _without_rights(folder, case.way):
            got = _plain(door.read(folder))
    except UserError as error:
        case.refused = str(error)
        with _problem_of(case):
            require_one_line(error)
    except PRINTED as error:
        case.refused = f"{type(error).__name__}: {error}"
    except Late:
        case.problem = f"it took more than {MOST_SECONDS} s"
    except AssertionError as error:
        case.problem = str(error)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # panics of Rust are no Exception
        case.problem = f"a traceback: {type(error).__name__}: {str(error)[:300]}"
    else:
        case.problem = _judge(door, case, folder, got, wanted)
    if "Traceback" in said.getvalue() and not case.problem:
        case.problem = f"a traceback beside the result: {said.getvalue()[-300:]}"
    if case.refused and case.way in mutations.MEANINGLESS and not case.problem and not door.sealed:
        case.problem = f"what means nothing is refused: {case.refused}"
    if (grown := resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) > MOST_BYTES >> 10:
        case.problem = case.problem or f"it took {grown >> 10} MiB"
    if changed := [str(other) for other in kept if (folder / other).read_bytes() != kept[other] and not door.writes]:
        case.problem = case.problem or f"reading changed {changed[0]}"
    return case


def _judge(door: Door, case: Case, folder: Path, got: Any, wanted: Any) -> str:
    """What is wrong with a result; empty where it is what the file says."""
    if fault := _not_finite(got):
        return f"what was read is not finite: {fault}"
    if door.sealed or case.way in mutations.MEANINGLESS:
        return f"it was read as something else: {fault}" if (fault := _difference(got, wanted)) else ""
    if door.truth is None:
        return ""
    try:
        truth = _plain(door.truth(folder))
    except Exception as error:
        return f"it was read, and says nothing that can be meant ({type(error).__name__}: {str(error)[:100]})"
    shared = {key: truth[key] for key in truth if key in got} if isinstance(truth, dict) else truth
    return f"it was read as something else than it says: {fault}" if (fault := _difference(got, shared)) else ""


def _plain(value: Any) -> Any:
    """Arrays as NumPy's, tuples as lists, paths as text: what can be compared."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    array = np.asarray(value)
    return array if array.dtype != object else str(value)


def _difference(got: Any, wanted: Any, place: str = "") -> str:
    """Where the first value differs from the one that is wanted, of those that are; empty where none does."""
    if isinstance(wanted, dict):
        if not isinstance(got, dict):
            return place
        pairs = [(got.get(key), wanted[key], f"{place}.{key}") for key in wanted]
    elif isinstance(wanted, list) and isinstance(got, list):
        if len(got) != len(wanted):
            return f"{place}: {len(got)} for {len(wanted)}"
        pairs = [(*pair, f"{place}[{i}]") for i, pair in enumerate(zip(got, wanted, strict=True))]
    elif isinstance(wanted, np.ndarray):
        same = isinstance(got, np.ndarray) and got.shape == wanted.shape
        same = same and np.allclose(got.astype(np.float64), wanted.astype(np.float64), rtol=TOLERANCE, atol=TOLERANCE)
        return "" if same else place or "the numbers"
    else:
        same = isinstance(got, bool) == isinstance(wanted, bool) and got == wanted
        return "" if same else f"{place}: {repr(got)[:40]} for {repr(wanted)[:40]}"
    return next(filter(None, (_difference(*pair) for pair in pairs)), "")


def _not_finite(value: Any, place: str = "") -> str:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        return next(filter(None, (_not_finite(item, f"{place}.{key}") for key, item in items)), "")
    if isinstance(value, np.ndarray) and value.dtype.kind in "fV":
        return "" if np.isfinite(value.astype(np.float64)).all() else place or "the numbers"
    return place if isinstance(value, float) and not np.isfinite(value) else ""


@contextmanager
def _quiet(said: StringIO) -> Iterator[None]:
    """Keeps what is said, which is said anew each time."""
    errors._TOLD.clear()
    with redirect_stdout(said), redirect_stderr(said):
        yield


@contextmanager
def _problem_of(case: Case) -> Iterator[None]:
    """Makes an AssertionError the problem of the case."""
    try:
        yield
    except AssertionError as error:
        case.problem = str(error)


@contextmanager
def _in_time() -> Iterator[None]:
    def late(*_: object) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(MOST_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _without_rights(folder: Path, way: str) -> Iterator[None]:
    """As somebody who may not read what nobody may: root may."""
    if way != "no permission" or not mutations.IS_ROOT:
        yield
        return
    mutations.allow_all(folder)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def main() -> None:
    scratch, seed, first, last, *names = sys.argv[1:]
    with suppress(BrokenPipeError):
        for case in cases(Path(scratch), int(seed), int(first), int(last), names):
            print(json.dumps(vars(case)), flush=True)


if __name__ == "__main__":
    main()
