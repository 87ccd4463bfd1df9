"""Captions from a file into prepared scenes."""

import json
import sys

import pytest

from gen3r_jax.data.caption import main, merge_captions
from gen3r_jax.data.captions import read_captions
from gen3r_jax.errors import UserError
from tests.helpers.toy_scenes import write_root


@pytest.fixture
def root(tmp_path):
    return write_root(tmp_path / "root", {"re10k": 2, "acid": 1}, frames=1)


def write_lines(path, *entries):
    path.write_text("\n".join(entry if isinstance(entry, str) else json.dumps(entry) for entry in entries))
    return path


def test_merging(root, tmp_path):
    place = root / "re10k" / "scene0" / "captions.txt"
    before = read_captions(place)
    file = write_lines(
        tmp_path / "new.jsonl",
        {"scene": "re10k/scene0", "captions": ["The image shows a\n room. ", " ", "x" * 1001, before[0]]},
        "",
        {"scene": "acid/scene0", "caption": "A coast."},
        {"scene": "re10k/scene9", "caption": "Nowhere."},
    )
    (root / "re10k" / "scene1" / "captions.txt").write_text("")
    said = merge_captions(root, file).summary
    assert read_captions(place) == [*before, "The image shows a room."]
    assert said.splitlines() == [
        f"{root}: captions for 2 of 3 scenes",
        "  1 scenes have none and get an empty prompt (first: re10k/scene1)",
        "  1 lines name scenes that are not there (first: re10k/scene9)",
        "  1 captions above 1000 characters were left out",
    ]
    merge_captions(root, file)
    assert read_captions(place) == [*before, "The image shows a room."], "again changes nothing"
    merge_captions(root / "re10k", file, replace=True)
    assert read_captions(place) == ["The image shows a room.", before[0]]


@pytest.mark.parametrize(
    "line, message",
    [
        ("{", "line 1: it is not"),
        ('{"scene": "re10k/scene0"}', "line 1: it is not"),
        ('{"scene": "re10k/scene0", "captions": "text"}', "line 1: it is not"),
        ('["re10k/scene0"]', "line 1: it holds no JSON object"),
        ('{"scene": "scene0", "caption": "a"}', "has no captions for scenes of .*'scene0', .* has 're10k/scene0'"),
        ("", "has no captions for scenes of"),
    ],
)
def test_bad_files(root, tmp_path, line, message):
    with pytest.raises(UserError, match=message):
        merge_captions(root, write_lines(tmp_path / "new.jsonl", line))


def test_a_bad_line_costs_one_line(root, tmp_path, monkeypatch, capsys):
    good = {"scene": "re10k/scene0", "caption": "A room."}
    file = write_lines(tmp_path / "new.jsonl", "{", *[good] * 19)
    merged = merge_captions(root, file)
    assert (merged.bad, merged.lines) == (
        1,
        20,
    ) and "1 lines were left out (first: line 1: it is not JSON" in merged.summary
    for share, status in (("0.05", 0), ("0.04", 1)):
        monkeypatch.setattr(sys, "argv", ["caption", str(root), "--captions", str(file), "--most_bad", share])
        assert main() == status
    assert "1 of 20 lines were bad, a larger share than --most_bad 0.04" in capsys.readouterr().err


@pytest.mark.parametrize("entry", ["../../outside/captions.txt", "{outside}/captions.txt"])
def test_captions_stay_inside_of_the_root(root, tmp_path, entry):
    (tmp_path / "outside").mkdir()
    thesis = tmp_path / "outside" / "captions.txt"
    thesis.write_text("years of work")
    scene = root / "re10k" / "scene0"
    for kind, line in (("videos_dirs", scene / "images"), ("captions_paths", entry.format(outside=thesis.parent))):
        (root / "re10k" / f"train_{kind}.txt").write_text(f"{line}\n")
    for file in root.glob("train_*.txt"):
        file.unlink()
    lines = write_lines(tmp_path / "new.jsonl", {"scene": "re10k/scene0", "caption": "A room."})
    with pytest.raises(UserError, match="outside of the root"):
        merge_captions(root / "re10k", lines, replace=True)
    assert thesis.read_text() == "years of work"


def test_bad_folders(root, tmp_path):
    file = write_lines(tmp_path / "new.jsonl", {"scene": "re10k/scene0", "caption": "a"})
    (tmp_path / "empty").mkdir()
    for folder, message in ((tmp_path / "none", "is not a folder"), (tmp_path / "empty", "holds no scenes")):
        with pytest.raises(UserError, match=message):
            merge_captions(folder, file)
    with pytest.raises(UserError, match="cannot read"):
        merge_captions(root, tmp_path / "none.jsonl")
