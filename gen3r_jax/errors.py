"""Errors that are the user's to mend: one line that says what was given, what is allowed and what to do."""

import sys
from collections.abc import Callable


class UserError(ValueError):
    """Bad input, a missing file or a wrong setting. The message stands alone on one line."""


_told: set[str] = set()


def notice(kind: str, line: str) -> None:
    """Tells on standard error what was done to an input; of many notices of one `kind` only the first is printed."""
    if kind not in _told:
        _told.add(kind)
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
