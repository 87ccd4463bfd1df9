"""Compiles the programs of a step, and says in lines of text what they would take."""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from gen3r_jax.costs.collectives import by_kind, largest
from gen3r_jax.costs.topology import LINK_UTILISATION, UTILISATION, Topology
from gen3r_jax.errors import UserError
from gen3r_jax.planning.program_cost import ProgramCost, kept_by_others, measure
from gen3r_jax.training.program import Program
from gen3r_jax.training.step import Phase


def compile_all(
    programs: Sequence[Program], names: Sequence[str], mesh: Mesh, topology: Topology
) -> list[ProgramCost | None]:
    """Costs of the programs of these names, all without names; None for one that does not compile."""
    known = [program.name for program in programs]
    if unknown := set(names) - set(known):
        raise UserError(f"no program {', '.join(sorted(unknown))}; the step has {', '.join(known)}")
    costs: list[ProgramCost | None] = []
    for program, others in zip(programs, kept_by_others(programs), strict=True):
        if names and program.name not in names:
            continue
        print(f"compiling: {program.name} ...", file=sys.stderr, flush=True)
        try:
            costs.append(measure(program, mesh, topology.compiler_options, others))
        except (jax.errors.JaxRuntimeError, NotImplementedError) as error:  # the other programs still tell something
            reason = next(iter(str(error).strip().splitlines()), "")
            print(f"{program.name} does not compile: {type(error).__name__}: {reason}", file=sys.stderr)
            costs.append(None)
    return costs


def describe(costs: Sequence[ProgramCost], phase: Phase, topology: Topology, complete: bool) -> list[str]:
    """The report of one phase; sums over the step only where it is `complete`."""
    head = (
        f"{topology.name}, {phase.steps} steps of {phase.num_frames} frames, {phase.clips_per_device} clips per device"
    )
    lines = ["", head, *_memory(costs, topology), *_times(costs, topology), *_exchanges(costs)]
    if complete:
        seconds = sum(cost.seconds(topology) * cost.calls for cost in costs)
        peak = seconds * topology.count * topology.chip.flops
        used, mfu = (sum(getattr(cost, kind) * cost.calls for cost in costs) / peak for kind in ("flops", "useful"))
        days = phase.steps * seconds / 86400
        lines.append(
            f"a step, estimated: {seconds:.2f} s, {used:.0%} of the peak, MFU {mfu:.0%} (without what is computed "
            f"again); {phase.steps} steps: {days:.2f} days"
        )
    return lines


def _memory(costs: Sequence[ProgramCost], topology: Topology) -> Iterator[str]:
    size = topology.chip.memory
    yield f"memory of a device in GB, of {size / 1e9:.0f}; others: what the other programs keep there meanwhile"
    yield "{:22}{:>5}{:>11}{:>11}{:>9}{:>8}{:>8}".format(
        "program", "runs", "arguments", "temporary", "results", "peak", "others"
    )
    for cost in costs:
        sizes = (cost.arguments, cost.temporaries, cost.outputs, cost.peak, cost.others)
        row = "{:22}{:5}{:11.2f}{:11.2f}{:9.2f}{:8.2f}{:8.2f}  {}"
        fits = "fits" if cost.peak + cost.others <= size else "does not fit"
        yield row.format(cost.name, cost.calls, *(one / 1e9 for one in sizes), fits)


def _times(costs: Sequence[ProgramCost], topology: Topology) -> Iterator[str]:
    yield f"seconds in a step, estimated at {UTILISATION:.0%} of the peak and {LINK_UTILISATION:.0%} of the links"
    yield "{:22}{:>10}{:>9}{:>9}{:>9}{:>9}  {:9}{:>9}".format(
        "program", "TFLOP", "GB sent", "compute", "links", "memory", "bound by", "compiled"
    )
    for cost in costs:
        times = {name: seconds * cost.calls for name, seconds in cost.times(topology).items()}
        row = "{:22}{:10.1f}{:9.2f}{:9.3f}{:9.3f}{:9.3f}  {:9}{:7.0f} s"
        work, sent = cost.flops * cost.calls / 1e12, cost.sent * cost.calls / 1e9
        made = cost.trace_seconds + cost.compile_seconds
        yield row.format(cost.name, work, sent, *times.values(), max(times, key=times.__getitem__), made)


def _exchanges(costs: Sequence[ProgramCost]) -> Iterator[str]:
    yield "what a device sends in a step, and the largest exchanges of a run"
    for cost in costs:
        kinds = [
            f"{times * cost.calls} {kind} {sent * cost.calls / 1e9:.2f} GB"
            for kind, (times, sent) in by_kind(cost.collectives).items()
        ]
        yield f"{cost.name}: {', '.join(kinds) or 'nothing'}"
        for one in largest(cost.collectives, 3):
            runs = f"{'' if one.exact else 'at least '}{one.times} x {one.sent / 1e6:.1f} MB"
            yield f"  {runs} {one.kind} over {one.group} of {one.shape}: {one.source}"


def to_json(cost: ProgramCost, topology: Topology) -> dict[str, Any]:
    return dataclasses.asdict(cost) | {"seconds": cost.times(topology)}
