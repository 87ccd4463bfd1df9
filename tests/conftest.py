"""Every test runs on the CPU with eight virtual devices, so that sharding can be tested anywhere."""

import os
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# More threads than devices: on two cores, devices that wait for each other in a collective could otherwise take every
# thread and leave none for the device that they wait for.
os.environ["NPROC"] = "16"
FLAGS = [
    "--xla_force_host_platform_device_count=8",
    # Compiling is most of the work here: code of tiny networks takes longer to optimise than to run.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
]
if version("jaxlib").startswith("0.10."):  # later ones end with a flag that they do not know
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *FLAGS))
# Compiled programs are shared by all tests, by the workers that run them and by the commands that they start.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    CACHE = tempfile.mkdtemp(prefix="gen3r-tests-")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = CACHE
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
else:
    CACHE = None

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# The annotations of all arithmetic are checked wherever a test calls it. An int is a float, as everywhere in typing;
# `Self`, which only a decorated class could resolve, is not looked at.
CHECKED = [f"gen3r_jax.{room}" for room in ("ops", "models", "geometry", "diffusion")]
HINTS = "beartype.FrozenDict({beartype.typing.Self: beartype.typing.Any})"
RULES = f"beartype.BeartypeConf(is_pep484_tower=True, hint_overrides={HINTS})"
install_import_hook(CHECKED, f"beartype.beartype(conf={RULES})")

from gen3r_jax import errors  # noqa: E402
from tests.helpers.paths import RECORDED  # noqa: E402

jax.config.update("jax_default_matmul_precision", "highest")


def pytest_unconfigure() -> None:
    if CACHE:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Folder of tensors recorded from the official implementation: the compact copy kept with the tests."""
    return RECORDED


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch) -> None:
    """Notices that are told once a process are told once a test."""
    monkeypatch.setattr(errors, "_TOLD", set())
