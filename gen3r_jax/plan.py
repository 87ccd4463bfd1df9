"""Compiles a training step for accelerators that are not here, and tells what it would take.

    gen3r plan --config configs/adapter.py[:PRESET] --topology v5e:4x4 [--config.GROUP.KEY=VALUE ...]

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
import functools
from collections.abc import Sequence

from absl import app, flags, logging

from gen3r_jax import command_line
from gen3r_jax.command_line import CONFIG, parse_flags
from gen3r_jax.errors import UserError, main_guard

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
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    import jax

    from gen3r_jax.costs.topology import parse
    from gen3r_jax.planning.report import compile_all, describe, to_json
    from gen3r_jax.stages.config import read_config, with_defaults
    from gen3r_jax.storage.files import write_json
    from gen3r_jax.training.step import make_phases, step_programs, training_mesh

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


if __name__ == "__main__":
    main_guard(lambda: app.run(main, flags_parser=functools.partial(parse_flags, options_in="gen3r_jax.stages.config")))
