"""Binary glTF 2.0 files, whichever is in them: points, lines, triangles, Gaussians."""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8, UInt16

from gen3r_jax.geometry.cameras import OPENGL_AXES
from gen3r_jax.storage.files import replacing

POINTS, LINES, TRIANGLES = 0, 1, 4
_VERTICES, _INDICES = 34962, 34963  # what a part of the file is for
_COMPONENTS = {np.dtype(name): code for name, code in (("i1", 5120), ("<u2", 5123), ("<u4", 5125), ("<f4", 5126))}
_SHAPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


@dataclass(frozen=True)
class Primitive:
    """One mesh of a file.

    Attributes:
      name: of the mesh and its node.
      mode: POINTS, LINES or TRIANGLES.
      positions: OpenCV axes; they are written with y up and z backward, as glTF has them.
      attributes: what else the vertices have, by glTF's names. Rows take a multiple of 4 bytes; integers stand for
        numbers between -1 or 0 and 1.
      indices: of the vertices of lines or triangles; without them vertices are taken as they come.
      extensions: of the primitive.
    """

    name: str
    mode: int
    positions: Float[np.ndarray, "n 3"]
    attributes: dict[str, np.ndarray]
    indices: np.ndarray | None = None
    extensions: dict[str, Any] = field(default_factory=dict)


def write_gltf(path: Path | str, primitives: Sequence[Primitive]) -> None:
    """Writes a ``.glb`` with one node for each primitive that has vertices, drawn as it is, without lights."""
    views: list[dict[str, Any]] = []
    accessors: list[dict[str, Any]] = []
    blobs: list[bytes] = []

    def add(array: np.ndarray, target: int = _VERTICES, **also: Any) -> int:
        offset = sum(map(len, blobs))
        views.append({"buffer": 0, "byteOffset": offset, "byteLength": array.nbytes, "target": target})
        blobs.append(array.tobytes())
        shape = _SHAPES[array.shape[1] if array.ndim > 1 else 1]
        kind = {"componentType": _COMPONENTS[array.dtype], "count": len(array), "type": shape}
        accessors.append({"bufferView": len(views) - 1, **kind, **also})
        return len(accessors) - 1

    meshes = []
    for primitive in primitives:
        if not len(primitive.positions):
            continue  # glTF has no empty arrays
        positions = (primitive.positions @ OPENGL_AXES[:3, :3]).astype("<f4")
        bounds = {"min": positions.min(axis=0).tolist(), "max": positions.max(axis=0).tolist()}
        written: dict[str, Any] = {"mode": primitive.mode, "material": 0}
        written["attributes"] = {"POSITION": add(positions, **bounds)}
        for name, array in primitive.attributes.items():
            normalized = {"normalized": True} if array.dtype.kind in "iu" else {}
            written["attributes"][name] = add(array, **normalized)
        if primitive.indices is not None:
            written["indices"] = add(primitive.indices.reshape(-1).astype("<u4"), _INDICES)
        if primitive.extensions:
            written["extensions"] = primitive.extensions
        meshes.append({"name": primitive.name, "primitives": [written]})
    used = {name for primitive in primitives for name in primitive.extensions} | {"KHR_materials_unlit"}
    document = {
        "asset": {"version": "2.0", "generator": "gen3r_jax"},
        "extensionsUsed": sorted(used),
        "scene": 0,
        "scenes": [{"nodes": list(range(len(meshes)))}],
        "nodes": [{"name": mesh["name"], "mesh": index} for index, mesh in enumerate(meshes)],
        "meshes": meshes,
        "materials": [{"doubleSided": True, "extensions": {"KHR_materials_unlit": {}}}],
        "buffers": [{"byteLength": sum(map(len, blobs))}],
        "bufferViews": views,
        "accessors": accessors,
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = b"".join(blobs)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<4sII", b"glTF", 2, 12 + 8 + len(text) + 8 + len(data)))
        file.write(struct.pack("<I4s", len(text), b"JSON") + text)
        file.write(struct.pack("<I4s", len(data), b"BIN\0") + data)


def linear_colors(colors: UInt8[np.ndarray, "n 3"]) -> UInt16[np.ndarray, "n 4"]:
    """From sRGB to opaque colours of linear light, which vertices have (glTF 2.0, section 3.9.2).

    They have 16 bits, because 8 would make one of many dark colours.
    """
    srgb = np.arange(256) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    table = np.rint(65535 * linear).astype("<u2")
    return np.concatenate([table[colors], np.full((len(colors), 1), 65535, "<u2")], axis=1)
