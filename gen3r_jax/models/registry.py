"""The networks of Gen3R: their names, which are those of their weight folders, their classes and their sizes."""

from dataclasses import replace
from typing import Any

from gen3r_jax.models.clip_vision import CLIPVision, CLIPVisionConfig
from gen3r_jax.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig
from gen3r_jax.models.umt5 import UMT5Config, UMT5Encoder
from gen3r_jax.models.vggt import VGGT, VGGTConfig
from gen3r_jax.models.wan_dit import WanDiT, WanDiTConfig
from gen3r_jax.models.wan_vae import WanVAE, WanVAEConfig
from gen3r_jax.module import Network

NETWORKS: dict[str, type[Network]] = {
    "umt5": UMT5Encoder,
    "clip_vision": CLIPVision,
    "wan_vae": WanVAE,
    "wan_dit": WanDiT,
    "geometry_adapter": GeometryAdapter,
    "vggt": VGGT,
}

EXACT = {"vggt": ("camera_head", "depth_head", "point_head")}
"""Parts of networks whose weights stay in the dtype that they are stored in, for poses and depth suffer visibly from
bfloat16."""

PRESETS: dict[str, dict[str, Any]] = {
    "gen3r": {
        "umt5": UMT5Config.xxl(),
        "clip_vision": CLIPVisionConfig.vit_h14(),
        "wan_vae": WanVAEConfig.wan21(),
        "wan_dit": WanDiTConfig.fun_1_3b(),
        "geometry_adapter": GeometryAdapterConfig.gen3r(),
        "vggt": VGGTConfig.vggt_1b(),
    },
    "nano": {
        "umt5": UMT5Config.nano(),
        "clip_vision": CLIPVisionConfig.nano(),
        "wan_vae": WanVAEConfig.nano(),
        "wan_dit": WanDiTConfig.nano(),
        "geometry_adapter": GeometryAdapterConfig.nano(),
        "vggt": VGGTConfig.nano(),
    },
    "tiny": {
        "umt5": UMT5Config.tiny(),
        "clip_vision": CLIPVisionConfig.tiny(),
        "wan_vae": WanVAEConfig.tiny(),
        # Wide enough for a token's 144 numbers to come through.
        "wan_dit": replace(WanDiTConfig.tiny(), dim=144, mlp_dim=288, text_len=64),
        "geometry_adapter": replace(GeometryAdapterConfig.tiny(), input_dim=10 * VGGTConfig.tiny().embed_dim),
        "vggt": VGGTConfig.tiny(),
    },
}
"""The config of every network in each size."""
