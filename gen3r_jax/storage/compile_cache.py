"""Compiled programs are kept between runs: JAX's persistent cache, in a folder of the user, bounded in size.

JAX's keys hold the program, its flags, the versions and the devices. What they do not hold, the instruction sets of the
processor, names the sub-folder, so that a home directory shared by several machines is safe.
"""

import functools
import hashlib
import os
import platform
import re
import sys
import warnings
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from etils import epath

from gen3r_jax.errors import UserError, notice
from gen3r_jax.storage.remote import is_remote

OFF = "off"
_UNREADABLE = re.compile(r"Error reading persistent compilation cache entry for '([^']+)'")
VARIABLE = "GEN3R_COMPILE_CACHE"
LARGEST = 4 << 30
"""Bytes that the cache of one kind of machine may hold; of more, the oldest programs are removed."""


def use_compile_cache(place: str | None = None, default: str | os.PathLike | None = None) -> None:
    """Has JAX keep every program that it compiles from now on, and take those that were kept before.

    Args:
      place: a folder, also ``gs://...``, or "off"; by default what the environment variable GEN3R_COMPILE_CACHE says,
        or JAX_COMPILATION_CACHE_DIR, which JAX reads itself.
      default: the folder where none of these says one; by default one in the user's cache folder.
    """
    place = place or os.environ.get(VARIABLE)
    if place and place.lower() == OFF:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if not place and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    try:
        folder = str(place or default or user_cache() / "programs")
    except UserError as error:
        notice(f"compiled programs are not kept: {error}")
        return
    if not is_remote(folder):
        folder = os.path.expanduser(folder)
        folder = os.path.join(folder, _machine())
        if not _prepare(Path(folder)):
            return
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    _replace_damaged()


@functools.cache
def _replace_damaged() -> None:
    """Has a warning of JAX that an entry cannot be read remove it, because JAX never writes over an entry.

    So damage costs one compilation. That an entry cannot be written costs no more either: nobody need read of it.
    """
    show = warnings.showwarning

    def remove(message: Warning | str, *rest: Any, **named: Any) -> None:
        if not (found := _UNREADABLE.match(str(message))):
            return show(message, *rest, **named)
        folder = epath.Path(jax.config.jax_compilation_cache_dir)  # pyright: ignore[reportAttributeAccessIssue]
        with suppress(OSError):
            for entry in folder.glob(f"{found[1]}-*"):  # the message tells the program's name, not the whole key
                entry.unlink(missing_ok=True)
        return None

    warnings.filterwarnings("always", message=_UNREADABLE.pattern)
    warnings.filterwarnings("ignore", message="Error writing persistent compilation cache entry")
    warnings.showwarning = remove


def user_cache() -> Path:
    """The folder of this project in the user's cache folder. Raises UserError where the user has no home."""
    if place := os.environ.get("XDG_CACHE_HOME"):
        return Path(place) / "gen3r_jax"
    try:
        home = Path.home()
    except RuntimeError:
        raise UserError("there is no home directory to keep a cache in; set HOME or XDG_CACHE_HOME") from None
    return home / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "gen3r_jax"


def _machine() -> str:
    """What programs for the processor depend on beside what JAX knows: its kind and instruction sets."""
    try:
        words = Path("/proc/cpuinfo").read_text()
    except OSError:
        words = platform.processor()
    features = re.findall(r"^(?:flags|Features|model name|cpu family|model)\s*:.*$", words, re.MULTILINE) or [words]
    digest = hashlib.sha256("\n".join(sorted(set(features))).encode()).hexdigest()[:8]
    return f"jaxlib-{version('jaxlib')}-{platform.machine()}-{digest}"


def _prepare(folder: Path) -> bool:
    """Makes the folder for this user alone and removes what is too much; False where it cannot be used."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            notice(f"compiled programs are not kept: {folder} belongs to another user; see --compile_cache")
            return False
        if not os.access(folder, os.W_OK):
            notice(f"compiled programs are only read: {folder} cannot be written; see --compile_cache")
            return True
        folder.chmod(0o700)
        _trim(folder, LARGEST)
    except OSError as error:
        notice(f"compiled programs are not kept: {folder}: {error.strerror}; see --compile_cache")
        return False
    return True


def _trim(folder: Path, largest: int) -> None:
    """Removes the oldest entries until the others have at most `largest` bytes."""
    entries = []
    for file in os.scandir(folder):
        if file.is_file(follow_symlinks=False):
            status = file.stat(follow_symlinks=False)
            entries.append((status.st_mtime, status.st_size, file.path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= largest:
            return
        Path(path).unlink(missing_ok=True)  # another process may have been first
        total -= size
