"""Wan DiT: Gen3R's ``transformer/`` folder, or Wan2.1-Fun-V1.1-1.3B-Control-Camera, which its training started from."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from conversion.rules import Op, Rule, Table, Tensor, conv2d, layer, norm, squeeze
from gen3r_jax.errors import UserError
from gen3r_jax.models.wan_dit import WanDiT, WanDiTConfig

# Official config field -> ours.
_FIELDS = {
    "text_len": "text_len",
    "in_dim": "in_channels",
    "dim": "dim",
    "ffn_dim": "mlp_dim",
    "freq_dim": "time_dim",
    "text_dim": "text_dim",
    "out_dim": "out_channels",
    "num_heads": "num_heads",
    "num_layers": "depth",
}
# What the network here always is.
_FIXED = {
    "patch_size": [1, 2, 2],
    "window_size": [-1, -1],
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
    "add_ref_conv": False,
}


def _read_config(fields: Mapping[str, Any]) -> WanDiTConfig:
    for name, value in _FIXED.items():
        if (given := fields.get(name, value)) != value:
            raise UserError(f"config.json says {name} = {given}: only {value} is supported")
    known = {ours: fields[official] for official, ours in _FIELDS.items() if official in fields}
    known["shared_halves"] = fields.get("shared_halves", True)  # in no official file: there the grid decides
    if fields.get("model_type") == "t2v":
        known["image_dim"] = None
    elif "clip_dim" in fields:  # in no official file: always 1280
        known["image_dim"] = fields["clip_dim"]
    if not fields.get("add_control_adapter", True):
        known["camera_channels"] = None
    elif "in_dim_control_adapter" in fields:
        known["camera_channels"] = fields["in_dim_control_adapter"]
    return WanDiTConfig(**known)


def _write_config(config: WanDiTConfig) -> dict[str, Any]:
    full_size = WanDiTConfig.fun_1_3b()
    fields = {"model_type": "t2v" if config.image_dim is None else "i2v", **_FIXED}
    fields |= {official: getattr(config, ours) for official, ours in _FIELDS.items()}
    fields["add_control_adapter"] = config.camera_channels is not None
    fields["in_dim_control_adapter"] = config.camera_channels or full_size.camera_channels
    if config.image_dim not in (None, full_size.image_dim):
        fields["clip_dim"] = config.image_dim
    if not config.shared_halves:
        fields["shared_halves"] = False
    return fields


def grow_mask_channels(
    tensors: Mapping[str, Tensor], config: WanDiTConfig
) -> tuple[Mapping[str, Tensor], WanDiTConfig, list[str]]:
    """Gives the upstream transformer the input channels of the mask, with zero weights.

    Upstream sees noisy latents and the latents of the start image, Gen3R four mask channels too. Until it is trained,
    the grown transformer computes what upstream's does.

    Returns:
      tensors and config, as they were unless the patch embedding has upstream's input channels, and what was done.
    """
    name, latents = "patch_embedding.weight", 2 * config.out_channels
    wanted = latents + 4
    weight = tensors.get(name)
    if weight is None or weight.shape[1:2] != (latents,) or config.in_channels not in (latents, wanted):
        return tensors, config, []
    grown: Any = np.pad(np.asarray(weight), ((0, 0), (0, wanted - latents), (0, 0), (0, 0), (0, 0)))
    note = f"{name} has {latents} input channels: 4 for the mask were added, with zero weights"
    return {**tensors, name: grown}, dataclasses.replace(config, in_channels=wanted), [note]


# [out, in, 1, 2, 2] -> [2 * 2 * in, out]: rows, columns, channels.
_patches = Op(
    "patches",
    lambda x: conv2d.forward(squeeze(2).forward(x)).reshape(-1, x.shape[0]),
    lambda x: squeeze(2).inverse(conv2d.inverse(x.reshape(2, 2, -1, x.shape[-1]))),
)


def _join_unshuffle(x: np.ndarray) -> np.ndarray:
    """Pixel-unshuffle by 8 and a 2x2 convolution of stride 2 are one product with patches of 16x16 pixels.

    [out, (c row column), i, j] -> [(i row) (j column) c, out].
    """
    x = x.reshape(x.shape[0], -1, 8, 8, 2, 2)
    return x.transpose(4, 2, 5, 3, 1, 0).reshape(-1, x.shape[0])


def _split_unshuffle(x: np.ndarray) -> np.ndarray:
    x = x.reshape(2, 8, 2, 8, -1, x.shape[-1]).transpose(5, 4, 1, 3, 0, 2)
    return x.reshape(x.shape[0], -1, 2, 2)


_unshuffled_patches = Op("unshuffled patches", _join_unshuffle, _split_unshuffle)


def _embeddings() -> Iterator[Rule]:
    yield from layer("patch_embedding", "patch_embed", _patches)
    for kind in ("text", "time"):
        yield from layer(f"{kind}_embedding.0", f"{kind}_mlp.up")
        yield from layer(f"{kind}_embedding.2", f"{kind}_mlp.down")
    yield from layer("time_projection.1", "time_projection")
    yield from norm("img_emb.proj.0", "image_embed.norm1")
    yield from layer("img_emb.proj.1", "image_embed.mlp.up")
    yield from layer("img_emb.proj.3", "image_embed.mlp.down")
    yield from norm("img_emb.proj.4", "image_embed.norm2")
    yield from layer("control_adapter.conv", "camera_adapter.project", _unshuffled_patches)
    yield from layer("control_adapter.residual_blocks.0.(conv1|conv2)", r"camera_adapter.\1", conv2d)


def _blocks() -> Iterator[Rule]:
    source, target = r"blocks.(?P<l>\d+).", "blocks."
    yield Rule(source + "modulation", target + "modulation", squeeze(0))
    yield from norm(source + "norm3", target + "cross_norm")
    for attention in ("self_attn", "cross_attn"):
        yield from layer(source + f"{attention}.o", target + f"{attention}.out")
    yield from layer(source + r"self_attn.(?P<layer>q|k|v)", target + r"self_attn.\g<layer>")
    yield Rule(source + r"self_attn.norm_(?P<layer>q|k).weight", target + r"self_attn.\g<layer>_norm.scale")
    yield from layer(source + "cross_attn.q", target + "cross_attn.q")
    yield Rule(source + "cross_attn.norm_q.weight", target + "cross_attn.q_norm.scale")
    for suffix, ours in (("", "text_attn"), ("_img", "image_attn")):
        yield from layer(source + f"cross_attn.(?P<layer>k|v){suffix}", target + ours + r".\g<layer>")
        yield Rule(source + f"cross_attn.norm_k{suffix}.weight", target + f"{ours}.k_norm.scale")
    yield from layer(source + "ffn.0", target + "mlp.up")
    yield from layer(source + "ffn.2", target + "mlp.down")


TABLE = Table(
    network=WanDiT,
    rules=(
        *_embeddings(),
        *_blocks(),
        Rule("head.modulation", "head_modulation", squeeze(0)),
        *layer("head.head", "head"),
    ),
    read_config=_read_config,
    write_config=_write_config,
    adapt=grow_mask_channels,
)
