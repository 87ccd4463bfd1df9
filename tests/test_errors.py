"""What a command prints where the user or the machine is to blame: one line, or none."""

import os
import subprocess
import sys

import numpy as np
import pytest
from jax.errors import JaxRuntimeError as XlaRuntimeError

from gen3r_jax.errors import UserError, main_guard
from tests.helpers.paths import REPOSITORY

TOO_LARGE = "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 15.88GiB.\nBuffers: ..."
HERE = (
    "error: this machine has too little memory for it{}; make it smaller (size, frames, clips per device, workers), or "
    "use --memory_mode staged, more devices (--mesh, config.mesh) or a machine with more memory\n"
)
THERE = HERE.format(" (15.88GiB at once)").replace("this machine", "the device")


def _raise(error):
    raise error


def _recurse():
    return _recurse()


@pytest.mark.parametrize(
    "main, status, message",
    [
        (lambda: None, None, ""),
        (lambda: 3, 3, ""),
        (lambda: _raise(UserError("no")), 2, "error: no\n"),
        (lambda: _raise(UserError(f"{'x' * 999}; mend it")), 2, f"error: {'x' * 190} ... {'x' * 188}; mend it\n"),
        (lambda: os.listdir("no/such"), 2, "error: cannot read or write no/such: No such file or directory\n"),
        (lambda: os.mkdir(b"no/such"), 2, "error: cannot read or write no/such: No such file or directory\n"),
        (lambda: _raise(OSError(28, "No space left on device")), 2, "error: cannot write: No space left on device\n"),
        (lambda: _raise(TimeoutError("no answer\nat all")), 2, "error: no answer at all\n"),
        (lambda: _raise(MemoryError()), 2, HERE.format("")),
        (lambda: np.empty(1 << 60, np.uint8), 2, HERE.format(" (1.00 EiB at once)")),
        (
            lambda: _raise(XlaRuntimeError(TOO_LARGE)),
            2,
            HERE.format(" (15.88GiB at once)").replace("this machine", "the device"),
        ),
        (_recurse, 2, "error: the input is nested too deeply; give simpler files or values\n"),
        (lambda: _raise(KeyboardInterrupt()), 130, "interrupted\n"),
        (lambda: _raise(BrokenPipeError(32, "Broken pipe")), 141, ""),
    ],
)
def test_what_is_printed(capfd, main, status, message):
    with pytest.raises(SystemExit) as end:
        main_guard(main)
    assert end.value.code == status and capfd.readouterr().err == message


def test_mistakes_of_ours_keep_their_traceback():
    with pytest.raises(KeyError):
        main_guard(lambda: {}["key"])
    with pytest.raises(RuntimeError, match="INTERNAL"):
        main_guard(lambda: _raise(XlaRuntimeError("INTERNAL: no")))


CODE = "from gen3r_jax.errors import main_guard; main_guard(lambda: print('caf\\xe9 \\u2581\\udce4' * {}))"


@pytest.mark.parametrize("count", [1, 100_000])
def test_output_that_nobody_takes(count):
    """To a full disk, to a reader that has left, and to a terminal that lacks characters."""
    command = [sys.executable, "-c", CODE.format(count)]
    options = {"cwd": REPOSITORY, "env": os.environ | {"PYTHONIOENCODING": "latin1"}, "stderr": subprocess.PIPE}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(command, stdout=full, check=False, **options)
    assert (done.returncode, done.stderr) == (2, b"error: cannot write: No space left on device\n")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, check=False, **options)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, **options)
    assert done.stdout == b"caf\xe9 \\u2581\\udce4" * count + b"\n"
