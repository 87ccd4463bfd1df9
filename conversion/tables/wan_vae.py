"""Wan 2.1 VAE: ``Wan2.1_VAE.pth`` or Gen3R's ``wan_vae/`` folder."""

from collections.abc import Mapping
from typing import Any

from conversion.rules import Table
from conversion.tables.causal_autoencoder import decoder_rules, encoder_rules, latent_rules
from gen3r_jax.models.wan_vae import WanVAE, WanVAEConfig

# Official config field -> ours. The official `config.json` has the first only, recordings have both.
_FIELDS = {"latent_channels": "latent_channels", "dim": "width"}


def _read_config(fields: Mapping[str, Any]) -> WanVAEConfig:
    return WanVAEConfig(**{ours: fields[official] for official, ours in _FIELDS.items() if official in fields})


def _write_config(config: WanVAEConfig) -> dict[str, Any]:
    ratios = {"temporal_compression_ratio": 4, "spacial_compression_ratio": 8}  # spelled so
    width = {} if config.width == WanVAEConfig.wan21().width else {"dim": config.width}
    return {"latent_channels": config.latent_channels, **ratios, **width}


TABLE = Table(
    network=WanVAE,
    rules=(
        *encoder_rules(entries=(1, 2), space="resample.1"),
        *latent_rules(),
        *decoder_rules(entries=(1,), space="resample.1"),
    ),
    read_config=_read_config,
    write_config=_write_config,
    ignore=("mean", "std"),  # only where the latent statistics are not the official ones
)
