"""Recordings of the diffusion transformer: the network, its positions, and the loss it is trained with."""

import dataclasses
import re
from functools import partial
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np

from conversion.recording import Arrays, Recording, Replay, Tolerance
from conversion.rules import invert
from conversion.tables.wan_dit import TABLE
from gen3r_jax import module
from gen3r_jax.arrays import picture_size
from gen3r_jax.models.wan_dit import PATCH, WanDiT, modulate, timestep_embedding
from gen3r_jax.ops.rope import axis_angles, rotate_pairs, rotation_3d
from gen3r_jax.stages.dit import flow_matching
from gen3r_jax.training.optim import OptimOptions, clip_threshold


def dit(recording: Recording) -> Arrays:
    inputs = recording.inputs
    network = _network(recording, recording.config, inputs["x"].shape)
    text = np.stack([_pad_rows(rows, network.config.text_len) for rows in inputs.list("context")])
    image = inputs["clip_fea"] if network.image_embed is not None else None
    cameras = _channels_last(inputs["y_camera"]) if network.camera_adapter is not None else None
    latents, condition = _channels_last(inputs["x"]), _channels_last(inputs["y"])
    outputs, inner = _trace(network, latents, condition, inputs["t"], text, image, cameras)
    return {f"outputs/{name}": np.asarray(x) for name, x in outputs.items()} | {
        f"intermediates/{name}": np.asarray(x) for name, x in inner.items()
    }


