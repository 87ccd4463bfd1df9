"""The networks that can be converted, and the official forms in which each is found.

`NETWORKS` are those of a Gen3R pipeline, `CONVERTIBLE` has the evaluation's, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from conversion.rules import Table, manifest
from conversion.tables import clip_vision, geometry_adapter, lpips, umt5, vggt, wan_dit, wan_vae


@dataclass(frozen=True)
class Network:
    """Attributes:
    title: in words.
    table: names and layouts.
    folder: sub-folder in an official pipeline folder.
    prefix: what every official name in that folder begins with.
    weights: name of the weights file there.
    other_files: names under which it is published alone, looked for in a folder of several networks.
    fields: a ``config.json`` that lacks one of these belongs to another network.
    """

    title: str
    table: Table
    folder: str
    prefix: str
    weights: str
    other_files: tuple[str, ...]
    fields: frozenset[str]


NETWORKS = {
    "vggt": Network("VGGT", vggt.TABLE, "vggt", "", "model.safetensors", (), frozenset({"img_size", "embed_dim"})),
    "wan_vae": Network(
        "the Wan 2.1 VAE",
        wan_vae.TABLE,
        "wan_vae",
        "model.",
        "diffusion_pytorch_model.safetensors",
        ("Wan2.1_VAE.pth",),
        frozenset({"latent_channels"}),
    ),
    "geometry_adapter": Network(
        "the Gen3R geometry adapter",
        geometry_adapter.TABLE,
        "geo_adapter",
        "model.",
        "diffusion_pytorch_model.safetensors",
        ("geo_adapter.safetensors",),
        frozenset({"hidden_dim", "input_dim"}),
    ),
    "wan_dit": Network(
        "the Wan DiT with camera adapter",
        wan_dit.TABLE,
        "transformer",
        "",
        "diffusion_pytorch_model.safetensors",
        ("diffusion_pytorch_model.safetensors",),
        frozenset({"ffn_dim", "freq_dim"}),
    ),
    "umt5": Network(
        "the umT5 text encoder",
        umt5.TABLE,
        "text_encoder",
        "",
        "diffusion_pytorch_model.safetensors",
        ("models_t5_umt5-xxl-enc-bf16.pth",),
        frozenset({"vocab", "dim_ffn"}),
    ),
    "clip_vision": Network(
        "the CLIP image encoder",
        clip_vision.TABLE,
        "clip_image_encoder",
        "model.",
        "diffusion_pytorch_model.safetensors",
        ("models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",),
        frozenset({"vision_dim", "vision_layers"}),
    ),
}

CONVERTIBLE = NETWORKS | {
    "lpips": Network(
        "LPIPS from a folder with torchvision's file and that of LPIPS 0.1",
        lpips.TABLE,
        "lpips",
        "",
        "model.safetensors",
        (),
        frozenset({"lpips_backbone"}),
    )
}


def most_alike(names: Iterable[str]) -> str | None:
    """The network whose full-size official names are most like `names`; None if none is much alike."""
    names = set(names)
    likeness = {}
    for key, network in NETWORKS.items():
        official = manifest(network.table, network.table.read_config({})).keys()
        relevant = {name for name in names if name in official or not network.table.ignores(name)}
        likeness[key] = len(relevant & official) / len(relevant | official)
    best, most = max(likeness.items(), key=lambda item: item[1])
    return best if most > 0.5 else None
