"""What README and docs print: commands and blocks of Python."""

import re
import shlex
from collections.abc import Iterator
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
