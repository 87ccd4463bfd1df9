"""Where compiled programs are kept, and that what is wrong there costs a compilation and no more."""

import os
import stat
import subprocess
import sys

import pytest

from gen3r_jax.storage import compile_cache

CODE = """
import jax, jax.numpy as jnp
from gen3r_jax.storage.compile_cache import use_compile_cache
from gen3r_jax.export.run_report import RunReport
use_compile_cache()
report = RunReport({}, quiet=True)
with report.stage("work"):
    value = float(jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).sum())
jax.jit(lambda x: x + 3)(value)  # what comes after the stages is not of this run
print(value, report.document()["programs"])
"""


def run(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION")}
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, env=kept | environment)
    assert done.returncode == 0, done.stderr
    value, programs = done.stdout.split(" ", 1)
    return value, eval(programs), done.stderr


def test_programs_are_kept_and_damage_is_harmless(tmp_path):
    cache = {"GEN3R_COMPILE_CACHE": str(tmp_path)}
    first, programs, _ = run(**cache)
    assert programs["compiled"] > 0 and programs["kept"] == 0
    (folder,) = tmp_path.iterdir()
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    second, programs, _ = run(**cache)
    assert second == first and programs["compiled"] == 0 and programs["kept"] > 0
    for entry in folder.iterdir():
        if entry.is_file():
            entry.write_bytes(entry.read_bytes()[:100] + b"damage")
    third, damaged, errors = run(**cache)
    assert third == first and errors == "" and damaged["kept"] == 0
    fourth, again, _ = run(**cache)
    assert fourth == first and again == programs  # what was damaged was compiled once, and written anew


def test_off_is_off(tmp_path):
    _, programs, _ = run(GEN3R_COMPILE_CACHE="off", XDG_CACHE_HOME=str(tmp_path))
    assert programs["kept"] == 0 and not list(tmp_path.iterdir())


def test_the_default_is_in_the_users_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert compile_cache.user_cache() == tmp_path / "gen3r_jax"


def test_the_oldest_go_first(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1e9 - age, 1e9 - age))
    compile_cache._trim(tmp_path, 200)
    assert {path.name for path in tmp_path.iterdir()} == {"new", "middle"}


def test_a_folder_that_cannot_be_made_is_told(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert not compile_cache._prepare(tmp_path / "file" / "below")
    assert "compiled programs are not kept" in capsys.readouterr().err


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_folders_of_other_users_are_not_used(tmp_path, capsys):
    os.chown(tmp_path, 12345, 12345)
    assert not compile_cache._prepare(tmp_path)
    assert "belongs to another user" in capsys.readouterr().err
