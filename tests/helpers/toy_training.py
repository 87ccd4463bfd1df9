"""A stage small enough to train in a second, with every feature the loop has to serve. Also a command:

python -m tests.helpers.toy_training WORKDIR [--kill_after=N] [--wait_after=N] [--mingled=1] [--GROUP.KEY=VALUE ...]
"""

import ast
import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from typing import ClassVar

import grain
import jax
import jax.numpy as jnp
import numpy as np

from gen3r_jax import sharding
from gen3r_jax.errors import main_guard
from gen3r_jax.options import read_options
from gen3r_jax.sharding import MeshOptions, fetch, shard
from gen3r_jax.storage.checkpoint import save_weights
from gen3r_jax.storage.train_checkpoints import go_back
from gen3r_jax.training.distributed import initialize, wait_for_all
from gen3r_jax.training.loop import train
from gen3r_jax.training.options import LoopOptions
from gen3r_jax.training.stage import Encoder, Entry, Stage
from gen3r_jax.training.workdir import claim_workdir

MODULE = "tests.helpers.toy_training"
WIDTH, HIDDEN = 8, 64


def run_encoders(stage, frozen, batch, keys):
    """What the loss reads, from a batch; for use inside one jitted function."""
    entries = dict(batch)
    for encoder in stage.encoders:
        entries |= encoder.function(frozen, {name: entries[name] for name in encoder.reads}, keys)
    return {name: entries[name] for name in stage.loss_reads}


@dataclasses.dataclass(frozen=True)
class ToyStage(Stage):
    """Learns a frozen linear map with a residual MLP, from noisy inputs."""

    entries: ClassVar = {"x": Entry(f"t {WIDTH}", np.float32, ("batch", "frames"))}
    encoders: ClassVar = (
        Encoder(
            "teacher",
            lambda frozen, batch, keys: {"wanted": batch["x"] @ frozen["teacher"]["kernel"]},
            reads=("x",),
            writes={"wanted": ("batch", "frames", None)},
        ),
    )
    loss_reads: ClassVar = ("x", "wanted")
    noise: float = 0.1
    nan_at: int = -1  # the sample with this number (over 64) gives a loss that is not a number

    def init(self, key):
        up, down = jax.random.split(key)
        return {
            "mlp": {
                "up": {"kernel": jax.random.uniform(up, (WIDTH, HIDDEN)) - 0.5},
                "down": {"kernel": 0.3 * jax.random.uniform(down, (HIDDEN, WIDTH)) - 0.15},
            }
        }

    def load_frozen(self):
        return {"teacher": {"kernel": np.linspace(-1, 1, WIDTH * WIDTH, dtype=np.float32).reshape(WIDTH, WIDTH)}}

    def loss(self, trainable, frozen, batch, keys):
        x = batch["x"]
        number = x[:, 0, 0]
        bits = jax.vmap(lambda key: jax.random.key_data(key)[0] >> 16)(keys)  # cheaper to compile than a distribution
        x = x + self.noise * (bits / 2**16)[:, None, None]
        x = shard(x, "batch", "frames", None).astype(trainable["mlp"]["up"]["kernel"].dtype)
        hidden = jax.nn.relu(x @ trainable["mlp"]["up"]["kernel"])
        got = hidden @ trainable["mlp"]["down"]["kernel"]
        loss = jnp.mean(jnp.square(got.astype(jnp.float32) - batch["wanted"]))
        loss = loss + jnp.where(jnp.any(number == self.nan_at / 64), jnp.nan, 0.0)
        return loss, {"loss/square": loss, "data/number": number.mean()}

    def validate(self, trainable, frozen, batch, directory, step):
        keys = jax.random.split(jax.random.key(0), len(batch["x"]))
        loss, _ = self.loss(trainable, frozen, run_encoders(self, frozen, batch, keys), keys)
        if jax.process_index() == 0:
            (directory / "picture.txt").write_text(f"step {step}")
        return {"loss": loss}

    def export(self, trainable, directory):
        save_weights(directory / "network", ToyStage, MeshOptions(), trainable)
        trainable = fetch(trainable)
        if jax.process_index() > 0:
            return
        directory.mkdir(exist_ok=True)
        np.save(directory / "up.npy", trainable["mlp"]["up"]["kernel"])


