"""What the code being traced will run on."""

import jax


def target_platform() -> str:
    """``cpu``, ``gpu``, ``cuda`` or ``tpu``. A mesh may stand for machines that are not here (compiling ahead)."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None or device.platform is None else device.platform
