"""Where a run's numbers go: progress, ``metrics.jsonl``, TensorBoard, ``loss.png``."""

import json
from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from tensorboardX import SummaryWriter

from gen3r_jax.progress import Progress
from gen3r_jax.storage.files import read_json_lines, replacing, write_text, writing


class MetricsWriter:
    """Writes the metrics of a run whose first `start` of `total` steps are done; a context manager.

    ``metrics.jsonl`` has one JSON object a line, ``{"step": n, name: value, ...}``, where n counts finished updates.
    Lines past `start`, left by a run that died after its last checkpoint, are removed, and so are damaged ones and,
    where a run begins again, those of step 0: every step appears once.
    Only the first process of a job writes (`enabled`).
    """

    def __init__(self, workdir: Path, start: int, total: int, enabled: bool = True):
        self._path = workdir / "metrics.jsonl"
        self._plot_path = workdir / "loss.png"
        self._enabled = enabled
        self._progress = Progress("training", total, "step", done=start, quiet=not enabled)
        if enabled:
            kept = [json.dumps(line) for line in read_metrics(self._path) if start and line["step"] <= start]
            write_text(self._path, "".join(line + "\n" for line in kept))
            self._file = self._path.open("a")
            self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=start + 1)

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.close()
        if self._enabled:
            self._file.close()
            self._board.close()

    def write(self, step: int, values: Mapping[str, float], advance: bool = True) -> None:
        """Records the values of `step`; `advance` moves the progress on to it."""
        if not self._enabled:
            return
        with writing(self._path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        if advance:
            self._progress.advance(step - self._progress.done, loss=f"{values['loss']:.4g}")

    def say(self, text: str) -> None:
        """Prints a line without breaking the progress bar."""
        if self._enabled:
            self._progress.say(text)

    def plot(self) -> None:
        """Draws ``loss.png`` from everything recorded so far."""
        if not self._enabled:
            return
        with replacing(self._plot_path) as temporary:
            plot_losses(read_metrics(self._path), temporary)


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a ``metrics.jsonl``; damaged ones, such as one cut short by a crash, are left out."""
    if not path.exists():
        return []
    lines = read_json_lines(path, skip_damaged=True, nan=True)
    return [line for _, line in lines if "step" in line and all(isinstance(x, int | float) for x in line.values())]


def plot_losses(lines: list[dict[str, float]], path: Path) -> None:
    """Draws every metric with "loss" in its name over the steps, raw and as a running mean."""
    names = sorted({name for line in lines for name in line if "loss" in name})
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for name in names:
        points = [(line["step"], line[name]) for line in lines if name in line]
        steps, values = np.array(points).T
        (raw,) = axes.plot(steps, values, alpha=0.25, linewidth=1)
        width = max(1, len(values) // 50)
        smooth = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(
            steps[width - 1 :], smooth, color=raw.get_color(), label=name, linewidth=2.5 if name == "loss" else 1.2
        )
    if names:
        axes.legend(fontsize="small")
    axes.set(xlabel="step", yscale="log")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    plt.close(figure)
