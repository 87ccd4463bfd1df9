"""AdamW or Muon with clipping and a schedule, and the moving average of the weights."""

import dataclasses
import functools
import re
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from jaxtyping import Array, Float, Int

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.options import Fraction, Natural, NonNegative, Positive, Range

SLOW = 0.5
Momentum = Annotated[float, Range(at_least=0, below=1)]

ADAM_RMS = 0.2
"""Size of AdamW's updates, which Muon's are scaled to ("Muon is Scalable for LLM Training", section 2.2)."""


@dataclasses.dataclass(frozen=True)
class OptimOptions:
    """How the weights move. The learning rate rises linearly, then falls by a cosine over each phase.

    Attributes:
      learning_rate: the highest, after the warm-up.
      final_fraction: the part of `learning_rate` that is left at the end of a phase.
      warmup_steps: steps in which the rate rises from zero, at most a quarter of the phase.
      beta1: decay of the mean of the gradients.
      beta2: decay of the mean of their squares.
      eps: what is added to the root of the mean of squares.
      weight_decay: decoupled decay of every parameter, for each update times the learning rate.
      clip_norm: largest global norm of the gradient; longer ones are shortened to it.
      clip_start: how many times higher that bound is at the first step.
      clip_decay: the part of a phase over which the bound comes down linearly from there.
      ema_decay: decay of the moving average of the weights, which is then judged and exported; 0 keeps none.
      slow: a regular expression; weights whose dotted path it matches learn half as fast.
      optimizer: "adamw", or "muon", which moves kernels by orthogonalised momentum, scaled so that the learning rates
        of AdamW fit, and all else by AdamW; small networks learn faster from scratch with it.
    """

    learning_rate: Positive = 1e-5
    final_fraction: Fraction = 0.0
    warmup_steps: Natural = 0
    beta1: Momentum = 0.9
    beta2: Momentum = 0.999
    eps: Positive = 1e-8
    weight_decay: NonNegative = 0.0
    clip_norm: Positive = 1.0
    clip_start: Positive = 1.0
    clip_decay: Fraction = 0.1
    ema_decay: Momentum = 0.0
    slow: str = ""
    optimizer: Literal["adamw", "muon"] = "adamw"


def learning_rate(options: OptimOptions, steps: int) -> optax.Schedule:
    """Learning rate by the number of updates already made in a phase of `steps` updates."""
    warmup_steps = min(options.warmup_steps, steps // 4)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup_steps else options.learning_rate,
        peak_value=options.learning_rate,
        warmup_steps=warmup_steps,
        decay_steps=steps,
        end_value=options.final_fraction * options.learning_rate,
    )


def clip_threshold(options: OptimOptions, steps: int) -> optax.Schedule:
    """Largest allowed gradient norm by the number of updates already made."""
    return optax.linear_schedule(
        options.clip_start * options.clip_norm, options.clip_norm, max(1, int(options.clip_decay * steps))
    )


def make_optimizer(options: OptimOptions, steps: int) -> optax.GradientTransformation:
    """Updates with decoupled weight decay on every parameter, after clipping, for a phase of `steps` updates."""
    rate = learning_rate(options, steps)
    if options.optimizer == "muon":
        update = optax.contrib.muon(
            rate,
            eps=options.eps,
            weight_decay=options.weight_decay,
            adam_b1=options.beta1,
            adam_b2=options.beta2,
            adam_weight_decay=options.weight_decay,
            muon_weight_dimension_numbers=_matrices,
            consistent_rms=ADAM_RMS,
        )
    else:
        update = optax.adamw(
            rate, b1=options.beta1, b2=options.beta2, eps=options.eps, weight_decay=options.weight_decay
        )
    parts = [optax.inject_hyperparams(optax.clip_by_global_norm)(max_norm=clip_threshold(options, steps)), update]
    if options.slow:
        parts.append(optax.masked(optax.scale(SLOW), functools.partial(_matching, options.slow)))
    return optax.chain(*parts)


def _matching(pattern: str, params: Any) -> Any:
    try:
        matching = [bool(re.fullmatch(pattern, name)) for name in module.flatten(params)]
    except re.error as error:
        raise UserError(f"optim.slow {pattern!r} is no regular expression: {error}") from None
    if not any(matching):
        raise UserError(f"optim.slow {pattern!r} is the whole path of no parameter; they look like camera_adapter.*")
    return jax.tree.unflatten(jax.tree.structure(params), matching)


def _matrices(params: Any) -> Any:
    """How each kernel is a matrix: inputs (and taps) x outputs; of stacked layers, each by itself."""

    def matrix(name: str, leaf: Array) -> optax.contrib.MuonDimensionNumbers | None:
        if not name.endswith("kernel") or leaf.ndim < 2:
            return None
        stacked = any("blocks" in part or part == "trunk" for part in name.split("."))
        return optax.contrib.MuonDimensionNumbers(tuple(range(stacked, leaf.ndim - 1)), leaf.ndim - 1)

    found = [matrix(name, leaf) for name, leaf in module.flatten(params).items()]
    return jax.tree.unflatten(jax.tree.structure(params), found)


def update_ema(ema: Any, params: Any, decay: float, step: Int[Array, ""]) -> Any:
    """Moves the average towards `params` by 1 - min(decay, (1+n)/(10+n)) with n = `step` earlier updates."""
    n = step.astype(jnp.float32)
    weight: Float[Array, ""] = jnp.minimum(decay, (1 + n) / (10 + n))
    return jax.tree.map(lambda old, new: weight * old + (1 - weight) * new, ema, params)
