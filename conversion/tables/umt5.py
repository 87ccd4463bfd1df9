"""umT5 encoder: Gen3R's ``text_encoder/`` folder, or ``models_t5_umt5-xxl-enc-bf16.pth`` of the Wan release."""

from collections.abc import Mapping
from typing import Any

from conversion.rules import Rule, Table, linear
from gen3r_jax.models.umt5 import UMT5Config, UMT5Encoder

# Official config field -> ours.
_FIELDS = {
    "vocab": "vocab_size",
    "dim": "dim",
    "num_heads": "num_heads",
    "dim_ffn": "mlp_dim",
    "num_layers": "depth",
    "num_buckets": "num_buckets",
}


def _read_config(fields: Mapping[str, Any]) -> UMT5Config:
    known = {ours: fields[official] for official, ours in _FIELDS.items() if official in fields}
    if "dim_attn" in fields and "num_heads" in fields:
        known["head_dim"] = fields["dim_attn"] // fields["num_heads"]
    return UMT5Config(**known)


def _write_config(config: UMT5Config) -> dict[str, Any]:
    fields = {official: getattr(config, ours) for official, ours in _FIELDS.items()}
    return {**fields, "dim_attn": config.num_heads * config.head_dim, "shared_pos": False, "dropout": 0.0}


_BLOCK = r"blocks.(?P<l>\d+)."

TABLE = Table(
    network=UMT5Encoder,
    rules=(
        Rule("token_embedding.weight", "embedding"),
        Rule(_BLOCK + "(norm1|norm2).weight", r"blocks.\2.scale"),
        Rule(_BLOCK + "attn.(q|k|v).weight", r"blocks.attn.\2.kernel", linear),
        Rule(_BLOCK + "attn.o.weight", "blocks.attn.out.kernel", linear),
        Rule(_BLOCK + "pos_embedding.embedding.weight", "blocks.attn.distance_bias"),
        Rule(_BLOCK + "ffn.gate.0.weight", "blocks.mlp.gate.kernel", linear),
        Rule(_BLOCK + "ffn.fc1.weight", "blocks.mlp.up.kernel", linear),
        Rule(_BLOCK + "ffn.fc2.weight", "blocks.mlp.down.kernel", linear),
        Rule("norm.weight", "norm.scale"),
    ),
    read_config=_read_config,
    write_config=_write_config,
)
