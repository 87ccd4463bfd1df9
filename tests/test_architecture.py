"""The house rules of docs/architecture.md that a machine can check: imports point down the floors, without circles."""

import ast
from pathlib import Path

import pytest

from tests.helpers.paths import REPOSITORY

# Longest prefix wins. A module may import modules of lower floors and of its own.
FLOORS = {
    # 6: commands
    "gen3r_jax.__main__": 6,
    "gen3r_jax.train": 6,
    "gen3r_jax.generate": 6,
    "gen3r_jax.reconstruct": 6,
    "gen3r_jax.evaluate": 6,
    "gen3r_jax.encode": 6,
    "gen3r_jax.plan": 6,
    "gen3r_jax.view": 6,
    "gen3r_jax.serve": 6,
    "gen3r_jax.client": 6,
    "gen3r_jax.info": 6,
    "gen3r_jax.compact": 6,
    "gen3r_jax.verify": 6,
    "gen3r_jax.training.encode": 6,
    "gen3r_jax.data.prepare.__main__": 6,  # finds the cameras of videos by VGGT
    "conversion": 6,
    # 5: what is trained, judged and planned
    "gen3r_jax.stages": 5,
    "gen3r_jax.evaluation": 5,
    "gen3r_jax.planning": 5,
    # 4: generation, the training loop, official checkpoints
    "gen3r_jax.generation": 4,
    "gen3r_jax.training": 4,
    "conversion.rules": 4,
    "conversion.tables": 4,
    "conversion.commands": 4,
    "conversion.lora": 4,
    "conversion.networks": 4,
    "conversion.torch_files": 4,
    "conversion.safetensors_files": 4,
    "conversion.pipeline_folder": 4,
    # 3: what goes in and out, and the networks
    "gen3r_jax.export": 3,
    "gen3r_jax.data": 3,
    "gen3r_jax.models": 3,
    # 2: arithmetic without networks; files
    "gen3r_jax.diffusion": 2,
    "gen3r_jax.geometry": 2,
    "gen3r_jax.ops": 2,
    "gen3r_jax.storage": 2,
    "gen3r_jax.costs": 2,
    "gen3r_jax.camera_files": 2,
    # 1: what everything stands on
    "gen3r_jax.arrays": 1,
    "gen3r_jax.errors": 1,
    "gen3r_jax.module": 1,
    "gen3r_jax.options": 1,
    "gen3r_jax.progress": 1,
    "gen3r_jax.scene": 1,
    "gen3r_jax.sharding": 1,
    "gen3r_jax.command_line": 1,
    "gen3r_jax.carried": 1,
}


def _modules() -> dict[str, Path]:
    files = [*(REPOSITORY / "gen3r_jax").rglob("*.py"), *(REPOSITORY / "conversion").rglob("*.py")]
    names = {".".join(file.relative_to(REPOSITORY).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items()}


def _imports(file: Path, known: set[str]) -> set[str]:
    """The modules that a file imports when it runs: what only type checkers read is left out."""
    found = set()
    tree = ast.parse(file.read_text())
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        else:
            continue
        found |= names & known
    return found


def _floor(module: str) -> int:
    if module == "gen3r_jax":
        return 1
    prefixes = [p for p in FLOORS if module == p or module.startswith(p + ".")]
    return FLOORS[max(prefixes, key=len)]


MODULES = _modules()


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"gen3r_jax"}))
def test_imports_point_down_the_floors(module):
    imports = _imports(MODULES[module], set(MODULES)) - {"gen3r_jax", module}
    upwards = {name for name in imports if _floor(name) > _floor(module)}
    assert not upwards, f"{module} (floor {_floor(module)}) imports {upwards} of a higher floor"


def test_no_import_circles():
    graph = {name: _imports(file, set(MODULES)) - {name} for name, file in MODULES.items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path[path.index(name) :], name))
        if name not in done:
            for imported in graph[name]:
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


@pytest.mark.parametrize("folder", ["gen3r_jax", "conversion", "tests", "benchmarks"])
def test_no_file_is_long(folder):
    lengths = {str(file): len(file.read_text().splitlines()) for file in (REPOSITORY / folder).rglob("*.py")}
    assert not {file: length for file, length in lengths.items() if length > 500}


def test_the_root_of_the_package_is_for_commands_and_what_everything_stands_on():
    assert len(list((REPOSITORY / "gen3r_jax").glob("*.py"))) <= 22


def test_nothing_but_a_command_imports_a_command():
    commands = {name for name in MODULES if _floor(name) == 6}
    below = {name: file for name, file in MODULES.items() if _floor(name) < 6}
    found = {name: _imports(file, commands) - {"conversion"} for name, file in below.items()}
    assert not {name: imports for name, imports in found.items() if imports}


@pytest.mark.parametrize("module", sorted(name for name in MODULES if not name.startswith("conversion")))
def test_nothing_but_the_converter_knows_torch(module):
    assert "torch" not in {name.split(".")[0] for name in _external_imports(MODULES[module])}


def _external_imports(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names
