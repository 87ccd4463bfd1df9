"""Commands that are killed at random moments and started again: the result is that of a run that nobody disturbed."""

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gen3r_jax.storage.folders import MARKER
from tests.faults.works import LONGEST_MESSAGE, OUTPUT, WORKS, Work, content, differences, finish, kill, undisturbed

NOTES = OUTPUT / "notes.txt"
"""A file that the user puts beside what the killed command left in its output."""

MOST_KILLS = 3
"""Of one command, before it is left alone: it is killed again, with this chance, ..."""
AGAIN = 0.25


def shared_out(count: int, names: Sequence[str]) -> list[str]:
    """`count` names, each as often as its work's share says, in turn."""
    shares = {name: WORKS[name].share for name in names}
    taken = dict.fromkeys(names, 0)
    order = []
    for _ in range(count):
        name = max(names, key=lambda name: shares[name] / (taken[name] + 1))
        taken[name] += 1
        order.append(name)
    return order


def run(scratch: Path, seed: int, count: int, names: Sequence[str] = tuple(WORKS)) -> Iterator[tuple[str, list[str]]]:
    """Yields for each killed command its name and what was wrong afterwards: nothing, as it should be."""
    order = shared_out(count, names)
    for name in names:
        work, folder = WORKS[name], scratch / name.replace(" ", "-")
        if name not in order:
            continue
        (folder).mkdir(parents=True)
        wanted, begins, takes = undisturbed(work, folder)
        rng, number = np.random.default_rng([seed, list(WORKS).index(name)]), 0
        for _ in range(order.count(name)):
            problems: list[str] | None = None
            while problems is None:  # it had ended before it was to be killed
                number += 1
                place = folder / f"killed-{number}"
                problems = _killed(work, place, rng, wanted, begins, takes)
                if not problems:
                    shutil.rmtree(place)
            yield f"{name}, {place}", problems


def _killed(
    work: Work, place: Path, rng: np.random.Generator, wanted: dict, begins: float, takes: float
) -> list[str] | None:
    """What is wrong after a command was killed and started again; None where it could not be killed."""
    work.lay_out(place)
    inputs = content(place, without=place / OUTPUT)
    for number in range(MOST_KILLS):
        moment = rng.uniform(begins, takes)
        process = work.start(place)
        time.sleep(moment)
        ended = process.poll() is not None
        kill(process)
        _, said = finish(process)
        if "Traceback" in said:
            return [f"a traceback: {said[-1000:]}"]
        if ended and not number:
            return None
        if rng.random() > AGAIN:
            break
    noted = any((place / OUTPUT / name).exists() for name in (MARKER, "config.json"))
    if noted:
        (place / NOTES).write_text("mine")
    status, said = finish(work.start(place))
    problems = [f"the second start ended with {status}: {said[-1000:]}"] if status else []
    if "Traceback" in said or any(len(line) > LONGEST_MESSAGE for line in said.splitlines() if "error" in line):
        problems.append(f"a traceback or a long line: {said[-1000:]}")
    if not problems:
        others = [name for name in differences(work.result(place), wanted) if name != NOTES.name]
        problems += [f"{name} is not as in an undisturbed run" for name in others]
    if noted and (not (place / NOTES).exists() or (place / NOTES).read_text() != "mine"):
        problems.append("the user's file in the output is gone")
    left = content(place, without=place / OUTPUT)
    for name in inputs.keys() | left.keys():
        if name not in left or (name in inputs and left[name] != inputs[name]):
            problems.append(f"{name} was changed, which is not the command's")
        elif name not in inputs:
            problems.append(f"{name} was left behind")
    return problems
