"""Where arrays live on a device mesh: the mesh, the rules for parameters, and :func:`shard` for activations.

Everything is said in logical axes ("heads", "frames"), and one table maps those to the axes of the mesh:

    data           copies of the model; only gradients travel. Across slices or nodes.
    fsdp           the batch too, and every large parameter and its optimizer moments in slices.
    rows, columns  one sample: its frames and tokens over both, its pictures in tiles. Parameters are sliced here too.
    tensor         heads and hidden units of one layer.

A user names the product of `rows` and `columns`, ``seq``.

Parameters are matched by their dotted path against ``RULES``; the first match wins and names the trailing axes. An axis
that its mesh axes do not divide stays whole.
"""

import dataclasses
import functools
import logging
import math
import re
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from gen3r_jax import module
from gen3r_jax.errors import UserError

AXES = ("data", "fsdp", "rows", "columns", "tensor")

LOGICAL: dict[str, tuple[str, ...]] = {
    "batch": ("data", "fsdp"),
    "samples": ("data", "fsdp", "rows", "columns"),  # a batch of independent frames
    "frames": ("rows", "columns"),
    "tokens": ("rows", "columns"),
    "rows": ("rows",),
    "columns": ("columns",),
    "embed": ("fsdp", "rows", "columns"),
    "heads": ("tensor",),
    "mlp": ("tensor",),
    "channels": ("fsdp", "rows", "columns"),
}

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r".*attn\w*\.(q|k|v|qkv)\.kernel", ("embed", "heads")),
    (r".*attn\w*\.(out|proj)\.kernel", ("heads", "embed")),
    (r".*mlp\.(up|gate|fc1)\.kernel", ("embed", "mlp")),
    (r".*mlp\.(down|fc2)\.kernel", ("mlp", "embed")),
    (r".*kernel|embedding", ("channels",)),
    (r".*", ()),
)

# TPUs keep matrices in tiles of rows; slices that are no whole tiles they can only gather by summing whole matrices.
TILE = 32

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """In how many parts the devices are divided in each way; one may be -1 and takes all remaining devices.

    Attributes:
      data: copies of everything, each of which takes its part of the batch.
      fsdp: parts of the weights and of the optimizer's state; each also takes its part of the batch.
      seq: parts of a clip's tokens. In training it may be 0: as small as lets the batch divide.
      tensor: parts of the heads and of the hidden channels of each layer.
    """

    data: int = 1
    fsdp: int = -1
    seq: int = 1
    tensor: int = 1


def read_mesh(text: str) -> MeshOptions:
    """``seq=4,tensor=2`` -> sizes of the mesh's axes; fsdp takes the remaining devices."""
    sizes = dataclasses.asdict(MeshOptions())
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in sizes or not size.isdecimal():
            raise UserError(f"--mesh {text}: needed is AXIS=DEVICES,... with the axes {', '.join(sizes)}")
        sizes[axis] = int(size)
    return MeshOptions(**sizes)


