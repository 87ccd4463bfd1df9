"""Preparing never touches what it did not write, whatever names stand in the raw files."""

import gzip
import time
from pathlib import Path

import pytest

from gen3r_jax.data.prepare.co3d import _annotations
from gen3r_jax.data.prepare.recording import Recording
from gen3r_jax.data.prepare.registry import NAMES
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import inside
from tests.data.test_prepare import _frame, _write
from tests.helpers.raw_sets import co3d, dl3dv, vkitti
from tests.helpers.raw_sets.prepared import run, short

HOSTILE = ("../victim", "a/../../victim", "/victim", "", ".", "..", "a\nb", "x" * 300, "a\0b")


def _thesis(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "thesis.txt").write_text("years of work")
    return folder / "thesis.txt"


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_from_a_file_stays_inside(tmp_path, name):
    with pytest.raises(UserError, match="does not lead to a place below") as error:
        inside(tmp_path, name)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["a", "a/b.png", "..a", "a b/ü", ".a"])
def test_other_names_are_taken(tmp_path, name):
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", (*HOSTILE, "a/b", ".prepared"))
def test_a_scene_of_such_a_name_is_refused_and_counted(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    thesis = _thesis(tmp_path / "victim")
    frames = [_frame(i) for i in range(3)]
    outcome, _ = _write(tmp_path, frames)
    assert outcome.bad == 0
    monkeypatch.setattr("tests.data.test_prepare.Recording", lambda _, *rest, **more: Recording(name, *rest, **more))
    outcome, scenes = _write(tmp_path, frames)
    assert not scenes and outcome.bad == 1 and outcome.skipped[0][0] == name
    assert thesis.read_text() == "years of work"


@pytest.mark.parametrize("set_name", NAMES)
@pytest.mark.parametrize("stands_there", ["folder", "file", "link", "file in an older scene"])
def test_what_stands_where_a_scene_goes_stays(tmp_path, set_name, stands_there):
    place = tmp_path / "out" / "clip"
    set_changes = {**vars(short(set_name)), "chunk_frames": 0, "split_by_chunk": False}
    if stands_there == "folder":
        thesis = _thesis(place / "images")
    elif stands_there == "file":
        place.parent.mkdir()
        thesis = place
        thesis.write_text("years of work")
    elif stands_there == "link":
        thesis = _thesis(tmp_path / "victim")
        _write(tmp_path, [_frame(i) for i in range(3)])
        place.rename(tmp_path / "elsewhere")
        place.symlink_to(tmp_path / "elsewhere")
    else:
        _write(tmp_path, [_frame(i) for i in range(3)])
        thesis = _thesis(place / "images")
    outcome, scenes = _write(tmp_path, [_frame(i) for i in range(3)], set_changes=set_changes)
    assert not scenes and outcome.bad == 1 and outcome.skipped[0][0] == "clip"
    assert thesis.read_text() == "years of work"


def test_an_older_scene_of_ours_is_replaced(tmp_path):
    _write(tmp_path, [_frame(i) for i in range(3)])
    outcome, scenes = _write(tmp_path, [_frame(i) for i in range(2)])
    assert len(scenes[0].frames) == 2 and outcome.bad == 0


@pytest.mark.parametrize("how", ["same", "output inside", "source inside", "through a link", "a scene is a link"])
def test_source_and_output_may_not_overlap(tmp_path, how):
    raw = dl3dv.write(tmp_path / "data" / "dl3dv", frames=3, scene="0123456789abcdef" * 4)
    source, output = raw, tmp_path / "data"
    if how == "output inside":
        output = raw / "out"
    elif how == "source inside":
        source = raw / "raw"
        raw.rename(tmp_path / "moved")
        raw.mkdir()
        (tmp_path / "moved").rename(source)
    elif how == "through a link":
        (tmp_path / "link").symlink_to(raw)
        source = tmp_path / "link"
    elif how == "a scene is a link":
        source = tmp_path / "links"
        source.mkdir()
        (source / ("0123456789abcdef" * 4)).symlink_to(raw / ("0123456789abcdef" * 4))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="overlap"):
        run("dl3dv", source, output)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("path", ["../../secret.jpg", "/etc/secret.jpg"])
def test_co3d_reads_no_picture_outside_of_its_folder(tmp_path, path):
    raw = co3d.write(tmp_path / "raw", sequence="good")
    co3d.write(raw, sequence="evil")
    annotations = raw / "apple" / "frame_annotations.jgz"
    entries = co3d.read(annotations)
    for entry in entries:
        if entry["sequence_name"] == "evil":
            entry["image"]["path"] = path
    annotations.unlink()
    co3d.add(annotations, entries)
    outcome = run("co3d", raw, tmp_path / "out")
    assert [scene["id"] for scene in outcome.scenes] == ["apple_good"]
    assert [scene for scene, _ in outcome.skipped] == ["apple_evil"] and outcome.bad == 1


@pytest.mark.parametrize(
    "content, reason",
    [
        (b'[{"sequence_name":"' + b"A" * 80_000_000, "an entry above 1 MiB"),
        (b"[" + (b'{"a": "' + b"b" * 1000 + b'"},\n') * 30_000, "unpacks to above 16 MiB"),
        (b"[" + b" " * 80_000_000, "unpacks to above 16 MiB"),
        (b"[" * 500_000, "without end"),
        (b'[{"a": 1}, {"a"', "cut short"),
    ],
)
def test_co3d_stops_at_what_unpacks_without_end(tmp_path, content, reason):
    file = tmp_path / "frame_annotations.jgz"
    file.write_bytes(gzip.compress(content, 1 if b"A" in content else 9))
    start = time.monotonic()
    with pytest.raises(UserError, match=reason):
        for _ in _annotations(file):
            pass
    assert time.monotonic() - start < 10  # measured 1.6 s at most


def test_co3d_reads_annotations_across_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr("gen3r_jax.data.prepare.co3d.CHUNK", 7)
    file = tmp_path / "frame_annotations.jgz"
    co3d.add(file, entries := [{"name": "ü" * i, "list": [1, {"x": [2.5]}]} for i in range(20)])
    assert list(_annotations(file)) == entries


def test_a_damaged_unit_is_counted(tmp_path):
    raw = vkitti.write(tmp_path / "raw")
    vkitti.write(raw, condition="Scene02/rain")
    (raw / "Scene02" / "rain" / "extrinsic.txt").write_text("header\n" + "x " * 18 + "\n")
    outcome = run("vkitti", raw, tmp_path / "out")
    assert outcome.scenes and outcome.bad == 1
