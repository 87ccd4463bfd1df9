"""Accelerators: what a chip can do, and groups of chips to compile for without having one.

The facts are the makers' published ones. Rates of links are what one chip sends in one direction over all of its links,
half of the "bidirectional" figures.
"""

import dataclasses
import importlib.util
import math
import os
import re
from typing import Any

import jax
from jax.experimental import topologies

from gen3r_jax.errors import UserError

UTILISATION = 0.4  # of a chip's peak, assumed wherever time is estimated
LINK_UTILISATION = 0.5  # of all links of a chip, assumed: one ring in a torus uses two of its four or six


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, which is one JAX device.

    Attributes:
      kinds: what JAX calls it, ``jax.devices()[0].device_kind``.
      flops: dense bfloat16 operations a second.
      memory: bytes, of which a runtime keeps some back.
      bandwidth: of the memory, bytes a second.
      links: bytes a second that it sends to other chips of its slice or node; 0 where it has no links.
    """

    name: str
    kinds: tuple[str, ...]
    flops: float
    memory: float
    bandwidth: float
    links: float


CHIPS = (
    Chip("v4", ("TPU v4",), 275e12, 32e9, 1228e9, 300e9),
    Chip("v5e", ("TPU v5 lite", "TPU v5e"), 197e12, 16e9, 819e9, 200e9),
    Chip("v5p", ("TPU v5", "TPU v5p"), 459e12, 95e9, 2765e9, 600e9),
    Chip("v6e", ("TPU v6 lite", "TPU v6e"), 918e12, 32e9, 1640e9, 400e9),
    Chip("h100", ("NVIDIA H100 80GB HBM3",), 989e12, 80e9, 3350e9, 450e9),
    Chip("h200", ("NVIDIA H200",), 989e12, 141e9, 4800e9, 450e9),
    Chip("a100-80", ("NVIDIA A100-SXM4-80GB",), 312e12, 80e9, 2039e9, 300e9),
    Chip("a100-40", ("NVIDIA A100-SXM4-40GB",), 312e12, 40e9, 1555e9, 300e9),
    Chip("rtx4090", ("NVIDIA GeForce RTX 4090",), 165e12, 24e9, 1008e9, 0.0),
)

_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("1x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
# What can be compiled for: slices of TPUs as they are offered; nodes of 8 GPUs, or a part of one.
_SHAPES = {"v5p": _CUBES, "v5e": _FLAT, "v6e": _FLAT}
_GPUS_PER_NODE = 8
_NETWORK = 50e9  # bytes a second and GPU between nodes: one 400 Gbit/s adapter each

# The limits of an H100 as NVIDIA publishes them; the compiler asks for them where there is no GPU to ask.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 85520809984
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that are joined by their links; `shape` is that of a TPU slice, or (nodes, GPUs per node)."""

    chip: Chip
    shape: tuple[int, ...]

    @property
    def name(self) -> str:
        size = str(self.count) if self.chip.name == "h100" else "x".join(map(str, self.shape))
        return f"{self.chip.name}:{size}"

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def links(self) -> float:
        """Bytes a second that a chip sends to the others: of its links, or of the network where these end."""
        return _NETWORK if self.chip.name == "h100" and self.shape[0] > 1 else self.chip.links

    @property
    def compiler_options(self) -> dict[str, bool]:
        """What the compiler must be told where it has no chip to try kernels on."""
        # It would take kernels of its own for matrix products, some of which it cannot build: rather NVIDIA's.
        return {"xla_gpu_enable_triton_gemm": False} if self.chip.name == "h100" else {}

    def devices(self) -> list[Any]:
        """Devices to compile for, which are not there. Nothing else can be done with them.

        Keeps JAX off any real accelerator. Raises UserError when the compiler is not installed.
        """
        jax.config.update("jax_platforms", "cpu")
        if self.chip.name == "h100":
            return self._gpus()
        _require(self.name, "libtpu", "the TPU compiler", "tpu")
        # Else libtpu asks the cloud which machine this is, complains, and refuses a second process.
        count = 2 * self.count if self.chip.name == "v5p" else self.count  # its machines are named by their cores
        kind = "v5litepod" if self.chip.name == "v5e" else self.chip.name
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{kind}-{count}")
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        one = {"chips_per_host_bounds": (1, 1, 1)} if self.count == 1 else {}
        return topologies.get_topology_desc(platform="tpu", topology_name=self.name, **one).devices

    def _gpus(self) -> list[Any]:
        _require(self.name, "jax_cuda12_plugin", "the CUDA compiler", "cuda")
        nodes, gpus = self.shape
        return topologies.get_topology_desc(
            platform="cuda", topology_name="gpu", topology=f"1x{nodes}x{gpus}", target_config=_H100
        ).devices


def find_chip(device_kind: str) -> Chip | None:
    """The chip that JAX calls so."""
    return next((chip for chip in CHIPS if device_kind in chip.kinds), None)


def parse(name: str) -> Topology:
    """``v5p:4x8x8``, or ``v5p:256`` for the usual shape of so many chips; ``h100:8``. UserError for what is unknown."""
    kind, _, size = name.partition(":")
    chip = next((chip for chip in CHIPS if chip.name == kind), None)
    if chip is None:
        raise UserError(f"topology {name!r} is unknown; give {_accepted(kind)}")
    if kind == "h100" and re.fullmatch(r"[1-9]\d*", size):
        count = int(size)
        if count <= _GPUS_PER_NODE or count % _GPUS_PER_NODE == 0:
            nodes = math.ceil(count / _GPUS_PER_NODE)
            return Topology(chip, (nodes, count // nodes))
    for shape in _SHAPES.get(kind, ()):
        sizes = tuple(map(int, shape.split("x")))
        if size in (shape, str(math.prod(sizes))):
            return Topology(chip, sizes)
    raise UserError(f"topology {name!r} is unknown; give {_accepted(kind)}")


def _accepted(kind: str) -> str:
    if kind in _SHAPES:
        return f"{kind}:SHAPE, one of {', '.join(_SHAPES[kind])}, or {kind}:N for so many chips"
    if kind == "h100":
        return f"h100:N with N up to {_GPUS_PER_NODE}, or a multiple of it"
    return f"{', '.join(f'{kind}:{shapes[3]}' for kind, shapes in _SHAPES.items())}, h100:8 or other sizes of these"


def _require(name: str, module: str, what: str, extra: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise UserError(f"topology {name} needs {what}, which is not installed: pip install gen3r-jax[{extra}]")
