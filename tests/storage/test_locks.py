"""One process at a time, whatever the file system has, and whoever held the lock before."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.storage import folders, locks
from gen3r_jax.storage.locks import Held, locked

HOLD = """
import sys, time
from pathlib import Path
from gen3r_jax.storage.locks import locked
with locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["kernel", "file"])
def kind(request, monkeypatch):
    """With locks of the kernel, and on a file system that has none."""
    if request.param == "file":

        def refuse(*_):
            raise OSError(errno.ENOLCK, "No locks available")

        monkeypatch.setattr(locks.fcntl, "flock", refuse)
        monkeypatch.setattr(locks.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(locks, "SILENCE", 0.5)
    return request.param


def _write(file: Path, **holder) -> None:
    file.write_text(json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "command": "x", **holder}))


def _held(tmp_path):
    return locked(tmp_path / "new" / "lock", "the folder")


def test_one_at_a_time(tmp_path, kind):
    with locked(tmp_path / "new" / "lock", "the folder"):
        with pytest.raises(Held, match=f"the folder is in use by .*process {os.getpid()} on"), _held(tmp_path):
            pass
        assert (tmp_path / "new" / "lock").exists(), "who failed has not removed it"
    assert not (tmp_path / "new" / "lock").exists()
    with locked(tmp_path / "new" / "lock", "the folder"):
        pass


def test_a_lock_of_a_process_that_is_gone_is_taken_over(tmp_path, kind):
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    _write(tmp_path / "lock", pid=child.pid)
    with locked(tmp_path / "lock", "it"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_another_machine_is_watched_before_its_lock_is_taken(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 3.0)
    _write(tmp_path / "lock", host="elsewhere", pid=1)
    stop = threading.Event()

    def beat():
        while not stop.wait(0.05):
            os.utime(tmp_path / "lock")

    thread = threading.Thread(target=beat)
    thread.start()
    with pytest.raises(Held, match="process 1 on elsewhere"), locked(tmp_path / "lock", "it"):
        pass
    stop.set()
    thread.join()
    monkeypatch.setattr(locks, "SILENCE", 0.2)
    with locked(tmp_path / "lock", "it"):
        assert json.loads((tmp_path / "lock").read_text())["host"] == socket.gethostname()


def test_the_holder_touches_its_lock(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT", 0.02)
    with locked(tmp_path / "lock", "it"):
        before, until = (tmp_path / "lock").stat().st_mtime_ns, time.monotonic() + 10
        while (tmp_path / "lock").stat().st_mtime_ns == before and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / "lock").stat().st_mtime_ns != before


@pytest.mark.parametrize("content", ["", "[]", "{", '{"host": 3, "pid": "x", "since": null}'])
def test_a_damaged_lock_that_nobody_holds_is_taken(tmp_path, content, monkeypatch):
    monkeypatch.setattr(locks, "SILENCE", 0.1)
    (tmp_path / "lock").write_text(content)
    with locked(tmp_path / "lock", "it"):
        pass


def test_waiting_and_killing(tmp_path):
    """A lock that another process holds is waited for, and free as soon as that is killed."""
    child = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path / "lock"], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    with pytest.raises(Held, match=f"process {child.pid} on"), locked(tmp_path / "lock", "it"):
        pass
    threading.Timer(0.3, child.kill).start()
    start = time.monotonic()
    with locked(tmp_path / "lock", "it", wait=True):
        assert 0.2 < time.monotonic() - start < 5
    child.wait()


def test_many_threads_meet_never(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(20):
            with locked(tmp_path / "lock", "it", wait=True):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(most) == 80 and max(most) == 1


def test_a_folder_of_others_is_refused_and_stays(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    refusal = r"holds what gen3r did not write \(thesis.txt\); give another output"
    with pytest.raises(UserError, match=refusal), folders.claimed(tmp_path, "shards"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(UserError, match="File exists"), folders.claimed(tmp_path / "thesis.txt", "shards"):
        pass
    with folders.claimed(tmp_path, "shards", among=("train.txt",)):  # others may lie beside
        pass


def test_a_folder_of_ours_goes_on_and_keeps_its_kind(tmp_path):
    for _ in range(2):
        with folders.claimed(tmp_path / "out", "shards"):
            (tmp_path / "out" / "content").write_text("ours")
    assert json.loads((tmp_path / "out" / folders.MARKER).read_text()) == {"kind": "shards", "version": 1}
    with pytest.raises(UserError, match="holds shards, not latents"), folders.claimed(tmp_path / "out", "latents"):
        pass
    train = [folders.claimed(tmp_path / "out", "shards", part="-train") for _ in range(2)]
    with train[0], folders.claimed(tmp_path / "out", "shards"), pytest.raises(Held), train[1]:
        pass
    (tmp_path / "out" / folders.MARKER).write_text('{"kind": "shards", "version": 9}')
    with pytest.raises(UserError, match="version 9"), folders.claimed(tmp_path / "out", "shards"):
        pass


def test_parts_of_another_count_are_refused_while_one_works(tmp_path):
    """They would do the same work twice."""
    with folders.claimed(tmp_path, "latents", share=(0, 2)), folders.claimed(tmp_path, "latents", share=(1, 2)):
        for share in ((0, 2), (0, 1), (2, 4)):
            with (
                pytest.raises(Held, match=f"{tmp_path} is in use by"),
                folders.claimed(tmp_path, "latents", share=share),
            ):
                pass
    with folders.claimed(tmp_path, "latents", share=(0, 1)):
        pass
    assert [path.name for path in tmp_path.iterdir()] == [folders.MARKER]


def test_a_folder_in_a_bucket_is_said_to_have_no_lock(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(folders, "is_remote", lambda path: True)
    for _ in range(2):
        with folders.claimed(tmp_path, "a training run"):
            assert [path.name for path in tmp_path.iterdir()] == [folders.MARKER]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{tmp_path} lies in a bucket, which has no locks: let no other command write there meanwhile"
