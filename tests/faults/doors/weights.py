"""Weights and training states."""

import json
import struct
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from conversion import lora
from conversion.rules import official_slots
from conversion.tables.wan_dit import TABLE
from conversion.torch_files import open_checkpoint
from gen3r_jax import info, module, verify
from gen3r_jax.models.wan_dit import WanDiT, WanDiTConfig
from gen3r_jax.storage.checkpoint import load_network, save_compact, save_network
from gen3r_jax.storage.train_checkpoints import TrainCheckpoints
from tests.faults.doors.door import Door, numbers
from tests.storage.test_checkpoint import Net, NetConfig, _abstract, _numbers, _state


def _net() -> Net:
    return Net(NetConfig(label="a"), rngs=nnx.Rngs(0))


def _load_net(folder: Path) -> Any:
    return module.flatten(load_network(folder / "net", Net)[1])


def _write_states(folder: Path) -> None:
    with TrainCheckpoints(folder / "checkpoints", keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, _state(1), _numbers(), {})


def _restore(folder: Path) -> Any:
    data = _numbers()
    state = TrainCheckpoints(folder / "checkpoints", keep=2).restore(2, _abstract(_state(1)), data)
    return {**module.flatten(state), "position": json.dumps(data.get_state())}


def _write_official(folder: Path) -> None:
    rng = numbers()
    tensors = {f"blocks.{i}.weight": rng.standard_normal((4, 3), np.float32) for i in range(3)}
    save_file(tensors, folder / "a.safetensors", {"format": "pt"})


def _open_official(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        return {name: np.asarray(tensor) for name, tensor in open_checkpoint(folder / name).tensors.items()}

    return read


def _write_pickle(folder: Path) -> None:
    import torch  # pyright: ignore[reportMissingImports]: only the extra `convert` has it

    rng = numbers()
    tensors = {f"blocks.{i}.weight": torch.from_numpy(rng.standard_normal((4, 3), np.float32)) for i in range(3)}
    torch.save({"state_dict": tensors, "step": 7}, folder / "a.pth")


def _pickle_truth(folder: Path) -> Any:
    import torch  # pyright: ignore[reportMissingImports]: only the extra `convert` has it

    content = torch.load(folder / "a.pth", weights_only=True)
    return {name: tensor.numpy() for name, tensor in content.get("state_dict", content).items()}


LORA_SHAPES = module.abstract(lambda rngs: WanDiT(WanDiTConfig.tiny(), rngs=rngs))[1]
LORA_SLOTS = official_slots(TABLE, module.flatten(LORA_SHAPES))
LORA_LAYERS = ("text_embedding.0", "blocks.1.self_attn.q")


def _factors() -> dict[str, np.ndarray]:
    rng, leaves, factors = numbers(), module.flatten(LORA_SHAPES), {}
    for layer in LORA_LAYERS:
        outputs, inputs = LORA_SLOTS[f"{layer}.weight"].source_shape(leaves)
        factors[f"{layer}.lora_A.weight"] = rng.standard_normal((3, inputs), np.float32)
        factors[f"{layer}.lora_B.weight"] = rng.standard_normal((outputs, 3), np.float32)
    return factors


def _write_peft(folder: Path) -> None:
    save_file({f"base_model.model.{name}": x for name, x in _factors().items()}, folder / lora.PEFT_FILE)
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 6.0, "use_dora": False, "use_rslora": False}
    settings |= {"alpha_pattern": {"text_embedding.0": 1.5}, "target_modules": list(LORA_LAYERS)}
    (folder / lora.PEFT_CONFIG).write_text(json.dumps(settings))


def _peft_truth(folder: Path) -> Any:
    config = folder / lora.PEFT_CONFIG
    settings = {"lora_alpha": 3} | (json.loads(config.read_text("utf-8-sig")) if config.exists() else {})
    tensors, found = load_file(folder / lora.PEFT_FILE), {}
    for layer in LORA_LAYERS:
        alpha = (settings.get("alpha_pattern") or {}).get(layer, settings["lora_alpha"])
        down, up = (tensors.get(f"base_model.model.{layer}.lora_{part}.weight") for part in "AB")
        if down is not None and up is not None:  # a factor alone is told, and left out
            found[layer] = float(alpha) / (np.sqrt(3) if settings.get("use_rslora") else 3) * (up @ down)
    return found


