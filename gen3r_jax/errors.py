"""Errors that are the user's to mend: one line that says what was given, what is allowed and what to do."""

import functools
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Bad input, a missing file or a wrong setting. The message stands alone on one line."""


@functools.cache
def notice(text: str) -> None:
    """Tell the user a line that is no error, on standard error; the same line is told once in a process."""
    print(f"notice: {text}", file=sys.stderr)


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
