"""Programs on Node.js that read what the exporters write; `make readers` installs them."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.paths import REPOSITORY

_FOLDER = REPOSITORY / "tests" / "node"
_SPLAT_TRANSFORM = _FOLDER / "node_modules" / ".bin" / "splat-transform"

needs_node_tools = pytest.mark.skipif(
    shutil.which("node") is None or not _SPLAT_TRANSFORM.exists(),
    reason="Babylon.js and splat-transform are not installed: make readers",
)


def read_splats(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file of Gaussians, by the names of the PLY, as PlayCanvas' splat-transform reads them."""
    table = path.with_suffix(".csv")
    subprocess.run([_SPLAT_TRANSFORM, "-q", "-w", path, table], check=True, timeout=120)
    data = np.genfromtxt(table, delimiter=",", names=True)
    return {name: data[name] for name in data.dtype.names}


def read_gltf(path: Path) -> dict[str, dict]:
    """The meshes of a .glb by their names, as Babylon.js reads them."""
    command = ["node", _FOLDER / "read_gltf.mjs", path]
    printed = subprocess.run(command, check=True, timeout=120, capture_output=True, text=True).stdout
    return {mesh["name"]: mesh for mesh in json.loads(printed)}
