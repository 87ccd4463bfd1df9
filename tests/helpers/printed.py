"""What README and docs print: commands and blocks of Python; and a process that reads the words of many commands.

``python -m tests.helpers.printed`` takes a JSON list of command lines (lists of words) and answers with what was wrong
with each, "" where nothing was: their own parsers read them, and their configs are read, but nothing runs. All are read
by children of one process that has imported what they need, so each takes milliseconds.
"""

import argparse
import io
import json
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from tests.helpers.paths import REPOSITORY

DOCUMENTS = ("README.md", *(f"docs/{path.name}" for path in sorted((REPOSITORY / "docs").glob("*.md"))),
             "pretrained/nano/README.md", "launch/README.md")  # fmt: skip
PROGRAMS = ("gen3r", "python", "make", "pip")


@dataclass(frozen=True)
class Printed:
    """A command, or a block of Python, and where it stands: in a block, or in a sentence, which may leave words out."""

    place: str
    text: str
    language: str
    in_sentence: bool = False


def printed() -> list[Printed]:
    """All commands and blocks, those that stand in a sentence too, if they say more than a command's name."""
    return [item for document in DOCUMENTS for item in _of(document, (REPOSITORY / document).read_text())]


def _of(document: str, text: str) -> Iterator[Printed]:
    for match in re.finditer(r"^```(\w*)\n(.*?)^```|(?<!`)`([^`]+)`(?!`)", text, re.MULTILINE | re.DOTALL):
        place = f"{document}:{text[: match.start()].count(chr(10)) + 1}"
        language, block, span = match.groups()
        if language == "bash":
            yield from (Printed(place, command, "bash") for command in _commands(block))
        elif language == "python":
            yield Printed(place, block, "python")
        elif block is not None:
            first = block.split(maxsplit=1)[0]
            assert not language and first not in PROGRAMS, f"{place}: a block of commands begins with ```bash"
        elif (words := span.split())[0] in PROGRAMS and (len(words) > 2 or (words[0] == "make" and len(words) == 2)):
            yield Printed(place, " ".join(words), "bash", in_sentence=True)


def _commands(block: str) -> Iterator[str]:
    """The commands of a block, without comments; a quoted text or a backslash goes on in the next line."""
    command = ""
    for line in block.splitlines():
        command += line
        if command.endswith("\\"):
            command = command[:-1]
        elif _open_quote(command):
            command += "\n"
        else:
            if command := re.sub(r"(^|\s+)# .*$", "", command).strip():
                yield re.sub(" {2,}", " ", command)
            command = ""
    assert not command


def _open_quote(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return True
    return False


def _read(words: list[str]) -> None:
    """Lets a command read its words, and ends where it would begin to work."""
    from absl import app

    def parse_args(parser, arguments=None, namespace=None):
        real(parser, arguments, namespace)
        raise SystemExit(0)

    def run(main, flags_parser, **_):
        flags_parser(sys.argv)
        _read_config()
        raise SystemExit(0)

    real, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, parse_args
    app.run = run
    sys.argv = words
    module = "gen3r_jax" if words[0] == "gen3r" else words[2]
    if words[0] == "python":
        sys.argv = words[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    raise SystemExit("the command did not read its words")


def _read_config() -> None:
    """Reads the config's keys as training and evaluation do, whatever data there are."""
    from gen3r_jax.command_line import CONFIG
    from gen3r_jax.evaluation.options import read_evaluation
    from gen3r_jax.generation.settings import GenerationSettings
    from gen3r_jax.stages.config import read_config

    values = CONFIG.value.to_dict()
    if "stage" in values:
        values["data"]["source"] = values["data"]["source"] or "procedural"
        read_config(values)
    else:
        read_evaluation(values, GenerationSettings())


def main() -> None:
    import gen3r_jax.evaluation.options
    import gen3r_jax.stages.config  # noqa: F401

    json.dump([_wrong_with(words) for words in json.load(sys.stdin)], sys.stdout)


def _wrong_with(words: list[str]) -> str:
    reading, writing = os.pipe()
    if not os.fork():
        said, wrong = io.StringIO(), ""
        try:
            with redirect_stderr(said), redirect_stdout(said):
                _read(words)
        except SystemExit as end:
            wrong = "" if end.code in (0, None) else f"{said.getvalue()[-500:]} {end.code}"
        except BaseException as error:
            wrong = repr(error)
        os.write(writing, wrong.encode())
        os._exit(0)
    os.close(writing)
    os.wait()
    with open(reading) as pipe:
        return pipe.read()


if __name__ == "__main__":
    main()
