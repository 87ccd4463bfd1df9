"""What has been prepared: for each unit of the raw data a file with a line of JSON for every recording.

Lines are written as recordings are done, so a killed run loses no more than the recording that it was at. The last
line, of no recording, says that the unit was read to its end, or why it could not be.
"""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from gen3r_jax.data.prepare.scenes import Outcome
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import parse_json, read_text, write_text, writing

UNIT = ""
"""Stands for the unit itself where recordings have their id."""


def read_record(file: Path) -> dict[str, Outcome]:
    """What became of each recording of a unit; empty where there is no file. Raises UserError for a damaged one."""
    if not file.exists():
        return {}
    lines = read_text(file).split("\n")
    try:  # what follows the last newline is of a run that was killed while it wrote
        return dict(_read_line(line) for line in lines[:-1])
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{file} is damaged; delete it, and its recordings will be prepared again") from None


def fruitful(outcomes: Mapping[str, Outcome]) -> dict[str, Outcome]:
    """What need not be looked at again: recordings that gave scenes, or of which none were wanted."""
    return {
        recording: outcome
        for recording, outcome in outcomes.items()
        if recording != UNIT and (outcome.scenes or not outcome.skipped)
    }


def is_complete(outcomes: Mapping[str, Outcome]) -> bool:
    return UNIT in outcomes and not outcomes[UNIT].skipped and len(fruitful(outcomes)) == len(outcomes) - 1


def total(outcomes: Mapping[str, Outcome]) -> Outcome:
    result = Outcome()
    for outcome in outcomes.values():
        result.add(outcome)
    return result


class RecordWriter:
    """Starts the file anew with `outcomes` and adds to both. Use as a context manager."""

    def __init__(self, file: Path, outcomes: dict[str, Outcome]):
        self.file, self.outcomes = file, outcomes

    def __enter__(self) -> Self:
        write_text(self.file, "".join(_line(*item) for item in self.outcomes.items()))
        with writing(self.file.parent):
            self._open = self.file.open("a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        with writing(self.file.parent):
            self._open.close()

    def add(self, recording: str, outcome: Outcome) -> None:
        self.outcomes[recording] = outcome
        with writing(self.file.parent):
            self._open.write(_line(recording, outcome))
            self._open.flush()


def _line(recording: str, outcome: Outcome) -> str:
    return json.dumps({"recording": recording} | vars(outcome)) + "\n"


def _read_line(line: str) -> tuple[str, Outcome]:
    values = parse_json(line, "a line")
    recording = values.pop("recording")
    values["dropped"] = Counter(values["dropped"])
    values["skipped"] = [tuple(item) for item in values["skipped"]]
    return recording, Outcome(**values)
