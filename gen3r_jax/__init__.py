"""Gen3R in JAX: from images and a prompt to video, depth, cameras and points that agree.

The public names are imported when they are first asked for, so that importing the package takes no time.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gen3r_jax.generation.inputs import load_images
    from gen3r_jax.generation.output import Gen3RPipelineOutput
    from gen3r_jax.generation.pipeline import Gen3RPipeline
    from gen3r_jax.generation.vggt import VGGT
    from gen3r_jax.geometry.cameras import Cameras
    from gen3r_jax.scene import Scene

try:
    __version__ = version("gen3r-jax")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "unknown"

_HOMES = {
    "Cameras": "gen3r_jax.geometry.cameras",
    "Gen3RPipeline": "gen3r_jax.generation.pipeline",
    "Gen3RPipelineOutput": "gen3r_jax.generation.output",
    "Scene": "gen3r_jax.scene",
    "VGGT": "gen3r_jax.generation.vggt",
    "load_images": "gen3r_jax.generation.inputs",
}

__all__ = ["Cameras", "Gen3RPipeline", "Gen3RPipelineOutput", "Scene", "VGGT", "__version__", "load_images"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gen3r_jax.errors import require_platform

    require_platform()
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
