"""Solvers: they converge as their order says, and nothing but numbers changes between runs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gen3r_jax.diffusion.solvers import SOLVERS, init_state, make_schedule, solver_step
from gen3r_jax.errors import UserError

# Data are normal with this spread: the flow's velocity is known, and so is where it leads.
SPREAD = 0.5


def _velocity(x, sigma):
    variance = (1 - sigma) ** 2 * SPREAD**2 + sigma**2
    return x * (sigma - (1 - sigma) * SPREAD**2) / variance


@jax.jit
def _step(state, sigma, coefficients):
    return solver_step(state, _velocity(state.sample, sigma), coefficients)


def _solve(solver, steps, shift=2.0):
    schedule = make_schedule(solver, steps, shift)
    state = init_state(jnp.array([1.0, -2.0, 0.3]))
    for sigma, coefficients in zip(schedule.sigmas, schedule.coefficients, strict=False):
        state = _step(state, sigma, coefficients)
    return np.asarray(state.sample)


def _error(solver, steps):
    return np.abs(_solve(solver, steps) - [SPREAD, -2 * SPREAD, 0.3 * SPREAD]).max()


def test_solvers_converge_and_higher_order_pays():
    for steps in (20, 40, 80):
        euler = _error("euler", steps)
        assert 1.9 < euler / _error("euler", 2 * steps) < 2.1
        assert _error("dpm++", steps) < euler / 4
        assert _error("unipc", steps) < euler / 4
    assert max(_error(solver, 320) for solver in SOLVERS) < 0.01


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_step_goes_to_the_prediction(solver):
    (sigma, _) = make_schedule(solver, 1, 2.0).sigmas
    x = np.array([1.0, -2.0, 0.3])
    np.testing.assert_allclose(_solve(solver, 1), x - sigma * _velocity(x, sigma), atol=1e-6)


def test_one_program_for_all_solvers_and_numbers_of_steps():
    _solve("euler", 3)
    before = _step._cache_size()
    for solver in SOLVERS:
        for steps in (1, 2, 5):
            _solve(solver, steps, shift=3.0)
    assert _step._cache_size() == before == 1


def test_steps_go_from_noise_to_data():
    for solver in SOLVERS:
        schedule = make_schedule(solver, 7, 5.0)
        assert (np.diff(schedule.sigmas) < 0).all() and schedule.sigmas[-1] == 0
        assert len(schedule.timesteps) == len(list(schedule)) == 7
        assert np.isfinite(schedule.coefficients).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("heun", 10, 2.0), "none of euler, unipc"), (("euler", 0, 2.0), "at least 1"), (("unipc", 5, -1.0), "positive")],
)
def test_settings_that_cannot_work(arguments, message):
    with pytest.raises(UserError, match=message):
        make_schedule(*arguments)
