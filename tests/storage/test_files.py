"""Files are written whole or not at all, and what cannot be read is one line that names the file."""

import json
import os

import pytest
from etils import epath

from gen3r_jax.errors import UserError
from gen3r_jax.storage import files
from gen3r_jax.storage.files import (
    CannotWrite,
    natural_key,
    parse_json,
    read_json,
    read_json_lines,
    read_lines,
    read_text,
    replacing,
    write_json,
    write_text,
    writing,
)


def test_a_failed_write_leaves_what_was_there(tmp_path):
    write_text(tmp_path / "new" / "text", "ä\n")
    with pytest.raises(RuntimeError), replacing(tmp_path / "new" / "text") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "new" / "text").read_bytes() == "ä\n".encode()
    assert os.listdir(tmp_path / "new") == ["text"]


def test_what_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotWrite, match=r"^cannot write to .*file/deep/below: Not a directory$"):
        write_text(tmp_path / "file" / "deep" / "below", "")
    full = r"^cannot write to there: No space left on device; choose another$"
    with pytest.raises(CannotWrite, match=full), writing("there", "choose another"):
        raise OSError(28, "No space left on device")
    with pytest.raises(UserError, match=r"numbers.json is not written: it would hold NaN or infinity"):
        write_json(tmp_path / "numbers.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == ["file"]


def test_buckets_are_written_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "is_remote", lambda path: True)
    path = epath.Path(tmp_path) / "folder" / "config.json"
    for document in ({"a": 1}, {"a": [1.5, None]}):
        write_json(path, document)
        assert read_json(path) == document
    assert os.listdir(tmp_path / "folder") == ["config.json"]


def test_text_may_begin_with_a_mark_and_end_its_lines_in_any_way(tmp_path):
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfone\r\n\r\n two\x1c\xe2\x80\xa8\rthree")
    assert read_text(tmp_path / "text") == "one\n\n two\x1c\u2028\nthree"
    assert read_lines(tmp_path / "text") == ["one", "two", "three"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"caf\xe9", r"is not UTF-8 text \(byte 3\); save it as that"),
        ('{"a": 1}'.encode("utf-16"), r"is not UTF-8 text \(byte 0\)"),
        ('{"a": 1}'.encode("utf-16le"), "is not text: it holds zero bytes"),
        (b"{", "is not JSON: Expecting property name"),
        (b"", "is not JSON"),
        (b"[]", "holds no JSON object"),
        (b"[" * 100_000, "above 64 deep"),
        (b'{"a":' + 64 * b"[" + 64 * b"]" + b"}", "above 64 deep"),
        (b'{"a": 1%s}' % (b"0" * 400), "holds a number of 401 digits; 40 are allowed"),
        (b'{"a": %s}' % (b"9" * 5000), "holds a number of 5000 digits; 40 are allowed"),
        (b'{"a": 1e400}', "holds 1e400, which is no finite number"),
        (b'{"a": [-Infinity]}', "holds -Infinity, which is no finite number"),
        (b'{"a": "\\ud800"}', "holds half a character"),
        (None, "^cannot read .*file.json: No such file or directory$"),
    ],
)
def test_what_is_no_json_is_one_line(tmp_path, content, message):
    file = tmp_path / "file.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_json(file)
    assert str(file) in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


def test_what_is_json_is_read_exactly(tmp_path):
    values = {"a": [0.1, 1e-320, 2**64, -3, "\u2028😀", None], "b": json.loads(62 * "[" + 62 * "]")}
    assert parse_json(json.dumps(values), "text") == values
    assert parse_json("[NaN, 1e400]", "text", list, nan=True)[1] == float("inf")


def test_size_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_JSON", 1 << 20)
    (tmp_path / "file").write_bytes(b" " * (1 << 20) + b"{}")
    with pytest.raises(UserError, match="is above 1 MiB"):
        read_json(tmp_path / "file")


def test_lines_of_json_are_numbered(tmp_path):
    file = tmp_path / "lines"
    file.write_bytes(b'{"a": 1}\r\n\n{"b": "\xe2\x80\xa8"}\n{"c": "caf\xe9"}\n{"d"\n[1]\n{"e": 2}')
    lines = [(1, {"a": 1}), (3, {"b": "\u2028"}), (7, {"e": 2})]
    assert list(read_json_lines(file, skip_damaged=True)) == lines
    found = read_json_lines(file)
    assert [next(found), next(found)] == lines[:2]
    with pytest.raises(UserError, match="lines, line 4 is not UTF-8"):
        next(found)


def test_numbers_in_names_are_numbers(tmp_path):
    names = ["a10", "a2", "b", "a2/x10", "a2/x9", "1", "²"]
    assert sorted(names, key=natural_key) == ["1", "a2", "a2/x9", "a2/x10", "a10", "b", "²"]
    paths = [tmp_path / "9" / "x10", tmp_path / "10" / "x9"]
    assert sorted(paths, key=natural_key) == paths[::-1]
