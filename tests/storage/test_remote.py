"""Runs and data in buckets, played by local folders: what is copied, when, and what a rerun finds."""

import os
import shutil

import pytest

from gen3r_jax.errors import UserError
from gen3r_jax.storage import remote
from gen3r_jax.training.metrics import read_metrics
from tests.helpers.toy_training import run


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    folder = tmp_path / "bucket"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(remote, "is_remote", lambda path: path.startswith(str(folder)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    return folder


def test_a_run_in_a_bucket(bucket):
    run(bucket / "run", train__phases=((5, 3, 4),), checkpoint__every=3)
    run(bucket / "more", train__phases=((5, 3, 4),))
    names = {path.name for path in (bucket / "run").iterdir()}
    assert names >= {"checkpoints", "metrics.jsonl", "loss.png", "validation", "weights", "tensorboard", "config.json"}
    assert [line["step"] for line in read_metrics(bucket / "run" / "metrics.jsonl") if "loss" in line] == [1, 2, 3]
    files = remote.Workdir(str(bucket / "run"))
    assert len(read_metrics(files.local / "metrics.jsonl")) == len(read_metrics(bucket / "run" / "metrics.jsonl"))
    files.close()
    assert not files.local.exists()


def test_copies_are_made_once(bucket):
    (bucket / "data" / "sub").mkdir(parents=True)
    (bucket / "data" / "sub" / "a").write_text("one")
    copy = remote.local_copy(str(bucket / "data"))
    assert (copy / "sub" / "a").read_text() == "one"
    inode = (copy / "sub" / "a").stat().st_ino
    assert (remote.local_copy(str(bucket / "data")) / "sub" / "a").stat().st_ino == inode
    (bucket / "data" / "sub" / "a").write_text("two")  # as long
    os.utime(bucket / "data" / "sub" / "a", (1, 1))
    (bucket / "data" / "scene" / "images").mkdir(parents=True)
    (bucket / "data" / "scene" / "images" / "b").write_text("new")
    assert (remote.local_copy(str(bucket / "data")) / "sub" / "a").read_text() == "two"
    shutil.rmtree(bucket / "data" / "scene")
    assert [path.name for path in sorted(remote.local_copy(str(bucket / "data")).iterdir())] == ["sub"]
    (bucket / "one").write_text("a file")
    for _ in range(2):
        assert remote.local_copy(str(bucket / "one")).read_text() == "a file"
    with pytest.raises(UserError, match="nothing at"):
        remote.local_copy(str(bucket / "none"))


def test_what_has_gone_here_goes_there(bucket):
    """Also what an earlier process left; networks that were not saved again stay."""
    for name in ("net/of_before", "other/stays"):
        (bucket / "run" / "weights" / name).parent.mkdir(parents=True)
        (bucket / "run" / "weights" / name).write_text("0")
    files = remote.Workdir(str(bucket / "run"))
    (files.local / "weights" / "net").mkdir(parents=True)
    (files.local / "weights" / "net" / "old").write_text("1")
    files.publish()
    (files.local / "weights" / "net" / "old").rename(files.local / "weights" / "net" / "new")
    files.publish()
    found = {path.relative_to(bucket / "run").as_posix() for path in (bucket / "run" / "weights").glob("*/*")}
    assert found == {"weights/net/new", "weights/other/stays"}
    files.close()


def test_of_several_processes_one_writes(bucket):
    first, second = remote.Workdir(str(bucket / "run")), remote.Workdir(str(bucket / "run"), writes=False)
    (first.local / "metrics.jsonl").write_text("first")
    (second.local / "metrics.jsonl").write_text("second")
    for files in (first, second):
        files.close()
    assert (bucket / "run" / "metrics.jsonl").read_text() == "first"


def test_a_copy_that_does_not_fit_is_refused(bucket, monkeypatch):
    (bucket / "data").mkdir()
    (bucket / "data" / "a").write_text("one")
    full = shutil.disk_usage(bucket)._replace(free=2)
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda path: full)
    with pytest.raises(UserError, match="needs 0 GB on this machine"):
        remote.local_copy(str(bucket / "data"))