def _read_lora(path: str) -> Callable[[Path], Any]:
    """What is added to each official layer's weight."""
    slots = {layer: LORA_SLOTS[f"{layer}.weight"] for layer in LORA_LAYERS}
    leaves = module.flatten(LORA_SHAPES)
    zeros = module.nest({slot.path: jnp.zeros(leaves[slot.path].shape) for slot in slots.values()})

    def read(folder: Path) -> Any:
        merged = module.flatten(lora.merge(zeros, [lora.read_lora(folder / path, LORA_SHAPES)], np.float32))
        arrays = {layer: np.asarray(merged[slot.path]) for layer, slot in slots.items()}
        return {x: slot.op.inverse(arrays[x] if slot.row is None else arrays[x][slot.row]) for x, slot in slots.items()}

    return read


def _write_header(folder: Path) -> None:
    """What diffusers keeps in a file's header, on its own, so that it can be changed."""
    settings = {"transformer.r": 3, "transformer.lora_alpha": 6.0, "transformer.peft_type": "LORA"}
    (folder / "header.json").write_text(json.dumps({"lora_adapter_metadata": settings, "scale": 1.0}))


def _read_header(folder: Path) -> Any:
    metadata = {key: json.dumps(value) for key, value in json.loads((folder / "header.json").read_text()).items()}
    file = folder / "with_header.safetensors"
    save_file({f"transformer.{name}": x for name, x in _factors().items()}, file, metadata)
    try:
        return _read_lora(file.name)(folder)
    finally:
        file.unlink()


def _write_metadata(folder: Path) -> None:
    """The header of a safetensors file, on its own."""
    _write_official(folder)
    content = (folder / "a.safetensors").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    (folder / "header.json").write_bytes(content[8 : 8 + length])
    (folder / "a.safetensors").rename(folder / "numbers")


def _read_metadata(folder: Path) -> Any:
    content = (folder / "numbers").read_bytes()
    (length,) = struct.unpack_from("<Q", content)
    header = (folder / "header.json").read_bytes()
    (folder / "a.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + content[8 + length :])
    return _open_official("a.safetensors")(folder)


PICKLE = Door(_write_pickle, _open_official("a.pth"), truth=_pickle_truth, share=4)
"""Only the extra ``convert`` has torch."""
WEIGHTS = {
    "weights folder": Door(lambda folder: save_network(folder / "net", _net()), _load_net, "net/**/*", sealed=True),
    "params.safetensors": Door(
        lambda folder: save_compact(folder / "net", Net, _net().config, module.split(_net())[1]),
        _load_net,
        "net/**/*",
        sealed=True,
    ),
    "checkpoint of a training": Door(_write_states, _restore, "checkpoints/2/**/*", sealed=True),
    "official safetensors": Door(
        _write_official,
        _open_official("a.safetensors"),
        truth=lambda folder: load_file(folder / "a.safetensors"),
        share=4,
    ),
    "info of weights": Door(
        lambda folder: save_network(folder / "net", _net()), lambda folder: info.describe(folder / "net"), "net/**/*"
    ),
    "verify of weights": Door(
        lambda folder: save_network(folder / "net", _net()),
        lambda folder: [int(verify.main([str(folder / "net")]) in (0, 1))],
        "net/**/*",
    ),
    "header of official safetensors": Door(_write_metadata, _read_metadata, "header.json", odd=True, share=3),
    "LoRA of PEFT": Door(_write_peft, _read_lora("."), truth=_peft_truth, share=4),
    "settings of a LoRA's header": Door(_write_header, _read_header, odd=True),
    **({"official pickle": PICKLE} if find_spec("torch") else {}),
}
