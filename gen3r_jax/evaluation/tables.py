"""From what each scene scores to tables: means over the scenes with 95 % confidence intervals.

A record is what one scene scores in one row of the tables (Gen3R section 4, Tables 1 to 9)::

    {"scene": "kitchen", "mode": "gen3r/1view+cameras",
     "values": {"psnr": 20.1, "lpips": None}, "reasons": {"lpips": "no LPIPS weights were given"}}

A metric that is None was wanted and is not available (n/a); `reasons` says why. One that is absent was not wanted.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy.special import stdtrit

from gen3r_jax.evaluation.paper import Reported

Record = Mapping[str, Any]


class Metric(NamedTuple):
    """How a metric is written. better: ``↑`` or ``↓``."""

    title: str
    better: str
    digits: int


METRICS = {
    "psnr": Metric("PSNR, dB", "↑", 2),
    "psnr_new": Metric("PSNR of frames that were not given, dB", "↑", 2),
    "ssim": Metric("SSIM", "↑", 4),
    "lpips": Metric("LPIPS", "↓", 4),
    "i2v_subject": Metric("I2V subject", "↑", 4),
    "i2v_background": Metric("I2V background", "↑", 4),
    "imaging_quality": Metric("Imaging quality", "↑", 4),
    "aesthetic_quality": Metric("Aesthetic quality", "↑", 4),
    "motion_smoothness": Metric("Motion smoothness", "↑", 4),
    "accuracy": Metric("Accuracy", "↓", 4),
    "completeness": Metric("Completeness", "↓", 4),
    "chamfer": Metric("Chamfer", "↓", 4),
    "relative_percent": Metric("Chamfer, % of the box", "↓", 2),
    "abs_rel": Metric("AbsRel", "↓", 4),
    "delta_1_25": Metric("δ < 1.25", "↑", 4),
    "auc_30": Metric("AUC@30°", "↑", 4),
    "rra_15": Metric("RRA@15°", "↑", 4),
    "rta_15": Metric("RTA@15°", "↑", 4),
    "agreement": Metric("Agreement of two depths", "", 4),
    "agreement_of_cameras": Metric("Agreement of two sets of cameras", "", 4),
    "pixels": Metric("Part of the pixels of new frames", "", 3),
}


class Cell(NamedTuple):
    """A metric over the scenes of a row.

    Attributes:
      mean: over the scenes that have it; None if none has.
      half_width: of the 95 % confidence interval of the mean, ``mean ± half_width``: Student's t over the scenes as
        independent draws, t(0.975, n - 1) s / sqrt(n). None for fewer than two scenes.
      scenes: how many have it.
      missing: scenes that do not, counted by reason.
    """

    mean: float | None
    half_width: float | None
    scenes: int
    missing: dict[str, int]


Summary = dict[str, dict[str, Cell]]


def summarise(records: Iterable[Record]) -> Summary:
    """Cells by mode, then by metric, both in the order of their first appearance."""
    found: dict[str, dict[str, list[tuple[float | None, str]]]] = {}
    for record in records:
        row = found.setdefault(record["mode"], {})
        for metric, value in record["values"].items():
            if value is not None and not math.isfinite(value):
                value, reason = None, "not a finite number"
            else:
                reason = record.get("reasons", {}).get(metric, "no reason was given")
            row.setdefault(metric, []).append((value, reason))
    return {mode: {metric: _cell(scores) for metric, scores in row.items()} for mode, row in found.items()}


def _cell(scores: list[tuple[float | None, str]]) -> Cell:
    values = np.array([value for value, _ in scores if value is not None], np.float64)
    missing = dict(Counter(reason for value, reason in scores if value is None))
    count = len(values)
    mean = float(values.mean()) if count else None
    half_width = float(stdtrit(count - 1, 0.975) * values.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    return Cell(mean, half_width, count, missing)


def to_markdown(summary: Summary, references: Mapping[str, Mapping[str, Reported]] | None = None) -> str:
    """One table with a column a metric, and footnotes that say what n/a means and which means lack scenes.

    references: numbers of the paper by mode and metric (:func:`gen3r_jax.evaluation.paper.reported`). Each mode that
    has some gets a second row with them; references of other modes are left out.
    """
    columns = _columns(summary)
    notes: dict[str, int] = {}
    beside = False
    lines = [
        "| | " + " | ".join(f"{_metric(name).title} {_metric(name).better}".strip() for name in columns) + " |",
        "|---" + "|---:" * len(columns) + "|",
    ]
    for mode, row in summary.items():
        lines.append(_line(mode, [_markdown_cell(name, row.get(name), notes) for name in columns]))
        if published := (references or {}).get(mode):
            cells = [
                f"{published[name].value:.{_metric(name).digits}f} (T{published[name].table})"
                if name in published
                else ""
                for name in columns
            ]
            if any(cells):
                lines.append(_line("— the paper", cells))
                beside = True
    footnotes = [f"[{number}] {text}  " for text, number in notes.items()]
    explained = "Means over scenes ± half of the 95 % confidence interval (Student's t)."
    if beside:
        explained += " T: table of the paper, whose scenes are others."
    return "\n".join([*lines, "", explained, *(["", *footnotes] if footnotes else [])]) + "\n"


def _markdown_cell(name: str, cell: Cell | None, notes: dict[str, int]) -> str:
    if cell is None:
        return ""
    marks = ""
    for reason, count in cell.missing.items():
        text = (
            reason
            if cell.mean is None
            else f"without {count} of {cell.scenes + sum(cell.missing.values())} scenes: {reason}"
        )
        marks += f" [{notes.setdefault(text, len(notes) + 1)}]"
    if cell.mean is None:
        return f"n/a{marks}"
    digits = _metric(name).digits
    interval = "" if cell.half_width is None else f" ± {cell.half_width:.{digits}f}"
    return f"{cell.mean:.{digits}f}{interval}{marks}"


def to_csv(summary: Summary, references: Mapping[str, Mapping[str, Reported]] | None = None) -> str:
    """One line a mode and metric; empty where there is no number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["mode", "metric", "mean", "low_95", "high_95", "scenes", "missing", "paper", "paper_table"])
    for entry in to_json(summary, references):
        missing = "; ".join(f"{count} x {reason}" for reason, count in entry["missing"].items())
        writer.writerow(["" if x is None else x for x in (entry | {"missing": missing}).values()])
    return file.getvalue()


