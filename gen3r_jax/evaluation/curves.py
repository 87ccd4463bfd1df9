"""Curves of a sweep: how good scenes are, by the number of steps and the solver."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from gen3r_jax.evaluation.tables import METRICS, Summary
from gen3r_jax.storage.files import replacing

DRAWN = ("psnr_new", "abs_rel", "chamfer", "auc_30")


class Point(NamedTuple):
    """A row of a sweep: ``gen3r/TASK, SOLVER STEPS``."""

    row: str
    task: str
    solver: str
    steps: int


def sweep_points(rows: Iterable[str]) -> list[Point]:
    """Those of the rows that belong to a sweep."""
    points = []
    for row in rows:
        task, _, rest = row.partition(", ")
        solver, _, steps = rest.partition(" ")
        if steps.isdecimal():
            points.append(Point(row, task, solver, int(steps)))
    return points


def plot_curves(path: Path, summary: Summary, points: list[Point]) -> None:
    """Draws a metric a panel, with the 95 % confidence intervals of the means, as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, for sweeps alone
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    lines = list(dict.fromkeys((point.task, point.solver) for point in points))
    for axes, metric in zip(figure.subplots(2, 2).flat, DRAWN, strict=True):
        for task, solver in lines:
            on_line = [point for point in points if (point.task, point.solver) == (task, solver)]
            found = [(point.steps, cell) for point in on_line if (cell := summary[point.row].get(metric))]
            known = sorted((steps, cell.mean, cell.half_width or 0) for steps, cell in found if cell.mean is not None)
            if known:
                steps, means, halves = zip(*known, strict=True)
                axes.errorbar(steps, means, halves, fmt=".-", capsize=2, linewidth=1, label=f"{task}, {solver}")
        axes.set(title=f"{METRICS[metric].title} {METRICS[metric].better}", xlabel="steps", xscale="log")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize="small")
    with replacing(path) as temporary, temporary.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)
