"""The paper's ablations on the nano model (Gen3R, Tables 3, 4, 5 and 9): trains, judges and compares all variants.

    python -m benchmarks.ablations --weights runs/nano/weights --data runs/nano/data --output DIR \\
        --wan_dit runs/nano/dit-appearance/weights/wan_dit [--share 0.25] [--seeds 0 1 2]

For every seed: the adapter with and without its Kullback-Leibler term, a head that reads colours from VGGT's tokens,
and three transformers: Gen3R, "2-Stage" (colours alone, VGGT reads the geometry) and "w/o KL" (on the latents of the
adapter without that term). All transformers start from --wan_dit, which generates colours alone, as the paper's start
from Wan 2.1. Video VAE, VGGT and the encoders are those of --weights in all of them.

The same command goes on where it was stopped; several may run side by side, each with its own of the --seeds. DIR gets
ablations.md, which is also printed, and ablations.json.
"""

import argparse
import importlib
import os
import shlex
import signal
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
from gen3r_jax.storage.files import read_json, write_json, write_text

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = ("umt5", "clip_vision", "wan_vae", "vggt", "tokenizer", "scheduler.json")
CLIPS, BATCH = 4000, 4
"""Training clips that are encoded for the transformers, as `make nano` does, and at once."""
ROWS = {
    True: ("tasks=('1view','2view','allview')", "baselines=False"),
    False: ("tasks=('1view','2view')", "baselines=False", "autoencoders=False", "vggt=False"),
}
"""What an evaluation asks for beside the generation with cameras: all that needs no transformer, or nothing."""


class Variant(NamedTuple):
    """An adapter by its config in configs/nano, and what of its latents a transformer learns."""

    title: str
    adapter: str
    latents: str


VARIANTS = {
    "joint": Variant("Gen3R", "adapter", "joint"),
    "two_stage": Variant("2-Stage", "adapter", "appearance"),
    "no_kl": Variant("w/o KL", "adapter:no_kl", "joint"),
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
    parser.add_argument("--wan_dit", type=Path, required=True, help="transformer of colours that all start from")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="trainings (default: 0 1 2)")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of the recipes' steps and clips that are trained (default: 1)"
    )
    parser.add_argument("--scenes", type=int, default=64, help="test scenes that are judged (default: 64)")
    arguments = parser.parse_args()
    if not 0 < arguments.share <= 1:
        raise UserError(f"--share {arguments.share}: it must be above 0 and at most 1")
    if arguments.scenes < 1 or min(arguments.seeds) < 0:
        raise UserError("--scenes must be at least 1, --seeds at least 0")
    if missing := [name for name in SHARED if not (arguments.weights / name).exists()]:
        raise UserError(f"{arguments.weights} lacks {', '.join(missing)}; `make nano` trains and draws them")
    if not arguments.wan_dit.is_dir():
        raise UserError(f"{arguments.wan_dit} is no folder; `make nano` trains configs/nano/dit.py:appearance")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ends what runs at the time, too
    output = arguments.output.absolute()
    places = arguments.weights.absolute(), arguments.wan_dit.absolute(), arguments.data.absolute()
    ablations = Ablations(*places, output, arguments.scenes, arguments.share)
    seeds = [ablations.seed(seed) for seed in arguments.seeds]
    text = report(seeds, arguments.scenes, arguments.share)
    write_text(output / "ablations.md", text)
    write_json(output / "ablations.json", seeds)
    print(text, end="")


