"""Errors that are the user's to mend: one line that says what was given, what is allowed and what to do."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Bad input, a missing file or a wrong setting. The message stands alone on one line."""


_TOLD: set[str] = set()


def notice(line: str, kind: str = "") -> None:
    """Prints a line on standard error: what was assumed, left out or changed.

    Each line is printed once a process; of the lines of one `kind`, only the first.
    """
    if (kind or line) not in _TOLD:
        _TOLD.add(kind or line)
        print(line, file=sys.stderr)


def one_line(error: Exception) -> str:
    """The message of another's error on one line, its name where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


def main_guard(main: Callable[[], int | None]) -> None:
    """Runs a command: a :class:`UserError` becomes one line on standard error and exit status 2."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
