"""Changes of the transformer's weights that are handed around in small files (LoRA): read, merged and written.

A file names official layers and holds for each two factors of small rank, ``W + scale * B @ A``, or the change of a
parameter itself. Trainers name the same things in their own ways; :func:`read_lora` knows those of PEFT, diffusers,
ComfyUI, kohya's scripts and lightx2v, and what earlier versions of this project wrote.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Float
from safetensors.numpy import save_file

from conversion.rules import Shape, Slot, Tensor, official_slots, some
from conversion.safetensors_files import open_safetensors
from conversion.tables.wan_dit import TABLE
from gen3r_jax import module
from gen3r_jax.errors import UserError, notice
from gen3r_jax.module import Params
from gen3r_jax.storage.files import parse_json, read_json, replacing, write_json

# What may stand before a layer's name, ...
_PREFIXES = re.compile(r"((base_model|model|diffusion_model|transformer|module|pipe|dit|unet)\.)*(lora_unet_)?")
# ... and what behind it; PEFT may put the name of its adapter in between.
_PARTS = re.compile(
    r"(?P<layer>.+)\.(?:(?P<down>(?:lora_A|lora_down)(?:\.\w+)?\.weight)|(?P<up>(?:lora_B|lora_up)(?:\.\w+)?\.weight)|"
    r"(?P<alpha>alpha)|(?P<weight>diff)|(?P<bias>diff_b)|(?P<modulation>diff_m))"
)
# Parts of changes that are more than two factors.
_OTHERS = re.compile(r"\.(dora_scale|lora_magnitude_vector|lora_mid|lokr_w1|hada_w1_a|oft_diag)\b")
# The end of an official name, and what diffusers writes in its place.
_DIFFUSERS = (
    (r"self_attn\.(q|k|v)", r"attn1.to_\1"),
    (r"self_attn\.o", "attn1.to_out.0"),
    (r"cross_attn\.(q|k|v)", r"attn2.to_\1"),
    (r"cross_attn\.(k|v)_img", r"attn2.add_\1_proj"),
    (r"cross_attn\.o", "attn2.to_out.0"),
    (r"ffn\.0", "ffn.net.0.proj"),
    (r"ffn\.2", "ffn.net.2"),
    (r"(text|time)_embedding\.0", r"condition_embedder.\1_embedder.linear_1"),
    (r"(text|time)_embedding\.2", r"condition_embedder.\1_embedder.linear_2"),
    (r"time_projection\.1", "condition_embedder.time_proj"),
    (r"img_emb\.proj\.1", "condition_embedder.image_embedder.ff.net.0.proj"),
    (r"img_emb\.proj\.3", "condition_embedder.image_embedder.ff.net.2"),
    (r"head\.head", "proj_out"),
)
COMFYUI_FILE = "lora.safetensors"
PEFT_FOLDER, PEFT_FILE, PEFT_CONFIG = "lora", "adapter_model.safetensors", "adapter_config.json"
FILES = (PEFT_FILE, "pytorch_lora_weights.safetensors")
LARGEST_FACTOR = 1e6
"""A larger scale or alpha is a mistake, and products with it leave what float32 can hold."""


@dataclass(frozen=True)
class Change:
    """The change of a parameter, in our layout and in float32: ``scale * down @ up``, or without `up` `down` alone.

    row: the row of a stacked parameter that it belongs to; None: it is for all of the parameter.
    """

    row: int | None
    scale: float
    down: Float[np.ndarray, "..."]
    up: Float[np.ndarray, "*l r o"] | None = None

    def array(self) -> Float[np.ndarray, "..."]:
        return np.float32(self.scale) * (self.down if self.up is None else np.matmul(self.down, self.up))


Changes = Mapping[str, Sequence[Change]]
"""Changes of parameters, by their dotted paths."""


def split_scale(text: str) -> tuple[Path, float]:
    """``FILE[:SCALE]`` -> the file and its scale, which is 1 where none is said."""
    name, _, scale = text.rpartition(":")
    try:
        return (Path(text), 1.0) if not name or Path(text).exists() else (Path(name), float(scale))
    except ValueError:
        return Path(text), 1.0


def read_lora(path: Path, shapes: Params, scale: float = 1.0) -> Changes:
    """Reads a safetensors file, or a folder of PEFT or diffusers that holds one.

    What belongs to no layer of the transformer is left out, and a line on standard error names all of it.

    Args:
      shapes: the transformer's parameters, or their shapes.
      scale: a factor of all changes.

    Raises:
      UserError: nothing in the file belongs to the transformer, sizes are others than those of its layers, or a
        factor is no number.
    """
    scale = _number(scale, f"the scale of {path}")
    file = _find(path)
    tensors, metadata = open_safetensors(file)
    if not tensors:
        raise UserError(f"{file} holds no tensors")
    leaves = module.flatten(shapes)
    if own := _own_changes(tensors, leaves):
        scale *= _number(metadata.get("scale", 1), f"{file}: the scale in its header")
        return {path: [Change(None, scale, *factors)] for path, factors in own.items()}
    slots, settings = official_slots(TABLE, leaves), _settings(file, metadata, tensors)
    layers, changes = dict(_aliases(slots)), {}
    unmatched, misfits = set(tensors), []
    for layer, group in _groups(tensors).items():
        for target, parts in _targets(layers.get(layer, layer), group):
            if target not in slots:
                continue
            slot, names = slots[target], [group[part] for part in parts]
            down, *up = (tensors[name] for name in names)
            shape = slot.source_shape(leaves)
            unmatched -= {*names, *([group["alpha"]] if up and "alpha" in group else [])}
            if not _fit(shape, down, *up):
                misfits += [f"{name} {list(tensors[name].shape)} for {list(shape)}" for name in names]
                continue
            for name in names:
                if not np.isfinite(np.asarray(tensors[name], np.float32)).all():
                    raise UserError(f"{file} is damaged: {name} holds numbers that are not finite")
            factor = _scale(layer, down.shape[0], group, tensors, settings) if up else 1
            changes.setdefault(slot.path, []).append(_change(slot, scale * factor, down, *up))
    if misfits:
        raise UserError(f"{file} was made for another transformer: {len(misfits)} misshapen: {some(misfits, 200)}")
    if not changes:
        raise UserError(f"{file} changes no layer of the transformer; it holds {some(sorted(tensors))}")
    if unmatched:
        notice(f"{file}: the transformer has no {', '.join(_together(sorted(unmatched)))}; they are left out")
    return changes


def merge(params: Params, files: Iterable[Changes], dtype: Any) -> Params:
    """Adds the changes of files to float32 parameters; the sums are then cast to `dtype`, and so are the others."""
    files = list(files)

    def sum_up(name: str, kernel: jax.Array) -> jax.Array:
        changes = [change for file in files for change in file.get(name, ())]
        if not changes:
            return kernel.astype(dtype)
        delta = np.zeros(kernel.shape, np.float32)
        for change in changes:
            delta[... if change.row is None else change.row] += change.array()
        module.require_finite(f"the change of {name} is", delta)
        return (kernel + jax.device_put(delta, kernel.sharding)).astype(dtype)

    leaves = module.flatten(params)
    return module.nest({name: sum_up(name, leaf) for name, leaf in leaves.items()})


def write_lora(directory: Path, factors: Params, scale: float) -> None:
    """Writes factors for others to read: ``lora.safetensors`` for ComfyUI, and the files of PEFT.

    Args:
      factors: kernel's path -> ``down`` [l i r] and ``up`` [l r o], all of one rank; what is added is ``scale`` times
        their product.
    """
    kernels = {
        path: jax.ShapeDtypeStruct((*pair["down"].shape[:-1], pair["up"].shape[-1]), np.float32)
        for path, pair in factors.items()
    }
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name, slot in official_slots(TABLE, kernels).items():
        row = ... if slot.row is None else slot.row
        down, up = (np.asarray(factors[slot.path][part], np.float32)[row] for part in ("down", "up"))
        a = slot.op.inverse(down)
        pairs[name.removesuffix(".weight")] = a, up.T.reshape(*up.T.shape, *(1,) * (a.ndim - 2))
    rank = next(len(a) for a, _ in pairs.values())
    alpha = np.asarray(scale * rank)  # in float64, which gives the scale back
    peft, comfyui = {}, {}
    for layer, (a, b) in pairs.items():
        peft |= {f"base_model.model.{layer}.lora_A.weight": a, f"base_model.model.{layer}.lora_B.weight": b}
        names = (f"diffusion_model.{layer}.{part}" for part in ("lora_down.weight", "lora_up.weight", "alpha"))
        comfyui |= zip(names, (a, b, alpha), strict=True)
    for file, tensors in ((directory / COMFYUI_FILE, comfyui), (directory / PEFT_FOLDER / PEFT_FILE, peft)):
        with replacing(file) as temporary:
            save_file({name: np.array(tensor, order="C") for name, tensor in tensors.items()}, temporary)
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": float(alpha),
        "target_modules": sorted(pairs),
        "bias": "none",
    }
    write_json(directory / PEFT_FOLDER / PEFT_CONFIG, config)


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    files = sorted(path.glob("*.safetensors"))
    files = [path / name for name in FILES if path / name in files] or files
    if len(files) != 1:
        raise UserError(f"{path} holds {len(files)} safetensors files; name the one that is a LoRA")
    return files[0]


def _number(value: Any, what: str) -> float:
    """A factor that numbers of float32 may be multiplied by. Raises UserError for anything else."""
    try:
        number = np.asarray(value, np.float64).item()
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not abs(number) <= LARGEST_FACTOR:
        raise UserError(
            f"{what} is {str(value)[:40]}; needed is a number from {-LARGEST_FACTOR:g} to {LARGEST_FACTOR:g}"
        )
    return number


def _own_changes(
    tensors: Mapping[str, Tensor], leaves: Mapping[str, Any]
) -> dict[str, tuple[Float[np.ndarray, "..."], Float[np.ndarray, "*l r o"]]]:
    """Factors of a file as earlier versions wrote it: ``PATH.down`` [l i r] and ``PATH.up`` [l r o] of every kernel."""
    pairs = {name.removesuffix(".down"): name for name in tensors if name.endswith(".kernel.down")}
    ours = {part for path in pairs if path in leaves for part in (f"{path}.down", f"{path}.up")}
    if not tensors or ours != set(tensors):
        return {}
    factors = {}
    for path in pairs:
        down, up = (np.asarray(tensors[f"{path}.{part}"], np.float32) for part in ("down", "up"))
        if (*down.shape[:-1], up.shape[-1]) != leaves[path].shape:
            raise UserError(f"{path}: factors {list(down.shape)} and {list(up.shape)} for {list(leaves[path].shape)}")
        factors[path] = down, up
    return factors


def _groups(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """Layer, as a file names it -> part -> name in the file."""
    groups: dict[str, dict[str, str]] = {}
    for name in names:
        if (found := _PARTS.fullmatch(name)) and found.lastgroup:
            groups.setdefault(_PREFIXES.sub("", found["layer"], count=1), {})[found.lastgroup] = name
    return groups


def _aliases(slots: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Names of layers in files, and the official ones."""
    for layer in {name.rpartition(".")[0] for name in slots}:
        names = {layer, *(re.sub(rf"{ours}$", theirs, layer) for ours, theirs in _DIFFUSERS)}
        for name in names:
            yield name, layer
            yield name.replace(".", "_"), layer


