"""LPIPS 0.1: torchvision's classifier and the weights of the ``lpips`` package, or the state of its class ``LPIPS``.

Two files in one folder (``vgg16-*.pth`` with ``vgg.pth``, or ``alexnet-*.pth`` with ``alex.pth``), or one file that
holds both. Which classifier it is shows in the first convolution.
"""

import re
from collections.abc import Mapping
from typing import Any

from conversion.rules import Rule, Table, Tensor, chain, conv2d, squeeze
from gen3r_jax.models.lpips import LPIPS, LPIPSConfig

# The whole class numbers the classifier's layers within slices.
_SLICED = re.compile(r"net\.slice\d\.(\d+\.(?:weight|bias))")


def _read_config(fields: Mapping[str, Any]) -> LPIPSConfig:
    backbone = fields.get("lpips_backbone", "vgg")
    usual = {"vgg": LPIPSConfig.vgg, "alex": LPIPSConfig.alex}[backbone]()
    return LPIPSConfig(backbone, tuple(fields.get("channels", usual.channels)))


def _write_config(config: LPIPSConfig) -> dict[str, Any]:
    return {"lpips_backbone": config.backbone, "channels": config.channels}


def _adapt(tensors: Mapping[str, Tensor], config: LPIPSConfig) -> tuple[Mapping[str, Tensor], LPIPSConfig, list[str]]:
    tensors = {_SLICED.sub(r"features.\1", name): x for name, x in tensors.items()}
    first = tensors.get("features.0.weight")
    if first is not None and first.shape[-1] == 11 and config.backbone != "alex":
        config = LPIPSConfig.alex()
    return tensors, config, [f"backbone: {config.backbone}"]


TABLE = Table(
    network=LPIPS,
    rules=(
        Rule(r"features.(\d+).weight", r"features.conv\1.kernel", conv2d),
        Rule(r"features.(\d+).bias", r"features.conv\1.bias"),
        Rule(r"lin(\d).model.1.weight", r"weights.stage\1", chain(squeeze(2, 3), squeeze(0))),  # [1, c, 1, 1] -> [c]
    ),
    read_config=_read_config,
    write_config=_write_config,
    ignore=(r"classifier\..*", r"lins\..*", r"scaling_layer\..*"),
    adapt=_adapt,
)