@dataclass(frozen=True)
class Ablations:
    """The commands of all trainings, in folders below `output`. Paths are absolute.

    Attributes:
      wan_dit: weights that all transformers start from.
      scenes: test scenes that are judged.
      share: of the steps of each recipe and of the clips that are encoded.
    """

    weights: Path
    wan_dit: Path
    data: Path
    output: Path
    scenes: int
    share: float

    def seed(self, seed: int) -> Seed:
        """Trains and judges every variant once."""
        folder = self.output / f"seed{seed}"
        head = self._train("rgb_head", folder, seed, self.weights) / "rgb_head"
        found: Seed = {}
        for name, variant in VARIANTS.items():
            adapter = self._train(variant.adapter, folder, seed, self.weights) / "geometry_adapter"
            trained = {"geometry_adapter": adapter}
            networks = assemble(folder / f"networks-{name}", self.weights, trained)
            latents = folder / f"latents-{variant.adapter.replace(':', '-')}"
            self._encode(latents, networks)
            options = (
                f"--config.model.latents={variant.latents}",
                f"--config.weights.wan_dit={self.wan_dit}",
                f"--config.weights.encoded={latents}",
                "--config.samples.num_inference_steps=0",
            )
            trained["wan_dit"] = self._train("dit", folder / name, seed, networks, *options) / "wan_dit"
            if name == "joint":
                trained["rgb_head"] = head
            assemble(networks, self.weights, trained)
            found[name] = self._evaluate(folder / f"evaluation-{name}", networks, everything=name == "joint")
            if variant.latents == "joint":
                found[name]["latents"] = {"frechet": self._distance(latents)}
        return found

    def _train(self, recipe: str, folder: Path, seed: int, networks: Path, *arguments: str) -> Path:
        """Trains in a folder below `folder`; returns that of the weights."""
        workdir = folder / recipe.replace(":", "-")
        command = [
            *self._config(recipe, networks),
            f"--config.train.seed={seed}",
            f"--config.train.share={self.share}",
            *arguments,
        ]
        self._run("gen3r_jax.train", *command, f"--workdir={workdir}")
        return workdir / "weights"

    def _encode(self, latents: Path, networks: Path) -> None:
        """Of the clips of the validation there are as many as scenes that are judged."""
        clips = BATCH * max(2, round(self.share * CLIPS / BATCH))
        options = [f"--config.validation.clips={self.scenes}", f"--clips={clips}", f"--batch={BATCH}"]
        self._run("gen3r_jax.encode", *self._config("dit:frames", networks), *options, f"--output={latents}")

    def _evaluate(self, output: Path, networks: Path, everything: bool) -> dict[str, dict[str, float]]:
        """Means over the scenes, by row and metric."""
        rows = [f"--config.rows.{row}" for row in ("cameras=(True,)", *ROWS[everything])]
        command = ["--config=configs/eval.py:nano", *rows, f"--config.data.num_scenes={self.scenes}"]
        folders = [f"--weights={networks}", f"--data={self.data}", f"--output={output}"]
        self._run("gen3r_jax.evaluate", *command, *folders)
        found: dict[str, dict[str, float]] = {}
        for entry in read_json(output / "report.json")["rows"]:
            if entry["mean"] is not None:
                found.setdefault(entry["mode"], {})[entry["metric"]] = entry["mean"]
        return found

    def _distance(self, latents: Path) -> float:
        """Of samples of the appearance's and the geometry's latents of the test scenes, cell by cell."""
        train, rng = read_recipe("dit").train, np.random.default_rng(0)
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
        with subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=sys.stderr) as running:
            try:
                status = running.wait()
            except SystemExit:  # as by SIGTERM; Ctrl-C reaches the command itself
                running.terminate()
                raise  # once it has saved what it did
        if status:
            raise UserError(f"{module} ended with status {status}, see above; the same command goes on there")


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


def report(seeds: Sequence[Seed], scenes: int, share: float = 1.0) -> str:
    """All comparisons as a Markdown table. An order holds where every entry is better than the next one."""
    lines = [
        "# Ablations of the nano model",
        "",
        f"Trainings of each variant: {len(seeds)}, with {share:.1%} of the recipes' steps; test scenes: {scenes}. Mean "
        "± standard deviation over trainings. The order is the paper's, best first; it holds if the means have it.",
        "",
        "| paper | measured | its best | its second | its third | holds | in trainings |",
        "|---|---|---|---|---|---|---|",
    ]
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
