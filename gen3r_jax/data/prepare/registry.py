"""The ten data sets, and captures of one's own, by name."""

import importlib

from gen3r_jax.data.prepare.recording import DataSet
from gen3r_jax.errors import UserError

# Name -> the file that reads it, and the other name it is known by.
_SETS = {
    "re10k": ("realestate10k", "RealEstate10K"),
    "dl3dv": ("dl3dv", "DL3DV-10K"),
    "acid": ("acid", "ACID"),
    "tartanair": ("tartanair", "TartanAir"),
    "kitti360": ("kitti360", "KITTI-360"),
    "waymo": ("waymo", "Waymo Open"),
    "co3d": ("co3d", "Co3Dv2"),
    "mvimgnet": ("mvimgnet", "MVImgNet"),
    "vkitti": ("vkitti", "Virtual KITTI 2"),
    "wildrgbd": ("wildrgbd", "WildRGB-D"),
    "capture": ("capture", "captures of one's own"),
}

NAMES = tuple(_SETS)


def data_set(name: str) -> DataSet:
    """The set called `name`: ``re10k`` or ``RealEstate10K``, in any case. Raises UserError for any other."""
    known = {_plain(alias): short for short, (_, title) in _SETS.items() for alias in (short, title)}
    short = known.get(_plain(name))
    if short is None:
        names = ", ".join(f"{short} ({title})" for short, (_, title) in _SETS.items())
        raise UserError(f"no data set {name!r}; there are {names}")
    return importlib.import_module(f"gen3r_jax.data.prepare.{_SETS[short][0]}").DATA_SET


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
