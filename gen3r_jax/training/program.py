"""What is compiled as one."""

import dataclasses
from collections.abc import Callable
from typing import Any

from gen3r_jax.costs.flops import count_flops


@dataclasses.dataclass(frozen=True)
class Program:
    """A part of a training step, or of a generation.

    Attributes:
      function: jitted.
      arguments: trees of ``ShapeDtypeStruct`` with shardings.
      calls: how often a step, or a generation, runs it.
      forward: of a gradient, the function that it is the gradient of, with the same arguments.
    """

    name: str
    function: Any
    arguments: tuple[Any, ...]
    calls: int
    forward: Callable | None = None

    def useful_flops(self) -> int:
        """The work of one run without what is only computed again to save memory; a gradient takes three forwards."""
        if self.forward is None:
            return count_flops(self.function, *self.arguments)
        return 3 * count_flops(self.forward, *self.arguments)
