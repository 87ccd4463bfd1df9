"""Runs and data in buckets, played by local folders: what is copied, when, and what a rerun finds."""

import pytest
from toy_training import run

from gen3r_jax import remote
from gen3r_jax.errors import UserError
from gen3r_jax.training.metrics import read_metrics


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    folder = tmp_path / "bucket"
    folder.mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(remote, "is_remote", lambda path: path.startswith(str(folder)))
    monkeypatch.setattr(remote.tempfile, "gettempdir", lambda: str(tmp_path / "here"))
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
    (copy / "sub" / "a").write_text("two")
    assert (remote.local_copy(str(bucket / "data")) / "sub" / "a").read_text() == "two"  # as long: taken as it is
    with pytest.raises(UserError, match="nothing at"):
        remote.local_copy(str(bucket / "none"))
