"""CLIP ViT-H/14: Gen3R's ``clip_image_encoder/`` folder, or the ``.pth`` file of the Wan release.

The files hold the whole of CLIP; what is run is the image tower without its last block, final norm and head.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from conversion.rules import Rule, Shape, Table, conv2d, copy, layer, norm
from gen3r_jax.models.clip_vision import CLIPVision, CLIPVisionConfig

# Official config field -> ours.
_FIELDS = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "vision_dim": "dim",
    "vision_heads": "num_heads",
    "vision_layers": "depth",
}


def _read_config(fields: Mapping[str, Any]) -> CLIPVisionConfig:
    return CLIPVisionConfig(**{ours: fields[official] for official, ours in _FIELDS.items() if official in fields})


def _write_config(config: CLIPVisionConfig) -> dict[str, Any]:
    return {official: getattr(config, ours) for official, ours in _FIELDS.items()}


def _blocks() -> Iterator[Rule]:
    source = r"visual.transformer.(?P<l>\d+)."
    yield from norm(source + "(norm1|norm2)", r"blocks.\2")
    yield from layer(source + "attn.to_qkv", "blocks.attn.qkv")
    yield from layer(source + "attn.proj", "blocks.attn.proj")
    yield from layer(source + "mlp.0", "blocks.mlp.fc1")
    yield from layer(source + "mlp.2", "blocks.mlp.fc2")


def _unused(config: CLIPVisionConfig) -> dict[str, Shape]:
    """The block that is not run, and what comes after it."""
    dim, hidden = config.dim, 4 * config.dim
    kernels = {"attn.to_qkv": (3 * dim, dim), "attn.proj": (dim, dim), "mlp.0": (hidden, dim), "mlp.2": (dim, hidden)}
    shapes = {f"{name}.weight": shape for name, shape in kernels.items()}
    shapes |= {f"{name}.bias": shape[:1] for name, shape in kernels.items()}
    shapes |= {f"{block_norm}.{name}": (dim,) for block_norm in ("norm1", "norm2") for name in ("weight", "bias")}
    last = f"visual.transformer.{config.depth - 1}"
    after = {f"visual.post_norm.{name}": (dim,) for name in ("weight", "bias")}
    return {f"{last}.{name}": shape for name, shape in shapes.items()} | after


TABLE = Table(
    network=CLIPVision,
    rules=(
        Rule("visual.cls_embedding", "cls_token", copy),
        Rule("visual.pos_embedding", "pos_embed", copy),
        Rule("visual.patch_embedding.weight", "patch_embed.kernel", conv2d),
        *norm("visual.pre_norm", "pre_norm"),
        *_blocks(),
    ),
    read_config=_read_config,
    write_config=_write_config,
    ignore=(r"textual\..*", "log_scale", r"visual\.head"),
    unused=_unused,
)