def toy_loader(*, batch_size, num_frames, seed, process_index=0, process_count=1, split="train"):
    """Sample i starts with the number i / 64, so a batch shows which samples it holds."""

    def sample(i):
        x = np.random.default_rng(i).normal(size=(num_frames, WIDTH)).astype(np.float32)
        x[0, 0] = i / 64
        x[0, 1:] = i % 7 / 7
        return {"x": x, "sample_id": f"sample{i}", "num_replaced": np.int32(i % 2)}

    data = grain.MapDataset.range(64).seed(seed).shuffle().repeat()[process_index::process_count].map(sample)
    return iter(data.batch(batch_size).to_iter_dataset())


def watched(before):
    """toy_loader that calls ``before(batches given so far)`` each time a batch of training data is asked for."""

    def loader(**wanted):
        batches = toy_loader(**wanted)
        return _Watched(batches, before) if wanted["split"] == "train" else batches

    return loader


class _Watched(grain.DatasetIterator):
    def __init__(self, parent, before):
        super().__init__(parent)
        self._before, self._count = before, 0

    def __next__(self):
        self._before(self._count)
        self._count += 1
        return next(self._parent)

    def get_state(self):
        return self._parent.get_state()

    def set_state(self, state):
        self._parent.set_state(state)


CONFIG = {
    "train": {
        "seed": 3,
        "batch_size": 8,
        "side": 8,
        "phases": ((5, 6, 4),),
        "dtype": "float32",
        "compile_cache": "",
        "profile": (),
    },
    "optim": {
        "learning_rate": 1e-2,
        "final_fraction": 0.2,
        "warmup_steps": 0,
        "beta1": 0.9,
        "beta2": 0.999,
        "eps": 1e-8,
        "weight_decay": 1e-4,
        "clip_norm": 0.5,
        "clip_start": 2.0,
        "clip_decay": 0.1,
        "ema_decay": 0.9,
    },
    "mesh": {"data": 1, "fsdp": 1, "seq": 1, "tensor": -1},
    "validation": {"every": 100, "clips": 2},
    "checkpoint": {"every": 3, "keep": 2, "keep_every": 0},
}


def toy_config(**changes) -> dict:
    """CONFIG with changes such as ``train__batch_size=4``."""
    config = {group: dict(values) for group, values in CONFIG.items()}
    for name, value in changes.items():
        group, key = name.split("__")
        config[group][key] = value
    return config


def run(workdir: Path, stage: ToyStage | None = None, loader=toy_loader, restore=None, **changes) -> None:
    config = toy_config(**changes)
    if jax.process_index() == 0:
        claim_workdir(workdir, config)
        if restore is not None:
            go_back(workdir / "checkpoints", restore)
    wait_for_all("workdir")
    train(stage or ToyStage(), loader, read_options(LoopOptions, config), workdir, config)


def main() -> None:
    initialize()
    workdir, *arguments = sys.argv[1:]
    changes = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    die, wait = int(changes.pop("kill_after", -1)), int(changes.pop("wait_after", -1))
    if changes.pop("mingled", None):  # devices of the processes in turn, as those of TPU machines may stand in a mesh
        sharding._arrange = lambda shape, devices: np.reshape(devices, (jax.process_count(), -1)).T.reshape(shape)
    waiting = Path(workdir) / "waiting"
    changes = {name.replace(".", "__"): ast.literal_eval(value) for name, value in changes.items()}

    def before(count):
        if count == die:
            while not (Path(workdir) / "checkpoints" / "3").exists():  # written in the background
                time.sleep(0.01)
            if jax.process_index() == jax.process_count() - 1:
                os.kill(os.getpid(), signal.SIGKILL)  # as the out-of-memory killer does: no handler runs
        if count == wait and jax.process_index() == 0:
            waiting.touch()
            while waiting.exists():
                time.sleep(0.01)

    run(Path(workdir), loader=watched(before), **changes)


if __name__ == "__main__":
    main_guard(main)
