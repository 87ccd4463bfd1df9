"""Weights and training states."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file

from conversion.torch_files import open_checkpoint
from gen3r_jax import info, module, verify
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
    save_file(tensors, folder / "a.safetensors")


def _open_official(folder: Path) -> Any:
    found = open_checkpoint(folder / "a.safetensors").tensors
    return {name: np.asarray(tensor) for name, tensor in found.items()}


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
        _write_official, _open_official, truth=lambda folder: load_file(folder / "a.safetensors"), share=4
    ),
    "info of weights": Door(
        lambda folder: save_network(folder / "net", _net()), lambda folder: info.describe(folder / "net"), "net/**/*"
    ),
    "verify of weights": Door(
        lambda folder: save_network(folder / "net", _net()),
        lambda folder: [int(verify.main([str(folder / "net")]) in (0, 1))],
        "net/**/*",
    ),
}
