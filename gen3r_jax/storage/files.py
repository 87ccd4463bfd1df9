"""Files that are written whole or not at all, and text, JSON and lines that are read with bounds.

What is written goes through :func:`replacing`; what is read raises a UserError of one line that names the file and says
what is wrong with it. Paths may lie in a bucket (``gs://``).
"""

import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from gen3r_jax.errors import UserError

LARGEST_TEXT = 1 << 31
"""Bytes: a COLMAP model in text form can have above a billion."""

LARGEST_JSON = 1 << 28
"""Bytes: ten times as many are needed in memory."""

DEEPEST_JSON = 64
"""Lists and objects inside of one another."""

LONGEST_NAME = 240
"""Bytes of a file's or folder's name; file systems allow 255, and temporary names have some more."""

LONGEST_INTEGER = 40
"""Digits of an integer in JSON; UUIDs have 39."""


class CannotWrite(UserError):
    """The output cannot be written to: there is no use in going on with the next item."""


class NewerFormat(UserError):
    """A document is of a format that only newer versions of this library know."""


@contextmanager
def writing(path: epath.PathLike, advice: str = "") -> Iterator[None]:
    """Turns an OSError in the block into a :class:`CannotWrite` that names `path`; for files that grow, and folders."""
    try:
        yield
    except OSError as error:
        told = f"; {advice}" if advice else ""
        raise CannotWrite(f"cannot write to {os.fspath(path)}: {error.strerror or error}{told}") from error


@contextmanager
def replacing(path: epath.PathLike) -> Iterator[Path]:
    """Gives a temporary local path with the name of `path` to write to, and moves it there when the block succeeds.

    Folders above `path` are made.

    Raises:
      CannotWrite: the folder or the file cannot be written (no permission, full disk).
    """
    path = epath.Path(path)
    remote = is_remote(os.fspath(path))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".partial-", dir=None if remote else path.parent) as folder:
            temporary = Path(folder, path.name)
            yield temporary
            if remote:
                epath.Path(temporary).copy(path, overwrite=True)
            else:
                os.replace(temporary, path)


