"""Errors that are the user's to mend: one line that says what was given, what is allowed and what to do."""

import argparse
import errno
import io
import os
import re
import reprlib
import sys
from collections.abc import Callable
from contextlib import suppress

BROKEN_PIPE = 141
"""The exit status of a command whose reader went away, as a shell has it: 128 + SIGPIPE."""

LONGEST_LINE = 399
"""Characters of a line that tells an error."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


_SMALLER = (
    "make it smaller (size, frames, clips per device, workers), or use --memory_mode staged, more devices (--mesh, "
    "config.mesh) or a machine with more memory"
)


class UserError(ValueError):
    """Bad input, a missing file or a wrong setting. The message stands alone on one line."""


def require_platform() -> None:
    """Raises UserError on Windows, which lacks modules that everything here needs."""
    if sys.platform == "win32":
        raise UserError("gen3r runs on Linux and macOS; on Windows use it in the Windows Subsystem for Linux")


_TOLD: set[str] = set()

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def notice(line: str, kind: str = "") -> None:
    """Prints a line on standard error: what was assumed, left out or changed.

    Each line is printed once a process; of the lines of one `kind`, only the first.
    """
    if (kind or line) not in _TOLD:
        _TOLD.add(kind or line)
        print(line, file=sys.stderr)


def told(value: object) -> str:
    """A value as a message shows it: as Python writes it, but short, whatever it is."""
    return shortened(_SHORT.repr(value), 120)


def shortened(text: str, most: int) -> str:
    """A text of at most `most` characters: of a longer one the middle is left out, for its end says what to do."""
    kept = most - 5
    return text if len(text) <= most else f"{text[: kept - kept // 2]} ... {text[-(kept // 2) :]}"


MOST_BAD = 0.05
"""The share of bad scenes or lines above which a command that has left them out says so by its exit status."""


def read_share(text: str) -> float:
    """A share from 0 to 1, for ``--most_bad``."""
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise UserError(f"--most_bad must be a share from 0 to 1, such as {MOST_BAD}, not {text!r}")
    return share


def add_most_bad(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds ``--most_bad`` to a command that leaves bad scenes or lines out."""
    told = f"exit status 1 if a larger share of the {what} is bad (default: {MOST_BAD})"
    parser.add_argument("--most_bad", type=read_share, default=MOST_BAD, metavar="SHARE", help=told)


def bad_share_status(bad: int, total: int, most: float, what: str) -> int:
    """The exit status of a command that has left out `bad` of `total`: 1, with a line, above the share `most`."""
    if bad <= most * total:
        return 0
    print(f"{bad} of {total} {what} were bad, a larger share than --most_bad {most:g}", file=sys.stderr)
    return 1


def one_line(error: BaseException) -> str:
    """The message of another's error on one line, its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def main_guard(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its status.

    What the user or the machine is to blame for (a :class:`UserError`, files that cannot be read or written, too little
    memory, input that is nested without end) becomes one line on standard error and exit status 2. Where whoever read
    the output went away, the command ends quietly with the status that a shell expects. Characters that the terminal
    does not have are written as escapes.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # whoever replaced the stream takes all characters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            status = main()
        finally:
            print(end="", flush=True)  # here a full disk or a reader that left can still be told
        sys.exit(status)
    except UserError as error:
        _end(f"error: {error}", 2)
    except KeyboardInterrupt:
        _end("interrupted", 130)
    except BrokenPipeError:
        _end("", BROKEN_PIPE)
    except OSError as error:
        _end(f"error: {_cause(error)}", 2)
    except MemoryError as error:
        _end(f"error: this machine has too little memory for it{_amount(str(error))}; {_SMALLER}", 2)
    except RecursionError:
        _end("error: the input is nested too deeply; give simpler files or values", 2)
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):  # of JAX, and not worth importing it for
            raise
        _end(f"error: the device has too little memory for it{_amount(str(error))}; {_SMALLER}", 2)


def _amount(text: str) -> str:
    """How much memory was asked for, where XLA tells it."""
    found = re.search(r"allocat\w+ ([\d.]+ ?(?:bytes|[KMGTPE]?i?B))", text)
    return f" ({found[1]} at once)" if found else ""


def _cause(error: OSError) -> str:
    """Why something failed, with the file where the system tells it: a write to a full disk does not."""
    reason = error.strerror or one_line(error)
    file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if error.errno in _FULL:
        return f"cannot write {file}".rstrip() + f": {reason}"
    return f"cannot read or write {file}: {reason}" if file else reason


def _end(message: str, status: int) -> None:
    with suppress(OSError):
        if message:
            print(shortened(message, LONGEST_LINE), file=sys.stderr)
    try:
        print(end="", flush=True)
    except OSError:  # what could not be written is given up, or Python would complain about it once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(status)
