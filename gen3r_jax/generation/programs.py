"""The compiled programs of a generation. What differs between scenes and steps are their arguments, not their code."""

import dataclasses
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from gen3r_jax import module
from gen3r_jax.diffusion.conditioning import condition, given_condition, pack_time
from gen3r_jax.diffusion.solvers import SolverState, init_state, solver_step
from gen3r_jax.generation.networks import Geometry, Network, decode_tokens, encode_tokens, encode_video
from gen3r_jax.models.wan_dit import Context
from gen3r_jax.sharding import shard

# How the prompt and the negative prompt pass the transformer: the prompt alone, both as one batch, or in turn.
Passes = Literal["one", "batched", "in turn"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Conditions:
    """Everything that steers the transformer and stays the same in all steps. Guided: first all negatives in `context`.

    Attributes:
      given: the given frames' latents and mask.
    """

    context: Context
    cameras: Float[Array, "b f h w c"]
    given: Float[Array, "b f h w 20"]

    def positive(self, batch: int) -> "Conditions":
        """Those of the prompts without the negative ones."""
        return dataclasses.replace(self, context=jax.tree.map(lambda x: x[:, -batch:], self.context))


@partial(jax.jit, static_argnums=(1, 2))
def noise(keys: Key[Array, " b"], draw: int, shape: tuple[int, ...]) -> Float[Array, "..."]:
    """Standard normal numbers; sample by sample, so that they do not depend on the batch."""
    return jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, draw), shape[1:]))(keys)


@jax.jit
def encode_text(umt5: Network, ids: Int[Array, "b n"], mask: Bool[Array, "b n"]) -> Float[Array, "b n c"]:
    return module.merge(*umt5)(ids, mask).astype(jnp.float32)


@jax.jit
def encode_image(clip_vision: Network, images: Float[Array, "b h w 3"]) -> Float[Array, "b 257 c"]:
    return module.merge(*clip_vision)(images)


@partial(jax.jit, static_argnames="joint")
def encode_given(
    wan_vae: Network,
    clip: Float[Array, "b t h w 3"],
    mask: Bool[Array, "b t"],
    noise: Float[Array, "b f h w 16"],
    joint: bool = True,
) -> Float[Array, "b f h w2 20"]:
    posterior = encode_video(module.merge(*wan_vae), clip, chunk_frames=4)
    return (condition if joint else given_condition)(posterior.sample(noise), mask)


@jax.jit
def prepare(
    dit: Network,
    texts: Float[Array, "p n c"],
    image: Float[Array, "b 257 e"],
    given: Float[Array, "b f h w 20"],
    cameras: Float[Array, "b t H W 6"],
) -> Conditions:
    network = module.merge(*dit)
    image = jnp.tile(image, (len(texts) // len(image), 1, 1))
    halves = 8 * given.shape[3] // cameras.shape[3]
    return Conditions(
        network.encode_context(texts, image), network.encode_cameras(pack_time(cameras), repeat=halves), given
    )


@jax.jit
def begin(latents: Float[Array, "b f h w 16"]) -> SolverState:
    """The state before the first step, placed as steps leave it."""
    return _placed(init_state(latents.astype(jnp.float32)))


@jax.jit
def follow(state: SolverState, velocity: Float[Array, "b f h w 16"], coefficients: Float[Array, " k"]) -> SolverState:
    """The state after a step along a velocity, which may be that of an earlier step."""
    return _placed(solver_step(state, velocity, coefficients))


def _placed(state: SolverState) -> SolverState:
    return jax.tree.map(lambda x: shard(x, "batch"), state)


@partial(jax.jit, static_argnames="passes")
def step(
    dit: Network,
    state: SolverState,
    conditions: Conditions,
    timestep: Float[Array, ""],
    coefficients: Float[Array, " k"],
    guidance_scale: Float[Array, ""],
    passes: Passes,
) -> tuple[SolverState, Float[Array, "b f h w 16"]]:
    """The state after a step, and the velocity that was followed."""
    network = module.merge(*dit)
    z, context, others = state.sample, conditions.context, (conditions.given, conditions.cameras)

    def velocity(z: Array, context: Context, given: Array, cameras: Array) -> Array:
        return network(z, given, jnp.full(len(z), timestep), context, cameras)

    if passes == "one":
        followed = velocity(z, context, *others)
        return follow(state, followed, coefficients), followed
    if passes == "batched":
        twice = jax.tree.map(lambda x: jnp.concatenate([x, x]), (z, *others))
        negative, positive = jnp.split(velocity(twice[0], context, *twice[1:]), 2)
    else:
        halves = jax.tree.map(lambda x: jnp.stack(jnp.split(x, 2, axis=1)), context)
        negative, positive = jax.lax.map(lambda context: velocity(z, context, *others), halves)
    followed = negative + guidance_scale * (positive - negative)
    return follow(state, followed, coefficients), followed


@jax.jit
def modulations(dit: Network, timesteps: Float[Array, " n"]) -> Float[Array, "n 6 c"]:
    return module.merge(*dit).embed_time(timesteps)[1]


@jax.jit
def decode_video(wan_vae: Network, latents: Float[Array, "b f h w 16"]) -> Float[Array, "b t h w 3"]:
    frames = module.merge(*wan_vae).decode(latents, chunk_frames=1).astype(jnp.float32)
    return jnp.clip(frames / 2 + 0.5, 0, 1)


@jax.jit
def decode_adapter(adapter: Network, latents: Float[Array, "b f h w 16"]) -> Float[Array, "b t hp wp c"]:
    return module.merge(*adapter).decode(latents)


@jax.jit
def read_geometry(vggt: Network, packed: Float[Array, "b t hp wp c"]) -> Geometry:
    network = module.merge(*vggt)
    return decode_tokens(network, packed, with_points=network.config.point_head)


@jax.jit
def reconstruct(vggt: Network, images: Float[Array, "b k h w 3"]) -> Geometry:
    network = module.merge(*vggt)
    return decode_tokens(network, encode_tokens(network, images))
