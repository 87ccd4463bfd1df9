"""Recordings of VGGT and its parts: tokens, heads, and the geometry that turns encodings into cameras and points."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from conversion.recording import Arrays, Recording, Replay, Tolerance
from conversion.tables.vggt import TABLE
from gen3r_jax.arrays import picture_size
from gen3r_jax.geometry.cameras import (
    decode_pose,
    encode_pose,
    invert_se3,
    matrix_to_quaternion,
    quaternion_to_matrix,
)
from gen3r_jax.geometry.points import depth_mask, unproject_depth
from gen3r_jax.models.dinov2 import REGISTERS, DINOv2
from gen3r_jax.models.vggt import SPECIAL_TOKENS, VGGT, VGGTConfig
from gen3r_jax.models.vggt_heads import DPTHead, inverse_log, position_map
from gen3r_jax.ops.rope import rotate_2d, rotation_2d


def vggt_full(recording: Recording) -> Arrays:
    network = recording.network(VGGT, TABLE.read_config(recording.config), TABLE)
    images = _channels_last(recording.inputs["images"])
    out = jax.jit(VGGT.__call__)(network, images)
    outputs = {
        "pose_enc": out.pose_enc,
        "depth": out.depth[..., None],
        "depth_conf": out.depth_confidence,
        "world_points": out.points,
        "world_points_conf": out.points_confidence,
    }
    tokens = {f"aggregated/{i}": x for i, x in enumerate(jax.jit(VGGT.aggregate)(network, images))}
    return _named(outputs, tokens)


def vggt_aggregator(recording: Recording) -> Arrays:
    config = TABLE.read_config(recording.config)
    every_layer = TABLE.read_config({**recording.config, "intermediate_layer_idx": list(range(config.depth))})
    aggregator = _part(recording, "aggregator.", every_layer)
    images = _channels_last(recording.inputs["images"])
    b, t, h, w, _ = images.shape
    tokens = np.asarray(jax.jit(type(aggregator).__call__)(aggregator, images))
    outputs = {f"tokens/{i}": x for i, x in enumerate(tokens)}
    outputs["patch_start_idx"] = np.array(SPECIAL_TOKENS)

    within, over = np.split(tokens, 2, axis=-1)
    intermediates = {f"frame_block{i}": x.reshape(b * t, *x.shape[2:]) for i, x in enumerate(within)}
    intermediates |= {f"global_block{i}": x.reshape(b, -1, x.shape[-1]) for i, x in enumerate(over)}
    intermediates["positions_grid"] = aggregator.positions((h, w))[None, SPECIAL_TOKENS:] - 1
    if "rope_tokens" in recording.inputs:
        rope_tokens = jnp.swapaxes(recording.inputs["rope_tokens"], 1, 2)
        rotation = rotation_2d(recording.inputs["rope_positions"], rope_tokens.shape[-1])
        intermediates["rope_out"] = np.swapaxes(rotate_2d(rope_tokens, rotation), 1, 2)
    return _named(outputs, intermediates)


def vggt_dinov2(recording: Recording) -> Arrays:
    encoder = _part(recording, "aggregator.patch_embed.")
    outputs, intermediates = {}, {}
    for case in recording.inputs:
        tokens, inner = _trace_dinov2(encoder, _channels_last(recording.inputs[case]))
        outputs[f"{case}/x_norm_clstoken"] = tokens[:, 0]
        outputs[f"{case}/x_norm_regtokens"] = tokens[:, 1 : 1 + REGISTERS]
        outputs[f"{case}/x_norm_patchtokens"] = tokens[:, 1 + REGISTERS :]
        intermediates |= {f"{case}/{name}": x for name, x in inner.items()}
    return _named(outputs, intermediates)


def _pass_and_keep(x: jax.Array, block: Callable[[jax.Array], jax.Array]) -> tuple[jax.Array, jax.Array]:
    x = block(x)
    return x, x


@jax.jit
def _trace_dinov2(encoder: DINOv2, images: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
    patches = encoder.patch_embed(images)
    inner = {
        "patch_embed": patches.reshape(patches.shape[0], -1, patches.shape[-1]),
        "pos_embed_interp": encoder.position_embedding(picture_size(patches)),
    }
    _, blocks = jax.lax.scan(_pass_and_keep, encoder.embed(images), encoder.blocks)
    return encoder(images), inner | {f"block{i}": x for i, x in enumerate(blocks)}


def vggt_camera_head(recording: Recording) -> Arrays:
    head = _part(recording, "camera_head.")
    tokens = recording.inputs["tokens"][:, :, 0]
    run = jax.jit(type(head).__call__, static_argnums=2)
    steps = sum(name.startswith("pose_enc/") for name in recording.outputs)
    outputs = {f"pose_enc/{i}": pose for i, pose in enumerate(run(head, tokens, steps))}
    for name in recording.outputs:
        if name.startswith("pose_enc_num_iterations_"):
            outputs[name] = run(head, tokens, int(name.rpartition("_")[2]))[-1]
    return _named(outputs, {"token_norm/0": head.token_norm(tokens)})


def vggt_dpt(recording: Recording) -> Arrays:
    head = _part(recording, "depth_head." if recording.config["output_dim"] == 2 else "point_head.")
    tokens = jnp.stack([x[:, :, SPECIAL_TOKENS:] for x in recording.inputs.list("tokens")])
    image_size = tuple(recording.inputs["image_hw"].tolist())
    run = jax.jit(DPTHead.__call__, static_argnums=(2, 3))
    outputs = {}
    for name in recording.outputs:  # preds, conf, preds_chunk1, conf_chunk1, ...
        quantity, _, frames_per_chunk = name.partition("_chunk")
        predictions, confidence = run(head, tokens, image_size, int(frames_per_chunk or 8))
        outputs[name] = predictions if quantity == "preds" else confidence
    maps = _trace_dpt(head, tokens.reshape(4, -1, *tokens.shape[3:]), image_size)
    intermediates = {name: np.moveaxis(x, -1, 1) for name, x in maps.items()}
    for name in recording.intermediates:
        if match := re.fullmatch(r"uv_embed_w(\d+)_h(\d+)_dim(\d+)", name):
            w, h, dim = map(int, match.groups())
            intermediates[name] = position_map((h, w), dim, image_size) / 0.1
    return _named(outputs, intermediates)


@partial(jax.jit, static_argnums=2)
def _trace_dpt(head: DPTHead, tokens: jax.Array, image_size: tuple[int, int]) -> dict[str, jax.Array]:
    fused = head.pyramid(tokens, image_size)
    maps = {f"refinenet{i + 1}": x for i, x in enumerate(fused)}
    maps["output_conv1"] = head.output1(fused[0])
    maps["output_conv2"] = head.predict(tokens, image_size)
    grid = tuple(side // head.patch_size for side in image_size)
    for i in range(4):
        maps[f"resize{i}"] = head.level(i, tokens[i], image_size)
        maps[f"project{i}"] = head.project[i](head.norm(tokens[i])).reshape(tokens.shape[1], *grid, -1)
    return maps


def vggt_geometry(recording: Recording) -> Arrays:
    inputs = recording.inputs
    image_size = tuple(inputs["image_hw"].tolist())
    w2c, intrinsics = inputs["extrinsics"], inputs["intrinsics"]
    pose_enc = encode_pose(w2c, intrinsics, image_size)
    decoded_w2c, decoded_intrinsics = decode_pose(pose_enc, image_size)
    outputs = {
        "pose_enc": pose_enc,
        "extrinsics_from_pose_enc": decoded_w2c,
        "intrinsics_from_pose_enc": decoded_intrinsics,
        "quat_from_mat": matrix_to_quaternion(w2c[..., :3]),
        "mat_from_quat_unnormalised": quaternion_to_matrix(inputs["quat_unnormalised"]),
        "se3_inverse": invert_se3(w2c.reshape(-1, 3, 4)),
    }
    depth = inputs["depth"][..., 0]
    for name in recording.outputs:
        if match := re.fullmatch(r"unproject_minmax([01])/points", name):
            points = unproject_depth(depth, w2c.reshape(-1, 3, 4), intrinsics.reshape(-1, 3, 3))
            outputs[name] = points
            outputs[f"unproject_minmax{match[1]}/mask"] = depth_mask(depth, percentiles=match[1] == "1")
        elif match := re.fullmatch(r"act/(\w+)/pred", name):
            outputs[name] = _ACTIVATIONS[match[1]](jnp.asarray(_channels_last(inputs["act_in"])[..., :-1]))
        elif match := re.fullmatch(r"act/conf_(\w+)", name):
            outputs[name] = _ACTIVATIONS[match[1]](jnp.asarray(_channels_last(inputs["act_in"])[..., -1]))
        elif match := re.fullmatch("act_pose" + 3 * "_(linear|inv_log|exp|relu)", name):
            parts = np.split(inputs["pose_act_in"], [3, 7], axis=-1)
            pose = [_ACTIVATIONS[kind](jnp.asarray(x)) for kind, x in zip(match.groups(), parts, strict=True)]
            outputs[name] = np.concatenate(pose, axis=-1)
    return _named(outputs, {})


def _norm(x: np.ndarray) -> np.ndarray:
    return np.linalg.norm(x, axis=-1, keepdims=True)


# The official heads offer more activations than VGGT uses (exp, inv_log, expp1; linear and relu for poses).
_ACTIVATIONS = {
    "linear": lambda x: x,
    "exp": jnp.exp,
    "expp0": jnp.exp,
    "expp1": lambda x: 1 + jnp.exp(x),
    "relu": jax.nn.relu,
    "sigmoid": jax.nn.sigmoid,
    "inv_log": inverse_log,
    "xy_inv_log": lambda x: np.concatenate([x[..., :2] * inverse_log(x[..., 2:]), inverse_log(x[..., 2:])], axis=-1),
    "norm": lambda x: x / _norm(x),
    "norm_exp": lambda x: x / np.maximum(_norm(x), 1e-8) * np.expm1(_norm(x)),
}


def _part(recording: Recording, prefix: str, config: VGGTConfig | None = None) -> Any:
    """A part of VGGT from a file that holds its weights only."""
    config = config or TABLE.read_config(recording.config)
    return recording.network(VGGT, config, TABLE, source_prefix=prefix, target_prefix=prefix)


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -3, -1)


def _named(outputs: dict[str, Any], intermediates: dict[str, Any]) -> Arrays:
    groups = {"outputs": outputs, "intermediates": intermediates}
    return {f"{group}/{name}": np.asarray(x) for group, tensors in groups.items() for name, x in tensors.items()}


_DPT = Replay(
    vggt_dpt,
    {r"outputs/.*": Tolerance(5e-5), r".*": Tolerance(1e-4)},
    marks=(r"weights/scratch\..*", r"outputs/preds"),
)
REPLAYS = {
    "vggt_full": Replay(
        vggt_full, {r".*": Tolerance(1e-4)}, marks=(r"weights/aggregator\..*", r"outputs/world_points")
    ),
    "vggt_aggregator": Replay(
        vggt_aggregator, {r".*": Tolerance(5e-5)}, marks=(r"weights/frame_blocks\..*", r"outputs/tokens/0")
    ),
    "vggt_dinov2": Replay(
        vggt_dinov2, {r".*": Tolerance(5e-5)}, marks=(r"weights/pos_embed", r"outputs/.*/x_norm_patchtokens")
    ),
    "vggt_camera_head": Replay(
        vggt_camera_head, {r".*": Tolerance(5e-5)}, marks=(r"weights/empty_pose_tokens", r"outputs/pose_enc/0")
    ),
    "vggt_dpt_depth": _DPT,
    "vggt_dpt_point": _DPT,
    "vggt_geometry": Replay(
        vggt_geometry,
        {
            r".*/intrinsics_from_pose_enc": Tolerance(1e-4),
            r".*/points": Tolerance(1e-5, relative=1e-5),
            r".*": Tolerance(1e-5),
        },
        marks=(r"inputs/quat_unnormalised", r"outputs/pose_enc"),
    ),
}
