"""Recorded tensors of the official implementation are recomputed, and everything that is off is noticed."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from conversion.comparison import compare, verify
from conversion.recording import Recording, Tolerance
from conversion.replay import REPLAYS, kind_of
from conversion.verify import main
from tests.helpers.paths import RECORDED

FOLDER = Path(os.environ.get("GEN3R_RECORDED", RECORDED))
FILES = sorted([*FOLDER.glob("*.safetensors"), *FOLDER.glob("*.json")])
CAMERA_HEAD = RECORDED / "vggt_camera_head.safetensors"


LONG = ("pipeline_full", "adapter_training_step", "dit_training_encode")  # up to half a minute each


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path.stem in LONG else path for path in FILES],
    ids=lambda path: path.stem,
)
def test_recorded_file(path):
    report = verify(path)
    failed = [tensor for tensor in report.tensors if not tensor.passed]
    assert report.status == ("skip" if path.stem == "pipeline_weights" else "pass"), (report.message, failed)


def test_every_kind_has_a_recorded_file():
    assert {verify_kind for path in FILES if (verify_kind := kind_of(Recording(path)))} == set(REPLAYS)


def altered(path: Path, source: Path = CAMERA_HEAD, change: Callable[[dict], None] = lambda tensors: None) -> Path:
    """A copy of a recorded file with `change` applied to its tensors."""
    with safe_open(source, "numpy") as file:
        names = list(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
        metadata = file.metadata()
    change(tensors)
    save_file(tensors, path, metadata)
    return path


def test_a_changed_output_fails(tmp_path):
    def change(tensors):
        tensors["outputs/pose_enc/3"][1, 2, 4] += 2e-4

    report = verify(altered(tmp_path / "vggt_camera_head.safetensors", change=change))
    assert [tensor.name for tensor in report.tensors if not tensor.passed] == ["outputs/pose_enc/3"]
    assert report.status == "fail"


def test_a_changed_weight_fails(tmp_path):
    def change(tensors):
        tensors["weights/embed_pose.bias"][0] += 0.1

    report = verify(altered(tmp_path / "vggt_camera_head.safetensors", change=change))
    assert report.status == "fail" and sum(not tensor.passed for tensor in report.tensors) > 3


@pytest.mark.parametrize("name", ["weights/embed_pose.bias", "inputs/tokens"])
def test_a_missing_tensor_is_named(name, tmp_path):
    report = verify(altered(tmp_path / "vggt_camera_head.safetensors", change=lambda tensors: tensors.pop(name)))
    assert report.status == "fail" and name.split("/")[1] in report.message and "\n" not in report.message


def test_an_output_that_is_not_recomputed_fails(tmp_path):
    def change(tensors):
        tensors["outputs/of_another_kind"] = np.zeros(3, np.float32)

    report = verify(altered(tmp_path / "vggt_camera_head.safetensors", change=change))
    (failed,) = [tensor for tensor in report.tensors if not tensor.passed]
    assert (failed.name, failed.note) == ("outputs/of_another_kind", "not recomputed")


def test_intermediates_that_are_not_recomputed_are_listed(tmp_path):
    def change(tensors):
        tensors["intermediates/hidden"] = np.zeros(3, np.float32)

    report = verify(altered(tmp_path / "vggt_camera_head.safetensors", change=change))
    assert report.status == "pass" and "intermediates/hidden" in report.not_replayed


@pytest.mark.parametrize("stem", ["vggt_camera_head_seed7", "private_vggt_camera_head", "recording"])
def test_kind_is_found_by_name_or_by_contents(stem, tmp_path):
    path = altered(tmp_path / f"{stem}.safetensors")
    assert kind_of(Recording(path)) == "vggt_camera_head"


def test_kind_is_the_longest_that_fits():
    assert kind_of(Recording(CAMERA_HEAD)) == "vggt_camera_head"
    assert kind_of(Recording(CAMERA_HEAD.with_stem("vggt_dpt_depth"))) == "vggt_dpt_depth"


def test_command_line(tmp_path, capsys):
    path = altered(tmp_path / "vggt_camera_head.safetensors")
    assert main([str(path)]) == 0
    text = capsys.readouterr().out
    assert "outputs/pose_enc/3" in text and "1 files passed, 0 failed, 0 skipped" in text
    save_file({"outputs/x": np.zeros(2)}, tmp_path / "something.safetensors")
    assert main([str(tmp_path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["passed"]
    first, second = sorted(document["files"], key=lambda report: report["path"])
    assert (first["status"], first["kind"]) == ("fail", None) and "unknown kind" in first["message"]
    assert second["status"] == "pass"
    assert all(tensor["absolute_error"] <= tensor["tolerance"]["absolute"] for tensor in second["tensors"])


def test_infinite_errors_are_valid_json(tmp_path, capsys):
    def change(tensors):
        tensors["outputs/pose_enc/3"] = tensors["outputs/pose_enc/3"][:, :2]

    path = altered(tmp_path / "vggt_camera_head.safetensors", change=change)
    assert main([str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name))
    (failed,) = [tensor for tensor in document["files"][0]["tensors"] if not tensor["passed"]]
    assert failed["absolute_error"] is None and "shape [2, 3, 9], recorded [2, 2, 9]" in failed["note"]


def test_broken_files_are_one_line_each_with_status_1(tmp_path):
    (tmp_path / "wan_vae.safetensors").write_bytes(CAMERA_HEAD.read_bytes()[:5000])
    (tmp_path / "text_clean_prompt.json").write_text("{")
    shutil.copy(RECORDED / "adapter_training_step.safetensors", tmp_path)
    command = [sys.executable, "-m", "conversion.verify", tmp_path, tmp_path / "nothing.safetensors"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    lines = result.stdout.splitlines()
    assert len(lines) == 5 and lines[-1].startswith("0 files passed, 4 failed")
    for text in (
        "needs pipeline_weights.safetensors beside it",
        "is not JSON",
        "not a whole safet",
        "does not",
    ):
        assert any(text in line for line in lines), text


def test_comparison():
    recorded = np.array([1.0, -100.0, np.nan, np.inf], np.float32)

    def passes(computed, tolerance, recorded=recorded):
        return compare("x", recorded, np.asarray(computed), tolerance).passed

    assert passes([1.05, -100.0, np.nan, np.inf], Tolerance(absolute=0.1))
    assert passes([1.05, -100.0, np.nan, np.inf], Tolerance(relative=1e-3))  # of the largest magnitude, 100
    assert not passes([1.05, -100.0, np.nan, np.inf], Tolerance(absolute=0.01, relative=1e-4))
    assert not passes([1.0, -100.0, 0.0, np.inf], Tolerance(absolute=1e9))
    assert not passes([1.0, -100.0, np.nan, -np.inf], Tolerance(absolute=1e9))
    assert not passes([1.0, np.nan, np.nan, np.inf], Tolerance(absolute=1e9))
    assert passes([True, False], Tolerance(), np.array([True, False]))
    assert not passes([3, 5], Tolerance(absolute=1.0), np.array([3, 4]))  # integers are exact
    assert not passes(["a", "c"], Tolerance(absolute=1.0), np.array(["a", "b"]))
    mask = np.arange(10) < 5
    assert passes(mask ^ (np.arange(10) == 3), Tolerance(flips=0.1), mask)
    assert not passes(mask ^ (np.arange(10) == 3), Tolerance(absolute=1.0, flips=0.05), mask)
    assert passes([99, 10], Tolerance(flips=0.01), np.array([100, 10]))
    assert not passes([98, 10], Tolerance(flips=0.01), np.array([100, 10]))