def _targets(layer: str, group: Mapping[str, str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Official tensors that the parts of a layer in a file change, and the parts that each takes."""
    if {"down", "up"} <= group.keys():
        yield f"{layer}.weight", ("down", "up")
    for part in {"weight", "bias", "modulation"} & group.keys():
        yield f"{layer}.{part}", (part,)


def _fit(shape: Shape, down: Tensor, up: Tensor | None = None) -> bool:
    if up is None:
        return down.shape == shape
    rank = down.shape[0] if down.shape else 0
    return rank > 0 and down.shape[1:] == shape[1:] and up.shape == (shape[0], rank, *(1,) * (len(shape) - 2))


def _change(slot: Slot, scale: float, down: Tensor, up: Tensor | None = None) -> Change:
    """Brings factors to our layout: a kernel's change of layout keeps its outputs apart, so it is that of A, too."""
    first = slot.op.forward(np.asarray(down, np.float32))
    if up is None:
        return Change(slot.row, scale, first)
    return Change(slot.row, scale, first, np.asarray(up, np.float32).reshape(up.shape[:2]).T)


def _settings(file: Path, metadata: Mapping[str, str], names: Iterable[str]) -> dict[str, Any]:
    """Read the settings that PEFT keeps beside a file, and diffusers in its header.

    Raises UserError if the file is no plain LoRA.
    """
    settings: dict[str, Any] = {}
    if file.name == PEFT_FILE and (config := file.with_name(PEFT_CONFIG)).exists():
        settings = read_json(config)
    elif "lora_adapter_metadata" in metadata:
        stored = parse_json(metadata["lora_adapter_metadata"], f"lora_adapter_metadata of {file}")
        settings = {key.removeprefix("transformer."): value for key, value in stored.items()}
    other = next((name for name in names if _OTHERS.search(name)), "")
    if settings.get("peft_type", "LORA") != "LORA" or settings.get("use_dora") or other:
        raise UserError(
            f"{file} is no plain LoRA but DoRA or another kind ({other or PEFT_CONFIG}); merge it with the program "
            "that made it, then convert the whole transformer"
        )
    return settings


def _scale(
    layer: str, rank: int, group: Mapping[str, str], tensors: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> float:
    """Return the factor of the product of a layer's factors: ``alpha / rank``, or 1 where no alpha is said."""
    if "alpha" in group:
        return _number(tensors[group["alpha"]], f"alpha of {layer}") / rank
    alphas = settings.get("alpha_pattern") or {}
    try:
        found = [alpha for pattern, alpha in alphas.items() if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", layer)]
    except (re.error, AttributeError):
        told = str(alphas)[:100]
        raise UserError(f"alpha_pattern is {told}; needed are patterns of layers, with a number each") from None
    alpha = _number(found[0] if found else settings.get("lora_alpha", rank), f"alpha of {layer}")
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _together(names: Iterable[str]) -> list[str]:
    """All names; those that differ in the number of a block alone as one: ``blocks.{0,1}.norm.diff``."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name in names:
        number = re.search(r"(?<=blocks[._])\d+", name)
        begin, end = number.span() if number else (len(name), len(name))
        groups.setdefault((name[:begin], name[end:]), []).append(name[begin:end])
    return [
        f"{before}{{{','.join(sorted(numbers, key=int))}}}{after}" if len(numbers) > 1 else before + numbers[0] + after
        for (before, after), numbers in groups.items()
    ]
