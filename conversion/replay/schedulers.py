"""Recordings of the solvers: noise levels, timesteps, and walks through a velocity field in closed form."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from conversion.recording import Arrays, Recording, Replay, Tolerance
from gen3r_jax.diffusion.solvers import Schedule, init_state, make_schedule, solver_step
from gen3r_jax.stages.dit.flow_matching import training_table

# The recorded DPM-Solver++ and ours have names that differ.
_SOLVERS = {"euler": "euler", "unipc": "unipc", "dpm": "dpm++"}


def schedulers(recording: Recording) -> Arrays:
    """``SOLVER_shiftS/nN/...`` is a run of N steps, long ones stored in part; ``euler_train`` is the training table."""
    outputs = {}
    if "euler_train/sigmas" in recording.outputs:
        shift = recording.config["scheduler_kwargs"]["shift"]
        table = training_table(len(recording.outputs["euler_train/sigmas"]), shift)
        outputs |= dict(zip(("euler_train/timesteps", "euler_train/sigmas"), table, strict=True))
    runs = {
        match[0]: match.groups()
        for name in recording.outputs
        if (match := re.match(r"(\w+)_shift([\d.]+)/n(\d+)", name))
    }
    for run, (solver, shift, steps) in runs.items():
        schedule = make_schedule(_SOLVERS[solver], int(steps), float(shift))
        walk = _walk(schedule, recording.inputs["x0"])
        stored = len(recording.outputs[f"{run}/trajectory"])
        whole = solver != "euler"
        outputs |= {
            f"{run}/timesteps": schedule.timesteps.astype(np.int64) if whole else schedule.timesteps,
            f"{run}/sigmas": schedule.sigmas,
            f"{run}/trajectory": walk[:: int(steps) // stored],
            f"{run}/final": walk[-1],
        }
    return {f"outputs/{name}": np.asarray(x) for name, x in outputs.items()}


def _walk(schedule: Schedule, start: np.ndarray) -> np.ndarray:
    state, walk = init_state(jnp.asarray(start)), []
    for timestep, coefficients in schedule:
        state = _step(state, timestep, coefficients)
        walk.append(state.sample)
    return np.stack(walk)


@jax.jit
def _step(state, timestep, coefficients):
    x = state.sample
    velocity = jnp.sin(1.3 * x) * (0.5 + timestep / 1000) + 0.3 * jnp.cos(2 * x + timestep / 250)
    return solver_step(state, velocity, coefficients)


REPLAYS = {
    "schedulers": Replay(
        schedulers,
        {
            r".*/sigmas": Tolerance(1e-6),
            r".*/timesteps": Tolerance(1e-3),
            r".*": Tolerance(2e-5),
        },
        marks=(r"inputs/x0", r"outputs/euler_shift.*/trajectory"),
    )
}
