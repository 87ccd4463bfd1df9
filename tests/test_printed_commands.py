"""What README and docs print works: commands are read by their own parsers, blocks of Python are imported."""

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from tests.helpers.paths import REPOSITORY
from tests.helpers.printed import Printed, printed

PRINTED = printed()
BLOCKS = [item for item in PRINTED if not item.in_sentence]

# What a command or block begins with that cannot run in a test, how many there are, and why.
NOT_RUN = {
    r"pip install": (7, "the network"),
    r"gcloud |docker |while gcloud": (23, "a cloud project"),
    r"kubectl |xpk ": (4, "a cluster in a cloud"),
    r"squeue |tail |scancel ": (3, "a Slurm cluster"),
    r"tensorboard ": (1, "a server, which runs until it is stopped"),
    r"vbench ": (1, "VBench, which is not a dependency"),
    r"make test": (1, "these tests"),
    r"gen3r plan .*--topology v5": (3, "compilers for TPUs, and minutes for each program"),
    r"python -m benchmarks\.(components|training --config configs/dit\.py) ": (3, "networks of full size"),
    r"python -m benchmarks\.ablations ": (1, "trainings of hours"),
    r"gen3r convert lpips |gen3r evaluate \.\.\.": (2, "weights that torchvision and lpips hand out"),
    r"import json\nimport torch": (1, "PyTorch, and the official code"),
}
# Words that stand for others where a command is read.
PLACEHOLDERS = {
    "[:tiny]": ":tiny",
    "--component NAME --frames T --side S": "--component vggt_aggregator --frames 1 --side 112",
    "prove NETWORK": "prove vggt",
    "evaluate ...": "evaluate --config configs/eval.py",
    " ...": "",
}
CLOUD = {"PROJECT": "p", "ZONE": "us-east5-b", "BUCKET": "b", "IMAGE": "pkg.dev/p/r/gen3r:1", "ACCOUNT": "a@p"}


def reason(item: Printed) -> str:
    """Why an item is not run; "" if it is."""
    return next((why for start, (_, why) in NOT_RUN.items() if re.match(start, item.text)), "")


def filled_in(text: str) -> str:
    for placeholder, words in PLACEHOLDERS.items():
        text = text.replace(placeholder, words)
    return text


def test_what_cannot_run_is_counted():
    found = {start: sum(bool(re.match(start, item.text)) for item in BLOCKS) for start in NOT_RUN}
    assert found == {start: count for start, (count, _) in NOT_RUN.items()}
    text = "\n".join(item.text for item in PRINTED)
    assert [placeholder for placeholder in PLACEHOLDERS if placeholder not in text] == []


def test_commands_are_read_by_their_parsers():
    """Every flag and value that is printed is one that the command takes, every key of a config one that it has."""
    items = [item for item in PRINTED if re.match(r"gen3r |python -m ", item.text)]
    read = subprocess.run(
        [sys.executable, "-m", "tests.helpers.printed"],
        input=json.dumps([shlex.split(filled_in(item.text)) for item in items]),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    wrong = {
        f"{item.place}: {item.text}": answer
        for item, answer in zip(items, json.loads(read.stdout), strict=True)
        if answer and not (item.in_sentence and "arguments are required" in answer)
    }
    assert wrong == {}


@pytest.mark.parametrize("item", [x for x in PRINTED if x.language == "python"], ids=lambda item: item.place)
def test_blocks_of_python_import_what_there_is(item):
    for node in ast.walk(ast.parse(item.text)):
        if isinstance(node, ast.ImportFrom) and not reason(item):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize(
    "item", [x for x in PRINTED if re.match(r"make |launch/", x.text) and not reason(x)], ids=lambda item: item.place
)
def test_targets_and_launchers_say_what_they_would_do(item, tmp_path):
    (tmp_path / "ready").touch()
    program, _, rest = filled_in(item.text).partition(" ")
    dry = f"{program} --dry-run VENV={tmp_path} {rest}" if program == "make" else f"{program} --dry_run {rest}"
    options = {"cwd": REPOSITORY, "env": {"PATH": os.defpath, **CLOUD}, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", dry], timeout=60, **options)
    assert done.returncode == 0 and done.stdout, done.stderr
