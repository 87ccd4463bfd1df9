"""What disks, copies, editors and other programs do to a file: damage, odd values, and changes that mean nothing."""

import grp  # noqa: F401  (who reads without rights may need it, and could not import it)
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.helpers.damage import flipped

Rng = np.random.Generator

HUGE = "9" * 400
"""An integer that no type holds, and that Python itself refuses to print."""

ODD_VALUES = (
    *(None, True, False, "", "x", "\x00", "../../etc/passwd", "a" * 5000, [], {}, [[]], [None], {"": 0}),
    *(0, -1, 1, 2, 7.5, -0.0, 2**31, -(2**63), 10**30, 1e39, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf),
)
ODD_WORDS = ("nan", "inf", "-1", "0", "1e400", "1e39", "x", '"', "0x10", "1_0", "\x00", "ü", HUGE, "../..", "9" * 5000)


def apply(path: Path, rng: Rng, odd: bool = False) -> str:
    """Changes a file in a way that is drawn. Returns the way's name; of those in MEANINGLESS nothing is to be seen.

    Args:
      odd: whether only values of a JSON file are changed, so that it stays one.
    """
    kinds = [FILES, BYTES, BYTES]
    if odd:
        kinds = [JSON]
    elif path.suffix in (".json", ".jsonl"):
        kinds += [JSON, JSON, JSON, TEXT, MEANINGLESS]
    elif path.suffix in (".txt", ".tum"):
        kinds += [TEXT, TEXT, TEXT, MEANINGLESS]
    elif path.suffix in (".npy", ".npz"):
        kinds += [ARRAYS, ARRAYS, ARRAYS]
    while True:
        ways = kinds[rng.integers(len(kinds))]
        name = list(ways)[rng.integers(len(ways))]
        if ways is FILES:
            FILES[name](path)
            return name
        content = path.read_bytes()
        try:
            changed = ways[name](content, rng)
        except ValueError:  # a text that is none, or too short a file
            continue
        if changed != content:
            path.write_bytes(changed)
            return name


# Files -------------------------------------------------------------------------------------------------------------


def _remove(path: Path) -> None:
    path.unlink()


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def _dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


def _forbidden(path: Path) -> None:
    path.chmod(0)


def _empty(path: Path) -> None:
    path.write_bytes(b"")


FILES: dict[str, Callable[[Path], None]] = {
    "missing": _remove,
    "a folder": _folder,
    "a link to itself": _loop,
    "a link to nowhere": _dangling,
    "no permission": _forbidden,
    "empty": _empty,
}


# Bytes -------------------------------------------------------------------------------------------------------------


def _place(content: bytes, rng: Rng) -> int:
    return int(rng.integers(len(content)))


def _truncate(content: bytes, rng: Rng) -> bytes:
    return content[: _place(content, rng)]


def _flip_many(content: bytes, rng: Rng) -> bytes:
    for _ in range(32):
        content = flipped(content, rng)
    return content


def _splice(content: bytes, rng: Rng) -> bytes:
    place = _place(content, rng)
    return content[:place] + rng.bytes(int(rng.integers(1, 100))) + content[place:]


def _cut(content: bytes, rng: Rng) -> bytes:
    first, last = sorted(_place(content, rng) for _ in range(2))
    return content[:first] + content[last:]


def _repeat(content: bytes, rng: Rng) -> bytes:
    first, last = sorted(_place(content, rng) for _ in range(2))
    return content[:last] + content[first:]


def _zeros(content: bytes, rng: Rng) -> bytes:
    """A page that was never written."""
    first = _place(content, rng)
    last = min(first + 4096, len(content))
    return content[:first] + bytes(last - first) + content[last:]


def _other(content: bytes, rng: Rng) -> bytes:
    starts = (b"\x89PNG\r\n\x1a\n", b"\x7fELF", b"PK\x03\x04", b"\x1f\x8b\x08", b"<!DOCTYPE html>", b"\x80\x04.")
    return starts[rng.integers(len(starts))] + rng.bytes(int(rng.integers(300)))


BYTES: dict[str, Callable[[bytes, Rng], bytes]] = {
    "cut short": _truncate,
    "a flipped bit": flipped,
    "32 flipped bits": _flip_many,
    "bytes put in": _splice,
    "bytes taken out": _cut,
    "bytes that repeat": _repeat,
    "zeros": _zeros,
    "another file": _other,
}


# Text --------------------------------------------------------------------------------------------------------------


def _words(content: bytes, rng: Rng) -> bytes:
    lines = [line.split(" ") for line in content.decode().split("\n")]
    line = lines[rng.integers(len(lines))]
    line[rng.integers(len(line))] = ODD_WORDS[rng.integers(len(ODD_WORDS))]
    return "\n".join(" ".join(line) for line in lines).encode()


def _lines(content: bytes, rng: Rng) -> bytes:
    lines = content.decode().split("\n")
    first, second = (int(rng.integers(len(lines))) for _ in range(2))
    way = rng.integers(3)
    if way == 0:
        del lines[first]
    elif way == 1:
        lines.insert(first, lines[second])
    else:
        lines[first], lines[second] = lines[second], lines[first]
    return "\n".join(lines).encode()


def _utf16(content: bytes, rng: Rng) -> bytes:
    return content.decode().encode("utf-16")