def write_text(path: epath.PathLike, text: str) -> None:
    """Writes a text file in UTF-8, whole or not at all. Raises CannotWrite."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: epath.PathLike, document: Any, indent: int | None = 1) -> None:
    """Writes a JSON file, whole or not at all.

    Raises:
      CannotWrite: the file cannot be written.
      UserError: `document` holds NaN or infinity, which JSON does not have.
    """
    try:
        text = json.dumps(document, indent=indent, allow_nan=False)
    except ValueError as error:
        raise UserError(f"{os.fspath(path)} is not written: it would hold NaN or infinity ({error})") from None
    write_text(path, text + "\n")


def read_text(path: epath.PathLike) -> str:
    """The content of a text file in UTF-8, with or without byte order mark, its lines ended by ``\\n``.

    Raises UserError where the file is missing, cannot be read, is above 2 GiB or is no such text.
    """
    return _decode(_read(path, LARGEST_TEXT), os.fspath(path)).replace("\r\n", "\n").replace("\r", "\n")


def read_lines(path: epath.PathLike) -> list[str]:
    """The lines of a text file that are not blank, without white space around them. Raises as :func:`read_text`."""
    return [line.strip() for line in read_text(path).split("\n") if line.strip()]


def read_table(path: Path, columns: int, *, header: int = 0) -> Float[np.ndarray, "rows columns"]:
    """Lines of `columns` numbers after `header` lines, float64; "nan" is a number. Raises UserError for other lines.

    A last line that was cut short (a download that broke off) is left out.
    """
    rows = [line.split() for line in read_lines(path)[header:]]
    if rows and len(rows[-1]) < columns:
        rows = rows[:-1]
    for number, row in enumerate(rows):
        if len(row) != columns:
            raise UserError(f"{path}: line {header + number + 1} has {len(row)} columns instead of {columns}")
    try:
        return np.array(rows, np.float64).reshape(-1, columns)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read_json(path: epath.PathLike, kind: type = dict, *, nan: bool = False) -> Any:
    """The content of a JSON file.

    Args:
      kind: what it must be: dict, list, or object for anything.
      nan: whether NaN and infinity, which JSON does not have but Python writes, are numbers.

    Raises UserError where the file is missing, cannot be read, is above 256 MiB, or as :func:`parse_json`.
    """
    return parse_json(_read(path, LARGEST_JSON), os.fspath(path), kind, nan=nan)


def read_json_lines(
    path: epath.PathLike, *, skip_damaged: bool = False, nan: bool = False
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file that has one JSON object a line, with the lines' numbers; blank lines are passed over.

    Args:
      skip_damaged: whether lines that are no JSON objects are passed over, too.

    Raises UserError as :func:`read_json`, with the number of the line.
    """
    for number, line in enumerate(_read(path, LARGEST_TEXT).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, parse_json(line, f"{os.fspath(path)}, line {number}", nan=nan)
        except UserError:
            if not skip_damaged:
                raise


def parse_json(text: str | bytes, name: str, kind: type = dict, *, nan: bool = False) -> Any:
    """The value of a JSON text; arguments as in :func:`read_json`.

    Raises UserError that begins with `name`: where the text is not JSON, is of another `kind`, or holds what no reader
    means: lists inside of lists above 64 deep, integers above 40 digits, numbers that are not finite, halves of
    characters.
    """
    text = _decode(text, name) if isinstance(text, bytes) else text
    numbers: dict[str, Any] = {} if nan else {"parse_float": _finite, "parse_constant": _finite}
    try:
        value = json.loads(text, parse_int=_integer, **numbers)
        _require_depth(value)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise UserError(f"{name} is damaged: it holds half a character (\\ud800 to \\udfff)") from None
    except RecursionError:
        raise UserError(f"{name} has lists or objects inside of one another above {DEEPEST_JSON} deep") from None
    except UserError as error:
        raise UserError(f"{name} {error}") from None
    except ValueError as error:
        raise UserError(f"{name} is not JSON: {error}") from None
    if not isinstance(value, kind):
        raise UserError(f"{name} holds no JSON {'object' if kind is dict else kind.__name__}")
    return value


def refuse_newer(document: Mapping[str, Any], newest: int, name: str) -> None:
    """Refuses a document whose ``format_version`` is not known; one that says none is of the first.

    Raises:
      NewerFormat: the version is above `newest`; the message calls the document `name`.
      UserError: what it says is no version.
    """
    version = document.get("format_version", 1)
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise UserError(f"{name} is damaged: its format_version is {version!r}, not a number from 1 on")
    if version > newest:
        known = f"this gen3r-jax knows {newest} and older; update gen3r-jax"
        raise NewerFormat(f"{name} has format_version {version}, {known}")


def inside(folder: Path, name: str) -> Path:
    """The path of `name`, which was read from a file, below `folder`.

    Raises UserError where a path of that name would not lie below the folder, or cannot be one: it is absolute, has
    parts ``..`` or control characters, is empty or too long. Links in the folder are followed: its owner made them.
    """
    parts = Path(name).parts
    reasons = {
        "is empty": not parts,
        "is absolute": name.startswith("/"),
        "has a part ..": ".." in parts,
        "has control characters": any(character < " " or character == "\x7f" for character in name),
        f"has above {LONGEST_NAME} bytes": any(len(os.fsencode(part)) > LONGEST_NAME for part in parts),
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), ""):
        raise UserError(f"the name {name[:80]!r} {reason}: it does not lead to a place below {folder}")
    return folder / name


def real_path(path: Path) -> Path:
    """The absolute path without links in it. A link that leads to itself stays, where ``Path.resolve`` would raise."""
    return Path(os.path.realpath(path))


def natural_key(name: Path | str) -> list[tuple[int, int | str]]:
    """Sorts ``x2`` before ``x10``: by the name of a path, or by all of a string."""
    text = name if isinstance(name, str) else name.name
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in re.split(r"(\d+)", text) if part]


def is_remote(path: str) -> bool:
    """Whether a path lies in a bucket."""
    return "://" in path


def _read(path: epath.PathLike, largest: int) -> bytes:
    name = os.fspath(path)
    content = bytearray()
    try:
        with epath.Path(path).open("rb") as file:
            while chunk := file.read(1 << 24):
                content += chunk
                if len(content) > largest:
                    raise UserError(f"{name} is above {largest >> 20} MiB, the most that is read of such a file")
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or error}") from None
    return bytes(content)


def _decode(content: bytes, name: str) -> str:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start}); save it as that") from None
    if "\0" in text:
        raise UserError(f"{name} is not text: it holds zero bytes")
    return text


def _integer(digits: str) -> int:
    if len(digits) > LONGEST_INTEGER:
        raise UserError(f"holds a number of {len(digits)} digits; {LONGEST_INTEGER} are allowed")
    return int(digits)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise UserError(f"holds {text[:20]}, which is no finite number")
    return number


def _require_depth(value: Any) -> None:
    """Raises RecursionError for what the parser let pass: how much that is depends on who calls it."""
    level = [value]
    for _ in range(DEEPEST_JSON):
        inner = (node.values() if isinstance(node, dict) else node for node in level if isinstance(node, dict | list))
        level = [child for children in inner for child in children if isinstance(child, dict | list)]
        if not level:
            return
    raise RecursionError
