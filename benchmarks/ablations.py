"""The paper's ablations on the nano model (Gen3R, Tables 3, 4, 5 and 9): trains, judges and compares all variants.

    python -m benchmarks.ablations --weights runs/nano/weights --data runs/nano/data --output DIR [--seeds 3]

For every seed: the adapter with and without its Kullback-Leibler term, a head that reads colours from VGGT's tokens,
and three transformers: Gen3R, "2-Stage" (colours alone, VGGT reads the geometry) and "w/o KL" (on the latents of the
adapter without that term). Video VAE, VGGT and the encoders are those of --weights in all of them.

The same command goes on where it was stopped. DIR gets ablations.md, which is also printed, and ablations.json.
"""

import argparse
import importlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from gen3r_jax.data.encoded import make_encoded_loader
from gen3r_jax.data.loader import DataOptions
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.evaluation.latents import frechet_distance
from gen3r_jax.evaluation.tables import METRICS

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = ("umt5", "clip_vision", "wan_vae", "vggt", "tokenizer", "scheduler.json")
CLIPS, BATCH = 3008, 4
"""Training clips that are encoded for the transformers, as `make nano` does, and at once."""
ROWS = {
    True: ("tasks=('1view','2view','allview')", "baselines=False"),
    False: ("tasks=('1view','2view')", "baselines=False", "autoencoders=False", "vggt=False"),
}
"""What an evaluation asks for beside the generation with cameras: all that needs no transformer, or nothing."""


class Variant(NamedTuple):
    """A transformer and the adapter whose latents it learns: their configs in configs/nano, with a preset."""

    title: str
    adapter: str
    transformer: str


VARIANTS = {
    "joint": Variant("Gen3R", "adapter", "dit"),
    "two_stage": Variant("2-Stage", "adapter", "dit:appearance"),
    "no_kl": Variant("w/o KL", "adapter:no_kl", "dit"),
}


class Entry(NamedTuple):
    """A number: of which variant's evaluation, which row and metric. title: how the paper calls its method."""

    title: str
    variant: str
    row: str
    metric: str


class Comparison(NamedTuple):
    """What a table of the paper compares; `entries` in its order, the best first."""

    table: str
    entries: tuple[Entry, ...]


Seed = dict[str, dict[str, dict[str, float]]]
"""What a seed gives: values by variant, row and metric."""

