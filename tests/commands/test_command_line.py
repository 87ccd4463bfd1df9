"""What holds for every command: quick help, its name in the usage, hints at what was meant."""

import re
import socket
import subprocess
import sys

import pytest

from conversion.__main__ import OPTIONAL, SHARD_GB, TITLES
from conversion.commands import SHARD_BYTES
from conversion.networks import CONVERTIBLE, NETWORKS
from gen3r_jax import __version__
from gen3r_jax.__main__ import COMMANDS
from gen3r_jax.errors import UserError
from gen3r_jax.options import field_docs
from gen3r_jax.training.options import TrainOptions
from gen3r_jax.view import _require_address


def gen3r(*arguments):
    command = [sys.executable, "-X", "importtime", "-m", "gen3r_jax", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done, {line.rsplit("|", 1)[1].strip() for line in done.stderr.splitlines() if line.startswith("import time")}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_quick_and_names_the_command(name):
    """What takes seconds to import is not imported for it."""
    done, imported = gen3r(name, "--help")
    assert done.returncode == 0, done.stderr
    assert f"gen3r {name}" in done.stdout
    heavy = {"flax", "orbax.checkpoint", "grain", "trimesh", "matplotlib.pyplot", "scipy.spatial", "tokenizers"}
    assert not imported & heavy


def test_workers_that_read_and_write_scenes_need_no_jax():
    """Each of many would take half a second more to start."""
    program = "import sys, gen3r_jax.data.pack, gen3r_jax.data.prepare.__main__; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_keys_of_a_config_are_told():
    done, _ = gen3r("train", "--help", "--config", "configs/adapter.py:tiny")
    assert done.returncode == 0, done.stderr
    keys = re.findall(r"^  --config\.([\w.]+)=", done.stdout, re.MULTILINE)
    assert {"train.batch_size", "optim.learning_rate", "data.source", "model.preset"} <= set(keys)
    assert field_docs(TrainOptions)["batch_size"] in done.stdout


def test_slips_of_the_pen_are_seen():
    done, _ = gen3r("generat")
    assert done.returncode == 2 and "did you mean generate?" in done.stderr
    done, _ = gen3r("--version")
    assert done.stdout.split() == ["gen3r", __version__]


def test_names_that_help_tells_are_those_of_the_networks():
    assert {name: network.title for name, network in CONVERTIBLE.items()} == TITLES
    assert [name for name in TITLES if name not in OPTIONAL] == list(NETWORKS)
    assert SHARD_GB * 1e9 == SHARD_BYTES


@pytest.mark.parametrize("address", [("203.0.113.7", 8080), ("no such host", 8080), ("127.0.0.1", 99999)])
def test_view_ends_where_it_cannot_listen(address):
    with pytest.raises(UserError, match=r"cannot listen at .*give another --host or --port"):
        _require_address(*address)


def test_view_takes_another_port_where_one_is_in_use():
    with socket.create_server(("127.0.0.1", 0)) as server:
        _require_address(*server.getsockname())