@jax.jit
def _trace(network: WanDiT, latents, condition, timesteps, text, image, cameras) -> tuple[dict, dict]:
    config, inner = network.config, {}
    encoded = None
    if cameras is not None and network.camera_adapter is not None:
        encoded = network.encode_cameras(cameras)
        inner["control_adapter"] = _channels_first(encoded)
        projected = network.camera_adapter.embed(cameras)
        inner["control_adapter_conv"] = _channels_first(projected.reshape(-1, *projected.shape[2:]))
    context = network.encode_context(text, image)
    inner["text_embedding"] = network.text_mlp(text)
    if image is not None and network.image_embed is not None:
        inner["img_emb"] = network.image_embed(image)[:, ::8]

    patches = network.embed(latents, condition, encoded)
    inner["patch_embedding"] = _channels_first(patches if encoded is None else patches - encoded)
    time, modulation = network.embed_time(timesteps)
    inner["time_embedding"], inner["time_projection"] = time, modulation.reshape(time.shape[0], -1)

    # The walk over the blocks once more, with what each gives.
    x = patches.reshape(patches.shape[0], -1, patches.shape[-1])
    grid = (patches.shape[1], *picture_size(patches))
    rotation = rotation_3d(grid, config.dim // config.num_heads, shared_halves=config.shared_halves)
    block, block_context = jax.tree.map(lambda leaf: leaf[0], (network.blocks, context))
    shift, scale, gate, *_ = jnp.moveaxis(block.modulation + modulation, 1, 0)
    attended = inner["block0_self_attn"] = block.self_attn(modulate(x, shift, scale), rotation)
    attended = x + gate[:, None] * attended
    inner["block0_cross_attn"] = block.cross_attn(block.cross_norm(attended), block_context)

    def walk(x, layer):
        block, block_context = layer
        return 2 * (block(x, modulation, block_context, rotation),)

    x, blocks = jax.lax.scan(walk, x, (network.blocks, context))
    inner |= {f"block{i}": block for i, block in enumerate(blocks)}
    inner["head"] = network.predict(x, time)
    out = network(latents, condition, timesteps, context, encoded)
    return {"out": _channels_first(out)}, inner


def dit_rope(recording: Recording) -> Arrays:
    """``plain16``, ``concat16``: heads of 16, positions of a plain grid and of two halves that share theirs."""
    inputs, outputs = recording.inputs, {}
    for name in recording.outputs:
        if match := re.fullmatch(r"(plain|concat)(\d+)", name):
            q = inputs[f"q{match[2]}"]
            shared = match[1] == "concat"
            outputs[name] = np.stack(
                [_rotate(x, tuple(grid.tolist()), shared) for x, grid in zip(q, inputs["grid"], strict=False)]
            )
        elif match := re.fullmatch(r"freqs(\d+)/f64_(real|imag)_(first|last)_rows", name):
            angles = np.concatenate(axis_angles(3 * (recording.config["max_len"],), int(match[1])), axis=1)
            table = (np.cos if match[2] == "real" else np.sin)(angles)
            count = len(recording.outputs[name])
            outputs[name] = table[:count] if match[3] == "first" else table[-count:]
        elif match := re.fullmatch(r"sinusoidal_dim(\d+)", name):
            outputs[name] = timestep_embedding(jnp.asarray(inputs["t"]), int(match[1]))
    return {f"outputs/{name}": np.asarray(x) for name, x in outputs.items()}


def _rotate(x: np.ndarray, grid: tuple[int, int, int], shared_halves: bool) -> np.ndarray:
    """Tokens behind those of the grid stay as they are."""
    count = np.prod(grid)
    turned = rotate_pairs(jnp.asarray(x[:count]), rotation_3d(grid, x.shape[-1], shared_halves=shared_halves))
    return np.concatenate([turned, x[count:]])


def dit_training_loss(recording: Recording) -> Arrays:
    """The draws are recorded, as they come from PyTorch's generator: indices, and what the densities are made of."""
    inputs, config = recording.inputs, recording.config
    weights = recording.companion(config["weights"])
    network = _network(weights, config["dit"], inputs["combined_latents"].shape)
    half = inputs["plucker_half4"].repeat(4, axis=-1).repeat(4, axis=-2)
    batch = {
        "latents": _channels_last(inputs["combined_latents"]),
        "noise": _channels_last(inputs["noise"]),
        "condition": _channels_last(inputs["control_latents"]),
        "cameras": _channels_last(np.concatenate([half, half], axis=-1)),
        "text": inputs["prompt_embeds"],
        "image": inputs["clip_context"],
    }
    scheduler = config["scheduler"]
    timesteps, sigmas = flow_matching.training_table(scheduler["num_train_timesteps"], scheduler["shift"])
    indices = recording.outputs["sampled_indices"]
    timesteps, sigmas = timesteps[indices], sigmas[indices]
    schemes = [name.removeprefix("loss_weighting_") for name in recording.outputs if name.startswith("loss_weighting_")]
    results, gradients = _losses(network, batch, timesteps, sigmas, tuple(schemes))

    outputs = {f"loss_weighting_{scheme}": loss for scheme, loss in zip(schemes, results["losses"], strict=True)}
    outputs |= {name: _channels_first(results[name]) for name in ("noise_pred", "noisy_latents", "target")}
    error = results["noise_pred"] - results["target"]
    outputs["num_masked_by_threshold50"] = np.sum(np.abs(error) > flow_matching.ERROR_LIMIT)
    outputs |= {"sampled_indices": indices, "timesteps": timesteps, "sigmas": sigmas}
    for name in recording.outputs:
        recorded = recording.outputs[name]
        if match := re.fullmatch(r"density_(none|mode|logit_normal)_u_(\w+)", name):
            if match[1] == "logit_normal":
                draw = np.log(recorded) - np.log1p(-recorded)  # a normal number went in
            else:
                draw = recording.outputs[f"density_none_u_{match[2]}"]  # the same seed, hence the same uniform numbers
            (scheme,) = (scheme for scheme in get_args(flow_matching.Density) if scheme == match[1])
            outputs[name] = flow_matching.density(scheme, draw)
        elif match := re.fullmatch(r"linear_decay_([\d.]+)_([\d.]+)_(\d+)", name):
            outputs[name] = _decay(float(match[1]), float(match[2]), int(match[3]), recorded)

    inner = {}
    for name, gradient in invert(gradients, TABLE, network.config):
        inner |= {f"grad/{name}": gradient, f"grad_norm/{name}": np.linalg.norm(gradient)}
    return {f"outputs/{name}": np.asarray(x) for name, x in outputs.items()} | {
        f"intermediates/{name}": np.asarray(x) for name, x in inner.items()
    }


@partial(jax.jit, static_argnames="schemes")
def _losses(
    network: WanDiT, batch, timesteps, sigmas, schemes: tuple[flow_matching.Weighting, ...]
) -> tuple[dict, module.Params]:
    noisy = flow_matching.add_noise(batch["latents"], batch["noise"], sigmas)
    target = flow_matching.velocity(batch["latents"], batch["noise"])
    graphdef, params = module.split(network)

    def loss(params: module.Params):
        network = module.merge(graphdef, params)
        context = network.encode_context(batch["text"], batch["image"])
        cameras = network.encode_cameras(batch["cameras"])
        predicted = network(noisy, batch["condition"], timesteps, context, cameras)
        losses = [
            jnp.mean(flow_matching.velocity_loss(predicted, target, flow_matching.loss_weight(scheme, sigmas)))
            for scheme in ("none", *schemes)
        ]
        return losses[0], (losses[1:], predicted)

    gradients, (losses, predicted) = jax.grad(loss, has_aux=True)(params)
    return {"losses": losses, "noise_pred": predicted, "noisy_latents": noisy, "target": target}, gradients


def _decay(start: float, end: float, steps: int, recorded: np.ndarray) -> np.ndarray:
    """The steps at which it was recorded are not in the file: the nearest whole ones are taken."""
    others: dict[str, Any] = dict.fromkeys((field.name for field in dataclasses.fields(OptimOptions)), 0.0)
    options = OptimOptions(**{**others, "clip_norm": end, "clip_start": start / end, "clip_decay": 1.0})
    at = np.round((start - recorded) / (start - end) * steps).astype(int)
    return np.array([clip_threshold(options, steps)(step) for step in at])


def _network(recording: Recording, fields: dict[str, Any], shape: tuple[int, ...]) -> WanDiT:
    """The recorded network. Officially the halves share positions wherever the grid is not square."""
    h, w = (side // PATCH for side in shape[3:])
    config = dataclasses.replace(TABLE.read_config(fields), shared_halves=h != w)
    return recording.network(WanDiT, config, TABLE)


def _pad_rows(rows: np.ndarray, count: int) -> np.ndarray:
    return np.pad(rows, ((0, count - len(rows)), (0, 0)))


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def _channels_first(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, -1, 1)


# Largest errors on the recorded files: network 3e-6, positions 3e-7, losses 1.3e-7 and gradients 1e-6 of their size.
_TOLERANCES = {r".*": Tolerance(1e-4)}
REPLAYS = {
    "dit": Replay(dit, _TOLERANCES, marks=(r"weights/patch_embedding\.weight", r"inputs/y_camera", r"outputs/out")),
    "dit_t2v_square": Replay(dit, _TOLERANCES, marks=(r"weights/patch_embedding\.weight", r"outputs/out")),
    "dit_rope": Replay(dit_rope, {r".*": Tolerance(1e-5)}, marks=(r"outputs/plain\d+", r"outputs/concat\d+")),
    "dit_training_loss": Replay(
        dit_training_loss,
        {
            r"outputs/loss_weighting_.*": Tolerance(1e-4, relative=1e-6),  # one of them is 1459, rounded to 1.2e-4
            r"outputs/.*": Tolerance(1e-4),
            r".*": Tolerance(relative=1e-3),
        },
        marks=(r"inputs/plucker_half4", r"outputs/noise_pred", r"outputs/loss_weighting_\w+"),
    ),
}