COMPARISONS = (
    *(
        Comparison(
            table, tuple(Entry(kind.title, name, f"gen3r/{task}+cameras", metric) for name, kind in VARIANTS.items())
        )
        for table, metric in (("Table 4", "psnr"), ("Table 4", "chamfer"), ("Table 5", "auc_30"))
        for task in ("1view", "2view")
    ),
    Comparison(
        "Table 3",
        (
            Entry("VGGT", "joint", "vggt/allview", "chamfer"),
            Entry("Gen3R (VAE only)", "joint", "vae_only/allview", "chamfer"),
            Entry("WVD (VAE only)", "joint", "wvd_vae_only/allview", "chamfer"),
        ),
    ),
    Comparison(
        "Table 9",
        (
            Entry("Wan RGB VAE", "joint", "vae_only/allview", "psnr"),
            Entry("VGGT + RGB head", "joint", "rgb_head/allview", "psnr"),
        ),
    ),
    Comparison(
        "—",  # no number of the paper, but what its Kullback-Leibler term is for
        tuple(Entry(VARIANTS[name].title, name, "latents", "frechet") for name in ("joint", "no_kl")),
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="folder with what all variants share")
    parser.add_argument("--data", type=Path, required=True, help="shards with depth, train and test")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of every variant (default: 3)")
    parser.add_argument("--steps", type=int, help="cut every training to so many steps, to see whether all of it runs")
    parser.add_argument("--scenes", type=int, default=64, help="test scenes that are judged (default: 64)")
    arguments = parser.parse_args()
    for name in ("seeds", "steps", "scenes"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            raise UserError(f"--{name} {value}: it must be at least 1")
    if missing := [name for name in SHARED if not (arguments.weights / name).exists()]:
        raise UserError(f"{arguments.weights} lacks {', '.join(missing)}; `make nano` trains and draws them")
    output = arguments.output.absolute()
    limits = arguments.scenes, arguments.steps
    ablations = Ablations(arguments.weights.absolute(), arguments.data.absolute(), output, *limits)
    seeds = [ablations.seed(seed) for seed in range(arguments.seeds)]
    text = report(seeds, *limits)
    (output / "ablations.md").write_text(text, encoding="utf-8")
    (output / "ablations.json").write_text(json.dumps(seeds, indent=1))
    print(text, end="")


@dataclass(frozen=True)
class Ablations:
    """The commands of all trainings, in folders below `output`. Paths are absolute; `steps` None trains in full."""

    weights: Path
    data: Path
    output: Path
    scenes: int
    steps: int | None

    def seed(self, seed: int) -> Seed:
        """Trains and judges every variant once."""
        folder = self.output / f"seed{seed}"
        head = self._train("rgb_head", folder, seed, self.weights) / "rgb_head"
        found: Seed = {}
        for name, variant in VARIANTS.items():
            trained = {
                "geometry_adapter": self._train(variant.adapter, folder, seed, self.weights) / "geometry_adapter"
            }
            networks = assemble(folder / f"networks-{name}", self.weights, trained)
            # Latents of appearance alone know no adapter: they are the same for all seeds.
            latents = (self.output if name == "two_stage" else folder) / f"latents-{name}"
            self._encode(variant.transformer, latents, networks)
            encoded = [f"--config.weights.encoded={latents}", "--config.samples.steps=0"]
            trained["wan_dit"] = self._train(variant.transformer, folder / name, seed, networks, *encoded) / "wan_dit"
            if name == "joint":
                trained["rgb_head"] = head
            assemble(networks, self.weights, trained)
            found[name] = self._evaluate(folder / f"evaluation-{name}", networks, everything=name == "joint")
            if name != "two_stage":
                found[name]["latents"] = {"frechet": self._distance(variant.transformer, latents)}
        return found

    def _train(self, recipe: str, folder: Path, seed: int, networks: Path, *arguments: str) -> Path:
        """Trains in a folder below `folder`; returns that of the weights."""
        config, workdir = read_recipe(recipe), folder / recipe.replace(":", "-")
        if self.steps:
            ((frames, _, clips),) = config.train.phases
            warmup = min(config.optim.warmup_steps, self.steps // 2)
            arguments += (
                f"--config.train.phases=(({frames},{self.steps},{clips}),)",
                f"--config.optim.warmup_steps={warmup}",
            )
        command = [*self._config(recipe, networks), f"--config.train.seed={seed}", *arguments]
        self._run("gen3r_jax.train", *command, f"--workdir={workdir}")
        return workdir / "weights"

    def _encode(self, recipe: str, latents: Path, networks: Path) -> None:
        """Of the clips of the validation there are as many as scenes that are judged."""
        clips = CLIPS
        if self.steps:
            clips = min(CLIPS, BATCH * -(-self.steps * read_recipe(recipe).train.batch_size // BATCH))
        none = ["--config.weights.encoded=", f"--config.validation.clips={self.scenes}"]
        command = [*self._config(recipe, networks), *none, f"--clips={clips}", f"--batch={BATCH}"]
        self._run("gen3r_jax.training.encode", *command, f"--output={latents}")

    def _evaluate(self, output: Path, networks: Path, everything: bool) -> dict[str, dict[str, float]]:
        """Means over the scenes, by row and metric."""
        rows = [f"--config.rows.{row}" for row in ("cameras=(True,)", *ROWS[everything])]
        command = ["--config=configs/eval.py:nano", *rows, f"--config.data.num_scenes={self.scenes}"]
        folders = [f"--weights={networks}", f"--data={self.data}", f"--output={output}"]
        self._run("gen3r_jax.evaluate", *command, *folders)
        found: dict[str, dict[str, float]] = {}
        for entry in json.loads((output / "report.json").read_text())["rows"]:
            if entry["mean"] is not None:
                found.setdefault(entry["mode"], {})[entry["metric"]] = entry["mean"]
        return found

    def _distance(self, recipe: str, latents: Path) -> float:
        """Of samples of the appearance's and the geometry's latents of the test scenes, cell by cell."""
        train, rng = read_recipe(recipe).train, np.random.default_rng(0)
        sizes = {"num_frames": train.phases[0][0], "side": train.side, "batch_size": self.scenes}
        batch = next(make_encoded_loader(latents, DataOptions(), split="test", seed=0, **sizes))

        def sample(name: str) -> np.ndarray:
            mean = batch[f"{name}_mean"]
            drawn = mean + np.exp(batch[f"{name}_logvar"] / 2) * rng.standard_normal(mean.shape)
            return drawn.reshape(-1, mean.shape[-1])

        return frechet_distance(sample("appearance"), sample("geometry"))

    def _config(self, recipe: str, networks: Path) -> list[str]:
        name, colon, preset = recipe.partition(":")
        return [
            f"--config=configs/nano/{name}.py{colon}{preset}",
            f"--config.data.source={self.data}",
            f"--config.weights.dir={networks}",
        ]

    def _run(self, module: str, *arguments: str) -> None:
        """Each command does nothing that it has done before. Programs that it compiles are kept for the others."""
        command = [sys.executable, "-m", module, *arguments]
        print("$", shlex.join(command), file=sys.stderr, flush=True)
        environment = {"JAX_COMPILATION_CACHE_DIR": str(self.output / "compiled"), **os.environ}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=sys.stderr)
        if done.returncode:
            raise UserError(f"{module} ended with status {done.returncode}, see above; the same command goes on there")


def read_recipe(recipe: str) -> ConfigDict:
    name, _, preset = recipe.partition(":")
    return importlib.import_module(f"configs.nano.{name}").get_config(preset)


def assemble(folder: Path, shared: Path, others: dict[str, Path]) -> Path:
    """A folder of weights made of links: to what is `SHARED`, and to `others` by their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, place in ({name: shared / name for name in SHARED} | others).items():
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(place)
    return folder


def report(seeds: Sequence[Seed], scenes: int, steps: int | None = None) -> str:
    """All comparisons as a Markdown table. An order holds where every entry is better than the next one."""
    lines = [
        "# Ablations of the nano model",
        "",
        f"Trainings of each variant: {len(seeds)}; test scenes: {scenes}. Mean ± standard deviation over trainings. "
        "The order is the paper's, best first; it holds if the means have it.",
        "",
        "| paper | measured | its best | its second | its third | holds | in trainings |",
        "|---|---|---|---|---|---|---|",
    ]
    if steps:
        lines.insert(3, f"Every training was cut to {steps} steps: the numbers mean nothing.")
    for comparison in COMPARISONS:
        lines.append("| " + " | ".join(compare(comparison, seeds)) + " |")
    return "\n".join(lines) + "\n"


def compare(comparison: Comparison, seeds: Sequence[Seed]) -> list[str]:
    """The cells of a comparison's line."""
    first = comparison.entries[0]
    task = first.row.partition("/")[2]
    if first.metric == "frechet":
        measured, digits, sign = "distance of A and G (Fréchet, squared) ↓", 3, -1
    else:
        title, better, digits = METRICS[first.metric]
        measured, sign = f"{title} {better}, {task}", 1 if better == "↑" else -1
    values = np.array(
        [[seed.get(e.variant, {}).get(e.row, {}).get(e.metric, np.nan) for e in comparison.entries] for seed in seeds]
    )  # [seeds entries]
    cells = []
    for entry, column in zip(comparison.entries, values.T, strict=True):
        spread = f" ± {column.std(ddof=1):.{digits}f}" if len(column) > 1 else ""
        number = f"{column.mean():.{digits}f}{spread}" if np.isfinite(column).all() else "n/a"
        cells.append(f"{entry.title} {number}")
    cells += [""] * (3 - len(cells))
    if not np.isfinite(values).all():
        return [comparison.table, measured, *cells, "n/a", ""]
    ordered = (sign * np.diff(values, axis=1) < 0).all(axis=1)
    holds = bool((sign * np.diff(values.mean(axis=0)) < 0).all())
    return [comparison.table, measured, *cells, "yes" if holds else "no", f"{ordered.sum()} of {len(seeds)}"]


if __name__ == "__main__":
    main_guard(main)
