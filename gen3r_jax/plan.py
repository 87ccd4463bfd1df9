"""Compiles a training step for accelerators that are not here, and tells what it would take.

    python -m gen3r_jax.plan --config configs/adapter.py[:PRESET] --topology v5e:4x4 [--config.GROUP.KEY=VALUE ...]

Topologies are TPU slices (v5e:4x4, v5p:2x2x2, v6e:8; with gen3r-jax[tpu]) and H100s (h100:8; with gen3r-jax[cuda]). The
weights need not be there. Memory and exchanges between chips are the compiler's plan; times are estimates, and nothing
is run. Work includes what a backward pass computes again. The exit status is 1 when a program does not compile.

    --program gradient              only some programs, by name; may be given several times
    --generation                    the programs of generating one scene instead (a config of the stage dit)
    --phase 1                       only the phase of this number, from 0
    --optimization_level O0         less work for the compiler; O0 for a look at memory, O2 is what training uses
    --json FILE                     all numbers, with every collective
"""

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from absl import app, flags, logging
from jax.sharding import Mesh

from gen3r_jax import command_line
from gen3r_jax.command_line import CONFIG, parse_flags
from gen3r_jax.costs.collectives import by_kind, largest
from gen3r_jax.costs.topology import LINK_UTILISATION, UTILISATION, Topology, parse
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.planning.program_cost import ProgramCost, kept_by_others, measure
from gen3r_jax.stages.config import read_config, with_defaults
from gen3r_jax.storage.files import write_json
from gen3r_jax.training.program import Program
from gen3r_jax.training.step import Phase, make_phases, step_programs, training_mesh

flags.adopt_module_key_flags(command_line)
TOPOLOGY = flags.DEFINE_string("topology", None, "What to compile for: v5e:4x4, v5p:256, h100:8, ...")
PROGRAM = flags.DEFINE_multi_string("program", [], "Compile only the programs of these names.")
PHASE = flags.DEFINE_integer("phase", None, "Only the phase of this number, from 0; all by default.", lower_bound=0)
GENERATION = flags.DEFINE_bool("generation", False, "Plan the generation of a scene instead of a training step.")
LEVEL = flags.DEFINE_enum("optimization_level", "O1", ["O0", "O1", "O2"], "How hard the compiler tries.")
JSON = flags.DEFINE_string("json", None, "File to write all numbers to.")


def main(arguments: Sequence[str]) -> int:
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; try --help")
    if CONFIG.value is None or TOPOLOGY.value is None:
        raise UserError("--config and --topology are needed; try --help")
    logging.set_verbosity(logging.WARNING)
    config = with_defaults(CONFIG.value.to_dict())
    config["data"]["source"] = config["data"]["source"] or "procedural"  # no data is read
    stage, options = read_config(config)
    phases = make_phases(options.train.phases, options.train.share)
    if PHASE.value is not None and PHASE.value >= len(phases):
        raise UserError(f"--phase {PHASE.value}: the config has phases 0 to {len(phases) - 1}")
    topology = parse(TOPOLOGY.value)
    mesh = training_mesh(options, phases, topology.devices())  # that of all phases, whichever are planned
    phases = phases if PHASE.value is None else phases[PHASE.value : PHASE.value + 1]
    jax.config.update("jax_optimization_level", LEVEL.value)
    failed, written = False, []
    for phase in phases:
        if GENERATION.value:
            programs = stage.generation_programs(phase.num_frames, options.train.side, mesh)
            phase = dataclasses.replace(phase, steps=1)
        else:
            programs = step_programs(stage, options, phase, mesh)
        costs = compile_all(programs, PROGRAM.value, mesh, topology)
        failed |= None in costs
        done = [cost for cost in costs if cost]
        print("\n".join(describe(done, phase, topology, complete=len(done) == len(programs))), flush=True)
        written.append({"phase": dataclasses.asdict(phase), "programs": [to_json(cost, topology) for cost in done]})
    if JSON.value:
        content = {"topology": topology.name, "optimization_level": LEVEL.value, "phases": written}
        write_json(JSON.value, content)
    return int(failed)


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


if __name__ == "__main__":
    main_guard(lambda: app.run(main, flags_parser=parse_flags))
