"""Geometry adapter: Gen3R's ``geo_adapter/`` folder, or ``geo_adapter.safetensors`` of its trainer."""

from collections.abc import Mapping
from typing import Any

from conversion.rules import Table, conv2d, layer
from conversion.tables.causal_autoencoder import decoder_rules, encoder_rules, latent_rules
from gen3r_jax.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig

_FIELDS = ("latent_channels", "hidden_dim", "input_dim", "resample_scale")  # the same names as ours


def _read_config(fields: Mapping[str, Any]) -> GeometryAdapterConfig:
    return GeometryAdapterConfig(**{name: fields[name] for name in _FIELDS if name in fields})


def _write_config(config: GeometryAdapterConfig) -> dict[str, Any]:
    ratios = {"temporal_compression_ratio": 4, "spatial_compression_ratio": 8}
    return {**{name: getattr(config, name) for name in _FIELDS}, "output_dim": config.input_dim, **ratios}


TABLE = Table(
    network=GeometryAdapter,
    rules=(
        *layer("encoder.init_block.resample.1", "input", conv2d),
        *encoder_rules(entries=(1, 2), space="resample.0"),
        *latent_rules(),
        *decoder_rules(entries=(1, 2, 3), space="resample.0"),
        *layer("decoder.out_block.resample.2", "output", conv2d),
    ),
    read_config=_read_config,
    write_config=_write_config,
    ignore=("mean", "std"),  # the trainer adds them; every official reader drops them
)
