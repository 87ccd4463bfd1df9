"""Every test runs on the CPU with eight virtual devices, so that sharding can be tested anywhere."""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# On a busy machine the devices, which are threads, wait long for each other; XLA would end the process after 40 s.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8"
    + " --xla_cpu_collective_call_terminate_timeout_seconds=600 --xla_cpu_collective_timeout_seconds=600"
)

import jax
import pytest

jax.config.update("jax_default_matmul_precision", "highest")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def recorded() -> Path:
    """Folder of tensors recorded from the official implementation: the compact copy kept with the tests."""
    return REPOSITORY / "tests" / "recorded"
