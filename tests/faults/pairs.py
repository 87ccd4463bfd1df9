"""Pairs of commands that are started at once on one output: one works, or one after the other, and nothing is mixed."""

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.faults.kills import shared_out
from tests.faults.works import LONGEST_MESSAGE, OUTPUT, WORKS, Work, content, differences, finish, undisturbed

HELD = re.compile(r"error: .* is in use by .* \(process \d+ on .*\); wait until that has ended, or give another output")
LATEST = 1.0
"""Seconds: the second command starts so much later at most."""


LOCKING = tuple(name for name in WORKS if name != "train toy")
"""Works of commands; the toy training is a test's own program, which takes no lock."""


def run(scratch: Path, seed: int, count: int, names: Sequence[str] = LOCKING) -> Iterator[tuple[str, list[str]]]:
    """Yields for each pair its name and what was wrong afterwards: nothing, as it should be."""
    order = shared_out(count, names)
    for name in names:
        if name not in order:
            continue
        work, folder = WORKS[name], scratch / name.replace(" ", "-")
        folder.mkdir(parents=True)
        wanted, *_ = undisturbed(work, folder)
        rng = np.random.default_rng([seed, list(WORKS).index(name)])
        for number in range(order.count(name)):
            place = folder / f"pair-{number}"
            problems = _pair(work, place, rng.uniform(0, LATEST), wanted)
            if not problems:
                shutil.rmtree(place)
            yield f"{name}, {place}", problems


def _pair(work: Work, place: Path, later: float, wanted: dict) -> list[str]:
    work.lay_out(place)
    inputs = content(place, without=place / OUTPUT)
    first = work.start(place)
    time.sleep(later)
    ends = [finish(process) for process in (first, work.start(place))]
    problems = [] if 0 in (status for status, _ in ends) else ["neither of the two ended well"]
    for status, said in ends:
        lines = said.strip().splitlines() or [""]
        held = HELD.fullmatch(lines[-1]) and len(lines[-1]) < LONGEST_MESSAGE
        if "Traceback" in said or (status and not (status == 2 and held)):
            problems.append(f"one ended with {status}: {said[-1000:]}")
    problems += [f"{name} is not as in an undisturbed run" for name in differences(work.result(place), wanted)]
    left = content(place, without=place / OUTPUT)
    problems += [f"{name} was changed, or left behind" for name in left if left[name] != inputs.get(name)]
    return problems + [f"{name} is gone" for name in inputs.keys() - left.keys()]