def _latin1(content: bytes, rng: Rng) -> bytes:
    place = _place(content, rng)
    return content[:place] + "é".encode("latin-1") + content[place:]


TEXT: dict[str, Callable[[bytes, Rng], bytes]] = {
    "an odd word": _words,
    "other lines": _lines,
    "UTF-16": _utf16,
    "Latin-1": _latin1,
}


# JSON --------------------------------------------------------------------------------------------------------------


def _in_document(change: Callable[[Any, Any, Rng], None]) -> Callable[[bytes, Rng], bytes]:
    """Changes one value: `change` gets the list or object that holds it, and its index or key."""

    def changed(content: bytes, rng: Rng) -> bytes:
        lines = content.decode().split("\n")
        whole = len([line for line in lines if line]) == 1 or not lines[0].rstrip().endswith("}")
        number = 0 if whole else int(rng.choice([i for i, line in enumerate(lines) if line]))
        document = json.loads(content if whole else lines[number])
        places = list(_places(document))
        if not places:
            raise ValueError
        change(*places[rng.integers(len(places))], rng)
        text = json.dumps(document).replace(f'"{HUGE}"', HUGE)
        return (text if whole else "\n".join([*lines[:number], text, *lines[number + 1 :]])).encode()

    return changed


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key in range(len(node)) if isinstance(node, list) else list(node) if isinstance(node, dict) else ():
        yield node, key
        yield from _places(node[key])


def _set_odd(holder: Any, key: Any, rng: Rng) -> None:
    holder[key] = ODD_VALUES[rng.integers(len(ODD_VALUES))]


def _set_huge(holder: Any, key: Any, rng: Rng) -> None:
    holder[key] = HUGE


def _set_deep(holder: Any, key: Any, rng: Rng) -> None:
    for _ in range(int(rng.integers(2, 300))):
        holder[key] = [holder[key]]


def _as_text(holder: Any, key: Any, rng: Rng) -> None:
    holder[key] = str(holder[key])


def _delete(holder: Any, key: Any, rng: Rng) -> None:
    del holder[key]


def _double(holder: Any, key: Any, rng: Rng) -> None:
    if not isinstance(holder, list):
        raise ValueError
    holder.append(holder[key])


JSON: dict[str, Callable[[bytes, Rng], bytes]] = {
    "an odd value": _in_document(_set_odd),
    "another odd value": _in_document(_set_odd),
    "a huge number": _in_document(_set_huge),
    "deep lists": _in_document(_set_deep),
    "text for a value": _in_document(_as_text),
    "a value less": _in_document(_delete),
    "a value twice": _in_document(_double),
}


# Arrays ------------------------------------------------------------------------------------------------------------


def _of_one(change: Callable[[np.ndarray, Rng], np.ndarray]) -> Callable[[bytes, Rng], bytes]:
    """Changes an array of NumPy's file, which stays one."""

    def changed(content: bytes, rng: Rng) -> bytes:
        loaded, written = np.load(io.BytesIO(content)), io.BytesIO()
        if isinstance(loaded, np.ndarray):
            np.save(written, change(loaded.copy(), rng))
        else:
            arrays = dict(loaded)
            key = list(arrays)[rng.integers(len(arrays))]
            np.savez(written, **{**arrays, key: change(arrays[key].copy(), rng)})
        return written.getvalue()

    return changed


def _odd_number(array: np.ndarray, rng: Rng) -> np.ndarray:
    odd = [value for value in ODD_VALUES if isinstance(value, float)]
    with np.errstate(over="ignore"):
        array.flat[rng.integers(array.size)] = odd[rng.integers(len(odd))]
    return array


def _other_type(array: np.ndarray, rng: Rng) -> np.ndarray:
    return array.astype(("O", "U8", "S8", "c16", "i1", "?", "f2", ">f8", "M8[s]")[rng.integers(9)])


def _other_shape(array: np.ndarray, rng: Rng) -> np.ndarray:
    shapes = (array.ravel(), array.T, array[None], array[..., None], array[:0], array[0], array[1:], array.ravel()[0])
    return np.asarray(shapes[rng.integers(len(shapes))])


ARRAYS: dict[str, Callable[[bytes, Rng], bytes]] = {
    "an odd number": _of_one(_odd_number),
    "an array of another type": _of_one(_other_type),
    "an array of another shape": _of_one(_other_shape),
}


# What means nothing ------------------------------------------------------------------------------------------------


def _mark(content: bytes, rng: Rng) -> bytes:
    return b"\xef\xbb\xbf" + content


def _crlf(content: bytes, rng: Rng) -> bytes:
    return content.replace(b"\n", b"\r\n")


def _more_lines(content: bytes, rng: Rng) -> bytes:
    return content + b"\n"


MEANINGLESS: dict[str, Callable[[bytes, Rng], bytes]] = {
    "a byte order mark": _mark,
    "lines that end with CR LF": _crlf,
    "a line end more": _more_lines,
}


def allow_all(folder: Path) -> None:
    """Lets anyone look into a folder, so that a process without rights can."""
    for path in (folder, *folder.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            path.chmod(0o777)


def remove(folder: Path) -> None:
    """Removes a folder in which files may be of any kind."""
    shutil.rmtree(folder, ignore_errors=True)


IS_ROOT = os.geteuid() == 0
