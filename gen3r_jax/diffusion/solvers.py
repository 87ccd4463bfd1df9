"""Solvers of the flow ``dz / dsigma = v(z, sigma)`` from noise (sigma 1) to data (sigma 0).

A solver is a table: each step is a linear combination of the sample, the velocity and earlier predictions, and all that
tells solvers and numbers of steps apart are the coefficients. They are computed here, on the host in double precision,
so one compiled :func:`solver_step` serves them all.

In half log signal-to-noise ``lambda = log((1 - sigma) / sigma)`` the data prediction ``x = z - sigma v`` is integrated
by polynomials: "DPM-Solver++" (multistep, second order, midpoint) and "UniPC" (second order, B(h) = e^h - 1).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gen3r_jax.errors import UserError
from gen3r_jax.ops.leaves import Leaf

TRAIN_STEPS = 1000
# What a row of coefficients multiplies, see `solver_step`.
CORRECTOR = ("sample", "last", "prediction", "previous", "before")
PREDICTOR = ("corrected", "velocity", "prediction", "previous")

SomeFloats = TypeVar("SomeFloats", float, Float[np.ndarray, " n"])
Table = Float[np.ndarray, " m"]  # a number for each noise level


@dataclass(frozen=True)
class Schedule:
    """What every step of a run needs; iterating gives a step's (timestep, coefficients).

    Attributes:
      timesteps: 1000 sigma, as the network is told; UniPC and DPM-Solver++ cut them to whole numbers, as upstream does.
      sigmas: noise levels before each step and after the last.
      coefficients: sigma, then those of the corrector and of the predictor.
    """

    timesteps: Float[np.ndarray, " n"]
    sigmas: Float[np.ndarray, " n+1"]
    coefficients: Float[np.ndarray, "n 10"]

    def __iter__(self) -> Iterator[tuple[np.float32, Float[np.ndarray, " 10"]]]:
        return zip(self.timesteps, self.coefficients, strict=True)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SolverState:
    """Attributes:
    sample: where the run stands.
    last: the corrected sample of the step before.
    previous, before: data predictions of the last step and of the one before it.
    """

    sample: Float[Leaf, "*s"]
    last: Float[Leaf, "*s"]
    previous: Float[Leaf, "*s"]
    before: Float[Leaf, "*s"]


def init_state(noise: Float[Array, "*s"]) -> SolverState:
    """The state before the first step."""
    return SolverState(noise, *(jnp.zeros_like(noise) for _ in range(3)))


def solver_step(state: SolverState, velocity: Float[Array, "*s"], coefficients: Float[Array, " 10"]) -> SolverState:
    """One step, given the network's velocity at ``state.sample``."""
    sigma, corrector, predictor = coefficients[0], coefficients[1:6], coefficients[6:]
    prediction = state.sample - sigma * velocity
    corrected = _combine(corrector, state.sample, state.last, prediction, state.previous, state.before)
    sample = _combine(predictor, corrected, velocity, prediction, state.previous)
    return SolverState(sample, corrected, prediction, state.previous)


def make_schedule(solver: str, num_steps: int, shift: float) -> Schedule:
    """The table of a run.

    Args:
      solver: "euler", "unipc" or "dpm++".
      num_steps: evaluations of the network.
      shift: above 1, more of the steps are at high noise: ``sigma -> shift sigma / (1 + (shift - 1) sigma)``.

    Raises:
      UserError: an unknown solver, no steps, or a shift that is not positive.
    """
    if solver not in SOLVERS:
        raise UserError(f"solver {solver!r} is none of {', '.join(SOLVERS)}")
    if num_steps < 1:
        raise UserError(f"{num_steps} inference steps: at least 1 is needed, 50 are usual")
    if not shift > 0:
        raise UserError(f"shift {shift} is not positive; 2 is usual for euler, 5 for the others")
    schedule = SOLVERS[solver](num_steps, shift)
    if not np.isfinite(schedule.coefficients).all():
        raise UserError(f"shift {shift} is too large; 2 is usual for euler, 5 for the others")
    return schedule


def _euler(num_steps: int, shift: float) -> Schedule:
    # The released scheduler shifts twice: its even grid ends at the shifted noise level of the last training step.
    sigmas = _shifted(np.linspace(1, _shifted(1 / TRAIN_STEPS, shift), num_steps), shift)
    sigmas = np.append(sigmas, 0).astype(np.float32)
    exact = sigmas.tolist()
    rows = [_row(exact[i], velocity=exact[i + 1] - exact[i]) for i in range(num_steps)]
    return Schedule(TRAIN_STEPS * sigmas[:-1], sigmas, np.array(rows, np.float32))


