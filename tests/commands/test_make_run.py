"""`make run` hands what it is given to the command as it was typed."""

import subprocess

import pytest

from tests.helpers.paths import REPOSITORY


def made(folder, *variables):
    """The arguments that `make run` starts Python with."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nfor word; do printf "%s\\0" "$word"; done > "{folder}/words"\n')
    python.chmod(0o700)
    (folder / "ready").touch()
    command = ["make", "--silent", "run", f"VENV={folder}", f"PYTHON={python}", *variables]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=60)
    return (folder / "words").read_text().split("\0")[:-1]


@pytest.mark.parametrize("text", ['a "ruined" palace for $5', "$(HOME) $$ `id` it's 100 % \\n #1", "-5 degrees; snow"])
def test_what_is_typed_arrives(tmp_path, text):
    words = made(tmp_path, f"PROMPT={text}", f"IMAGE={text}.png", f"CAMERAS={text}.json")
    assert words[:3] == ["-m", "gen3r_jax", "generate"]
    assert {f"--prompt={text}", f"--images={text}.png", f"--cameras={text}.json"} <= set(words)
    assert "--camera_angle" not in words


def test_the_example_is_what_the_readme_prints(tmp_path):
    words = made(tmp_path)
    shown = (REPOSITORY / "README.md").read_text()
    for word in words:
        name, _, value = word.partition("=")
        assert value in shown and (name in shown or name.startswith("runs/scenes/")), word
    assert words[words.index("--camera_angle") + 1] == "15"
