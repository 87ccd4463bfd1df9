"""Generation of scenes. :class:`Gen3RPipeline` is imported when it is first asked for."""

import importlib
from typing import Any

_LAZY = {"Gen3RPipeline": "gen3r_jax.generation.pipeline"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)