def make_mesh(options: MeshOptions, devices: list[Any] | None = None) -> Mesh:
    """The device mesh. Raises UserError when the sizes do not multiply to the number of devices."""
    devices = jax.devices() if devices is None else devices
    sizes = dataclasses.asdict(options)
    free = [axis for axis, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(free) == 1 and known > 0 and len(devices) % known == 0:
        sizes[free[0]] = len(devices) // known
    if len(free) > 1 or min(sizes.values()) < 1 or math.prod(sizes.values()) != len(devices):
        given = ", ".join(f"{axis}={size}" for axis, size in dataclasses.asdict(options).items())
        count = f"{len(devices)} device{'s' * (len(devices) > 1)}"
        raise UserError(f"mesh {given} does not fit {count}: sizes must multiply to {len(devices)}, one may be -1")
    # Tiles as square as they can be have the shortest edges, and sides of 70 cells have halves but no quarters.
    columns = 2 if sizes["seq"] % 4 == 0 else 1
    shape = (sizes["data"], sizes["fsdp"], sizes["seq"] // columns, columns, sizes["tensor"])
    # Auto, not the default Explicit: patchify, resize and convolutions on sharded axes are then the compiler's work.
    return Mesh(_arrange(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _arrange(shape: tuple[int, ...], devices: list[Any]) -> np.ndarray:
    """Devices in the shape of the mesh, neighbours side by side; slices of a TPU job differ along `data`."""
    # Devices of one slice need not know that there are slices; on other platforms the number means machines.
    slices = len({getattr(device, "slice_index", 0) for device in devices}) if devices[0].platform == "tpu" else 1
    if slices == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % slices:
        raise UserError(
            f"mesh.data {shape[0]} is not a multiple of the {slices} slices: between slices only copies fit"
        )
    within, between = (shape[0] // slices, *shape[1:]), (slices, *(1,) * (len(shape) - 1))
    return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)


def data_parallel_size(mesh: Mesh) -> int:
    """In how many parts a batch is split."""
    return math.prod(mesh.shape[axis] for axis in LOGICAL["batch"])


def batch_share(mesh: Mesh) -> tuple[int, int]:
    """(index, count): the devices of this process work on the index-th of `count` equal parts of every batch.

    Processes that share samples, along `rows`, `columns` or `tensor`, have the same part. It need not lie together in
    the batch: devices are arranged by their links, and those of a TPU machine are a square of chips.
    Raises UserError where two processes share some of their samples and not all.
    """
    places = np.arange(data_parallel_size(mesh)).reshape(mesh.devices.shape[:2])
    shares: dict[int, set[int]] = {}
    for index, device in np.ndenumerate(mesh.devices):
        shares.setdefault(device.process_index, set()).add(int(places[index[:2]]))
    distinct = sorted({tuple(sorted(share)) for share in shares.values()})
    if sum(map(len, distinct)) != places.size or len(set(map(len, distinct))) > 1:
        raise UserError(
            f"the {places.size} parts of a batch would be shared by {len(shares)} processes so that some share a few: "
            "choose other mesh.data, mesh.fsdp and mesh.seq"
        )
    return distinct.index(tuple(sorted(shares[jax.process_index()]))), len(distinct)


def shard(x: jax.Array, *axes: str | None) -> jax.Array:
    """Asks for `x` to be split along logical axes under ``jax.set_mesh``; the identity without a mesh.

    Axes that are left out, None, or that the mesh does not divide stay whole.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, partition(x.shape, axes, mesh))


def parts(axis: str) -> int:
    """In how many parts ``jax.set_mesh`` divides a logical axis; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else _parts(axis, mesh)


def shortfall(size: int, axis: str) -> int:
    """What an axis of this size lacks to be divided by the mesh; 0 without one. For callers that can pad."""
    return -size % parts(axis)


def partition(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: Any, tile: int = 1) -> PartitionSpec:
    """Logical names of the leading axes of an array -> how it is split over the mesh, as far as the sizes divide.

    An axis is split over one more mesh axis only if its parts stay multiples of `tile`.
    """
    taken: set[str] = set()

    def mesh_axes(size: int, name: str | None) -> tuple[str, ...] | None:
        chosen: list[str] = []
        for axis in LOGICAL[name] if name else ():
            parts = mesh.shape[axis] * math.prod(mesh.shape[one] for one in chosen)
            whole_tiles = not chosen or size // parts % tile == 0
            if mesh.shape[axis] > 1 and axis not in taken and size % parts == 0 and whole_tiles:
                chosen.append(axis)
        taken.update(chosen)
        return tuple(chosen) or None

    return PartitionSpec(*(mesh_axes(size, name) for size, name in zip(shape, axes, strict=False)))


def fetch(tree: Any) -> Any:
    """NumPy copies of arrays, also of those that are spread over processes; all processes must call it then."""

    def one(x: Any) -> Any:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return multihost_utils.process_allgather(x, tiled=True)
        return x

    return jax.device_get(jax.tree.map(one, tree))


def batch_sharding(mesh: Mesh, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> NamedSharding:
    """Placement of one batch entry, as :attr:`gen3r_jax.training.stage.Entry.axes` names its axes."""
    return NamedSharding(mesh, partition(shape, axes, mesh))


def param_shardings(params: Any, mesh: Mesh) -> Any:
    """A tree of shardings like `params` (arrays or ShapeDtypeStructs), by ``RULES``."""
    leaves, treedef = jax.tree.flatten(params)
    return treedef.unflatten(
        NamedSharding(mesh, _param_spec(name, leaf.shape, mesh))
        for name, leaf in zip(module.flatten(params), leaves, strict=True)
    )


def _param_spec(name: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    axes = next(axes for pattern, axes in RULES if re.fullmatch(pattern, name))
    axes = (None,) * (len(shape) - len(axes)) + axes[max(0, len(axes) - len(shape)) :]
    spec = partition(shape, axes, mesh, TILE)
    whole = [axis for axis, got in zip(axes, spec, strict=True) if axis and not got and _parts(axis, mesh) > 1]
    if whole:
        _log_once(f"{name} {shape} is not split along {', '.join(whole)}: the mesh axes do not divide it")
    return spec


def _parts(axis: str, mesh: Mesh | AbstractMesh) -> int:
    return math.prod(mesh.shape[one] for one in LOGICAL[axis])


@functools.cache
def _log_once(message: str) -> None:
    _log.info(message)
