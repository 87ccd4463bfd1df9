"""VGGT: ``model.safetensors`` of VGGT-1B or of Gen3R's ``vggt/`` folder."""

from collections.abc import Iterator, Mapping
from typing import Any

from conversion.rules import Rule, Table, conv1x1_2d, conv2d, conv_transpose2d, layer, norm
from gen3r_jax.models.vggt import VGGT, VGGTConfig

# Official config field -> ours. The official `config.json` has the first three, recordings may have all.
_FIELDS = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "embed_dim": "embed_dim",
    "vit_depth": "dino_depth",
    "vit_heads": "dino_heads",
    "depth": "depth",
    "num_heads": "num_heads",
    "intermediate_layer_idx": "layers",
    "trunk_depth": "camera_depth",
    "cam_heads": "camera_heads",
    "features": "dpt_features",
    "out_channels": "dpt_channels",
}


def _read_config(fields: Mapping[str, Any]) -> VGGTConfig:
    known: dict[str, Any] = {_FIELDS[name]: value for name, value in fields.items() if name in _FIELDS}
    known |= {name: tuple(value) for name, value in known.items() if isinstance(value, list)}
    return VGGTConfig(**known)


def _write_config(config: VGGTConfig) -> dict[str, Any]:
    full_size = VGGTConfig.vggt_1b()
    return {
        official: getattr(config, ours)
        for i, (official, ours) in enumerate(_FIELDS.items())
        if i < 3 or getattr(config, ours) != getattr(full_size, ours)
    }


def _blocks(source: str, target: str) -> Iterator[Rule]:
    yield from norm(source + r"(?P<norm>norm1|norm2|attn\.q_norm|attn\.k_norm)", target + r"\g<norm>")
    yield from layer(source + r"(?P<layer>attn\.qkv|attn\.proj|mlp\.fc1|mlp\.fc2)", target + r"\g<layer>")
    yield Rule(source + "ls(?P<branch>1|2).gamma", target + r"scale\g<branch>")


def _aggregator() -> Iterator[Rule]:
    yield Rule("aggregator.(camera_token|register_token)", r"aggregator.\1")
    patches = "aggregator.patch_embed"
    yield Rule(patches + ".(cls_token|register_tokens|pos_embed)", patches + r".\1")
    yield from layer(f"{patches}.patch_embed.proj", f"{patches}.patch_embed", conv2d)
    yield from norm(f"{patches}.norm", f"{patches}.norm")
    for name in (f"{patches}.blocks", "aggregator.frame_blocks", "aggregator.global_blocks"):
        yield from _blocks(name + r".(?P<l>\d+).", name + ".")


def _camera_head() -> Iterator[Rule]:
    yield Rule("camera_head.empty_pose_tokens", "camera_head.empty_pose")
    yield from norm("camera_head.(token_norm|trunk_norm)", r"camera_head.\1")
    yield from layer("camera_head.poseLN_modulation.1", "camera_head.modulation")
    yield from layer(r"camera_head.(embed_pose|pose_branch\.fc1|pose_branch\.fc2)", r"camera_head.\1")
    yield from _blocks(r"camera_head.trunk.(?P<i>\d+).", r"camera_head.trunk.\g<i>.")


def _dpt_heads() -> Iterator[Rule]:
    source, target = "(?P<head>depth|point)_head.", r"\g<head>_head."
    yield from norm(source + "norm", target + "norm")
    yield from layer(source + r"projects.(?P<level>\d)", target + r"project.\g<level>", conv1x1_2d)
    yield from layer(source + "resize_layers.(?P<level>0|1)", target + r"resize.\g<level>", conv_transpose2d)
    yield from layer(source + "resize_layers.3", target + "resize.2", conv2d)
    source += "scratch."
    for level in range(4):
        yield Rule(source + f"layer{level + 1}_rn.weight", target + f"lateral.{level}.kernel", conv2d)
        official, ours = source + f"refinenet{level + 1}.", target + f"fuse.{level}."
        yield from layer(official + "out_conv", ours + "out", conv1x1_2d)
        units = "resConfUnit(?P<unit>1|2).(?P<conv>conv1|conv2)"
        yield from layer(official + units, ours + r"unit\g<unit>.\g<conv>", conv2d)
    yield from layer(source + "output_conv1", target + "output1", conv2d)
    yield from layer(source + "output_conv2.0", target + "output2", conv2d)
    yield from layer(source + "output_conv2.2", target + "output3", conv1x1_2d)


TABLE = Table(
    network=VGGT,
    rules=(*_aggregator(), *_camera_head(), *_dpt_heads()),
    read_config=_read_config,
    write_config=_write_config,
    ignore=(r"track_head\..*", r"aggregator\.patch_embed\.mask_token"),
    unused=lambda config: {"aggregator.patch_embed.mask_token": (1, config.embed_dim)},
)