def _dpm_solver(num_steps: int, shift: float) -> Schedule:
    sigmas = _shifted(np.linspace(1, 0, num_steps + 1)[:-1], shift)

    def row(i: int, alpha: Table, sigma: Table, lambdas: Table) -> list[float]:
        h, decay, phi = _weights(i, sigma, lambdas)
        second = alpha[i + 1] * phi / 2 * h / (lambdas[i] - lambdas[i - 1]) if 0 < i < num_steps - 1 else 0.0
        return _row(sigma[i], corrected=decay, prediction=-alpha[i + 1] * phi - second, previous=second)

    return _multistep(sigmas, row)


def _unipc(num_steps: int, shift: float) -> Schedule:
    sigmas = _shifted(np.linspace(1 - 1 / TRAIN_STEPS, 0, num_steps + 1)[:-1], shift)
    orders = [min(2, i + 1, num_steps - i) for i in range(num_steps)]

    def row(i: int, alpha: Table, sigma: Table, lambdas: Table) -> list[float]:
        h, decay, phi = _weights(i, sigma, lambdas)
        second = 0.0
        if orders[i] == 2:
            second = -alpha[i + 1] * phi / 2 * h / (lambdas[i - 1] - lambdas[i])
        predictor = {"corrected": decay, "prediction": -alpha[i + 1] * phi - second, "previous": second}
        return _row(sigma[i], **predictor, corrector=corrector(i, alpha, sigma, lambdas) if i else None)

    def corrector(i: int, alpha: Table, sigma: Table, lambdas: Table) -> dict[str, float]:
        """The step before once more, now that the prediction at its end is known."""
        h, decay, phi = _weights(i - 1, sigma, lambdas)
        if orders[i - 1] == 1:
            now, before = 0.5, 0.0
        else:
            ratio = (lambdas[i - 2] - lambdas[i - 1]) / h
            first = -phi / h - 1
            second = -first / h - 1 / 2
            before, now = np.linalg.solve([[1, 1], [ratio, 1]], [first / phi, 2 * second / phi])
            before /= ratio
        weight = -alpha[i] * phi
        previous = weight * (1 - now - before)
        return {"last": decay, "prediction": weight * now, "previous": previous, "before": weight * before}

    return _multistep(sigmas, row)


SOLVERS: dict[str, Callable[[int, float], Schedule]] = {"euler": _euler, "unipc": _unipc, "dpm++": _dpm_solver}


def _multistep(sigmas: Float[np.ndarray, " n"], row: Callable[..., list[float]]) -> Schedule:
    timesteps = np.floor(TRAIN_STEPS * sigmas).astype(np.float32)
    sigmas = np.append(sigmas, 0).astype(np.float32)
    exact = sigmas.astype(np.float64)
    with np.errstate(divide="ignore"):  # pure noise and pure data lie at the ends of the scale
        lambdas = np.log(1 - exact) - np.log(exact)
    rows = [row(i, 1 - exact, exact, lambdas) for i in range(len(timesteps))]
    return Schedule(timesteps, sigmas, np.array(rows, np.float32))


def _weights(i: int, sigma: Table, lambdas: Table) -> tuple[float, float, float]:
    """Length h of step i in lambda, what is left of the sample, and ``e^-h - 1``."""
    h = lambdas[i + 1] - lambdas[i]
    return h, sigma[i + 1] / sigma[i], float(np.expm1(-h))


def _row(sigma: float, corrector: dict[str, float] | None = None, corrected: float = 1.0, **predictor: float) -> list:
    corrector, predictor = corrector or {"sample": 1.0}, predictor | {"corrected": corrected}
    return [sigma, *(corrector.get(x, 0.0) for x in CORRECTOR), *(predictor.get(x, 0.0) for x in PREDICTOR)]


def _shifted(sigma: SomeFloats, shift: float) -> SomeFloats:
    return shift * sigma / (1 + (shift - 1) * sigma)


def _combine(weights: Float[Array, " k"], *terms: Float[Array, "*s"]) -> Float[Array, "*s"]:
    return reduce(add, (weight * term for weight, term in zip(weights, terms, strict=True)))