def to_json(summary: Summary, references: Mapping[str, Mapping[str, Reported]] | None = None) -> list[dict[str, Any]]:
    """The lines of :func:`to_csv` as dictionaries, ready for ``json.dumps``; `missing` counts scenes by reason."""
    entries = []
    for mode, row in summary.items():
        for metric, cell in row.items():
            low, high = (
                (None, None)
                if cell.mean is None or cell.half_width is None
                else (cell.mean - cell.half_width, cell.mean + cell.half_width)
            )
            published = (references or {}).get(mode, {}).get(metric)
            entries.append(
                {
                    "mode": mode,
                    "metric": metric,
                    "mean": cell.mean,
                    "low_95": low,
                    "high_95": high,
                    "scenes": cell.scenes,
                    "missing": cell.missing,
                    "paper": None if published is None else published.value,
                    "paper_table": None if published is None else published.table,
                }
            )
    return entries


def _columns(summary: Summary) -> list[str]:
    """Metrics that any row has: the known ones in their order, then others."""
    present = list(dict.fromkeys(name for row in summary.values() for name in row))
    return [name for name in METRICS if name in present] + [name for name in present if name not in METRICS]


def _metric(name: str) -> Metric:
    return METRICS.get(name, Metric(name, "", 4))


def _line(name: str, cells: list[str]) -> str:
    return "| " + " | ".join([name, *cells]) + " |"
