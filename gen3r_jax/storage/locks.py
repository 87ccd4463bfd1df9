"""Locks between processes, on files. They end with the process that holds them, however that ends."""

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gen3r_jax.errors import UserError


@contextmanager
def locked(file: Path, refusal: str = "") -> Iterator[None]:
    """Holds `file`, which is made when it is missing. Where another process holds it, raises UserError(refusal), or
    waits if there is none. On file systems without locks nothing is held."""
    with file.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (fcntl.LOCK_NB if refusal else 0))
        except BlockingIOError:
            raise UserError(refusal) from None
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                raise UserError(f"cannot lock {file}: {error.strerror}") from None
        yield
