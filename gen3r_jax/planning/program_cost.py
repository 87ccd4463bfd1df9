"""What a compiled program will take of the chips it was compiled for: memory, work, exchanges and, estimated, time.

Nothing is run. Memory and exchanges are the compiler's plan, work is counted in the traced program, and the time is the
longest of three: the work at an assumed part of the peak, the exchanges at an assumed part of what the links carry, and
reading the arguments and writing the results once. What a program moves between its memory and its units in between is
not known, so programs of many small operations take longer than this says.
"""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.sharding import Mesh

from gen3r_jax.costs.collectives import Collective, find_collectives
from gen3r_jax.costs.flops import count_traced
from gen3r_jax.costs.topology import LINK_UTILISATION, UTILISATION, Topology
from gen3r_jax.training.program import Program


@dataclass(frozen=True)
class ProgramCost:
    """One program. Bytes are of one device and one run, `flops` of one run on all devices.

    Attributes:
      calls: how often a step runs it.
      peak: the most that it needs at once, its arguments included.
      others: what other programs of the step keep in memory meanwhile.
      useful: `flops` without what is computed again to save memory.
      trace_seconds, compile_seconds: how long the compiler took here.
    """

    name: str
    calls: int
    arguments: int
    temporaries: int
    outputs: int
    peak: int
    others: int
    flops: int
    useful: int
    collectives: tuple[Collective, ...]
    trace_seconds: float
    compile_seconds: float

    @property
    def sent(self) -> int:
        """Bytes that a device sends in a run."""
        return sum(one.total for one in self.collectives)

    def times(self, topology: Topology) -> dict[str, float]:
        """Estimated seconds of a run, if there were only the work, the exchanges, the memory."""
        return {
            "compute": self.flops / (topology.count * topology.chip.flops * UTILISATION),
            "links": self.sent / (topology.links * LINK_UTILISATION),
            "memory": (self.arguments + self.outputs) / topology.chip.bandwidth,
        }

    def seconds(self, topology: Topology) -> float:
        """Estimated, of a run."""
        return max(self.times(topology).values())


def measure(program: Program, mesh: Mesh, options: Mapping[str, bool], others: int) -> ProgramCost:
    """Compiles a program for the devices of `mesh`, with options for the compiler. Raises what the compiler raises."""
    with jax.set_mesh(mesh):
        useful = program.useful_flops()
        start = time.perf_counter()
        traced = program.function.trace(*program.arguments)
        lowered = traced.lower()
        middle = time.perf_counter()
        compiled = lowered.compile(compiler_options=dict(options))
    end = time.perf_counter()
    memory = compiled.memory_analysis()
    arguments, outputs = memory.argument_size_in_bytes, memory.output_size_in_bytes
    planned = arguments + memory.temp_size_in_bytes + outputs - memory.alias_size_in_bytes
    return ProgramCost(
        name=program.name,
        calls=program.calls,
        arguments=arguments,
        temporaries=memory.temp_size_in_bytes,
        outputs=outputs,
        peak=max(planned, memory.peak_memory_in_bytes),
        others=others,
        flops=count_traced(traced.jaxpr),
        useful=useful,
        collectives=tuple(find_collectives(compiled.as_text())),
        trace_seconds=middle - start,
        compile_seconds=end - middle,
    )


def kept_by_others(programs: Sequence[Program]) -> list[int]:
    """For each program, bytes on a device of the arguments that only the other programs have.

    Arguments are one and the same where their ShapeDtypeStructs are one object; one that a program has twice (weights
    and the sum of their gradients) is in memory twice.
    """
    counts = [Counter(map(_Same, jax.tree.leaves(program.arguments))) for program in programs]
    everything = Counter[_Same]()
    for count in counts:
        everything |= count
    return [sum(one.size * number for one, number in (everything - count).items()) for count in counts]


class _Same:
    """An array that is to come, compared by identity."""

    def __init__(self, array: Any):
        self._array = array  # kept, so that its id is not given to another
        self.size = math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._array is other._array

    def __hash__(self) -> int:
        return id(self._array)
