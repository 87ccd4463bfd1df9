"""A command on an output that another one is at says who that is; pairs that start at once: ``test_faults.py``."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gen3r_jax.storage.locks import lock_beside, locked
from tests.helpers.paths import REPOSITORY
from tests.helpers.raw_sets import vkitti
from tests.helpers.toy_scenes import write_root


def _commands(folder: Path) -> dict[str, tuple[list, Path, Path]]:
    """Name -> the command, its lock, and a file that it writes."""
    pack = ["pack", "procedural", folder / "shards", "--num_scenes", 2, "--num_frames", 2, "--size", 16, 16]
    prepare = ["prepare", "vkitti", "--source", folder / "raw", "--output", folder / "root"]
    convert = ["convert", "random", "lpips", "--tiny", "--output", folder / "lpips"]
    check = ["check", folder / "root", "--report", folder / "report.html"]
    return {
        "check": (check, folder / ".report.html.lock", folder / "report.html"),
        "pack": (pack, folder / "shards" / ".gen3r-train.lock", folder / "shards" / "train-00000.array_record"),
        "prepare": (prepare, folder / "root" / "vkitti" / ".gen3r.lock", folder / "root" / "train_videos_dirs.txt"),
        "convert": (convert, lock_beside(folder / "lpips"), folder / "lpips" / "config.json"),
    }


def _start(arguments: list) -> subprocess.Popen:
    command = [sys.executable, "-m", "gen3r_jax", *map(str, arguments)]
    return subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.parametrize("name", ["pack", "prepare", "convert", "check"])
def test_a_second_command_names_the_first(tmp_path, name):
    vkitti.write(tmp_path / "raw", frames=12)
    if name == "check":
        write_root(tmp_path / "root", {"a": 1})
    arguments, lock, written = _commands(tmp_path)[name]
    with locked(lock, "it"):
        process = _start(arguments)
        error = process.communicate(timeout=120)[1]
    assert process.returncode == 2
    assert f"process {os.getpid()} on" in error.splitlines()[-1] and "is in use by" in error and len(error) < 400
    assert not written.exists()
