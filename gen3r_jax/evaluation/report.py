"""The report of an evaluation, made from the scenes' records: tables and a contact sheet."""

import statistics
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.stats import spearmanr

from gen3r_jax.errors import UserError
from gen3r_jax.evaluation.curves import plot_curves, sweep_points
from gen3r_jax.evaluation.paper import reported
from gen3r_jax.evaluation.tables import METRICS, Record, summarise, to_csv, to_json, to_markdown
from gen3r_jax.storage.files import read_json, replacing, write_json, write_text

JPEG_SIDE = 65_000  # pixels, a little less than the format can hold
LENGTHS = ("accuracy", "completeness", "chamfer")
AGREED = {"abs_rel": ("agreement", -1), "chamfer": ("agreement", -1), "auc_30": ("agreement_of_cameras", 1)}
"""Metrics that the agreement of two readings should predict: which one, and the sign with which they grow with it."""

UNITS = {
    False: "the unit of the data's cameras",
    True: "the mean distance of each scene's points from its first camera",
}


def write_report(output: Path) -> str:
    """Writes ``report.md``, ``.csv``, ``.json`` and ``sheet.jpg`` from ``scenes/*.json`` and ``pictures/``.

    Returns:
      The Markdown. Raises UserError where no scene was judged.
    """
    scenes = [read_json(path) for path in sorted((output / "scenes").glob("*.json"))]
    config = read_json(output / "config.json")
    skipped = [(scene["number"], scene["skipped"]) for scene in scenes if "skipped" in scene]
    judged = [scene for scene in scenes if "skipped" not in scene]
    if not judged:
        why = f": {skipped[0][1]}" if skipped else ""
        raise UserError(f"{output} holds no judged scene ({len(skipped)} were skipped{why})")
    records: list[Record] = [
        {"scene": scene["scene"], "mode": row, **scores} for scene in judged for row, scores in scene["rows"].items()
    ]
    references = reported(Path(config["data_source"]).name)
    if config["data"]["normalize"]:  # the paper's lengths are in the data's own unit
        references = {row: {k: v for k, v in found.items() if k not in LENGTHS} for row, found in references.items()}
    summary = summarise(records)
    lines = [
        f"# Evaluation of {config['weights']}",
        "",
        f"{len(judged)} of the {config['scenes']} scenes of `{config['data_source']}` (split {config['split']}), clips "
        f"of {config['data']['num_frames']} frames at {config['data']['side']} x {config['data']['side']}, "
        f"{config['sampling']['num_inference_steps']} steps, guidance {config['sampling']['guidance_scale']:g}, seed "
        f"{config['sampling']['seed']}. "
        f"Median time of a scene, without compiling: {statistics.median(scene['seconds'] for scene in judged):.1f} s.",
        "",
        to_markdown(summary, references),
        "Rows are `method/task`; `+cameras`: the cameras were given. `gen3r` generates; `vae_only` decodes the clip's "
        "own latents; `wvd_vae_only` sends VGGT's points through the video's VAE; `rgb_head` reads colours from VGGT's "
        "tokens; `vggt` sees the true frames that the task gives; `baseline` repeats the first, stands still, and has "
        "one depth everywhere. `gen3r_video` is `gen3r` with the geometry that VGGT reads from the generated video, "
        "`gen3r_both` with the mix. `seen` are the pixels of new frames whose points a given frame shows, `unseen` the "
        f"others. Lengths are in {UNITS[config['data']['normalize']]}{_limits(config)}.",
    ]
    lines += _agreement_lines(judged)
    if points := sweep_points(summary):
        plot_curves(output / "curves.png", summary, points)
        lines.append("\n![The sweep over solvers and steps](curves.png)")
    wanted = min(config["scenes"], config["data"]["num_scenes"])
    if len(scenes) < wanted:
        lines.append(f"\n{wanted - len(scenes)} of {wanted} scenes are still to be judged.")
    if skipped:
        number, reason = skipped[0]
        lines.append(f"\n{len(skipped)} scenes were skipped; the first, number {number}: {reason}.")
    text = "\n".join(lines) + "\n"
    document = {"config": config, "rows": to_json(summary, references), "scenes": scenes}
    write_text(output / "report.md", text)
    write_text(output / "report.csv", to_csv(summary, references))
    write_json(output / "report.json", document)
    _write_sheet(output)
    return text


def _agreement_lines(scenes: list[dict]) -> list[str]:
    """Tells how well the agreement of two readings of the geometry predicts the error of each."""
    lines = []
    for row in dict.fromkeys(row for scene in scenes for row in scene["rows"]):
        method, _, task = row.partition("/")
        if not method.startswith("gen3r") or ", " in task:
            continue
        for metric, (kind, sign) in AGREED.items():
            rows = [scene["rows"] for scene in scenes if row in scene["rows"]]
            found = [(_agreement(scores, task, kind), scores[row]["values"].get(metric)) for scores in rows]
            pairs = [(agreement, sign * value) for agreement, value in found if None not in (agreement, value)]
            if len(pairs) > 2:
                correlation = spearmanr(np.array(pairs))[0]
                lines.append(f"| {row} | {METRICS[metric].title} | {correlation:.2f} | {len(pairs)} |")
    if not lines:
        return []
    return [
        "\nHow well the agreement of the generated geometry with that of the video predicts errors (1: always):\n",
        "| row | metric | rank correlation | scenes |\n|---|---|---:|---:|",
        *lines,
    ]


def _agreement(rows: dict, task: str, kind: str) -> float | None:
    """That of a scene's two readings, which every row that compares them has."""
    readings = (rows.get(f"gen3r_{source}/{task}") for source in ("video", "both"))
    return next((reading["values"].get(kind) for reading in readings if reading), None)


def _limits(config: dict) -> str:
    farthest, backbone = config["metrics"]["farthest"], config["lpips_backbone"]
    limit = f"; true depth beyond {farthest:g} is taken as unknown" if farthest else ""
    return limit + (f". LPIPS is that of the backbone {backbone}" if backbone else "")


def _write_sheet(output: Path) -> None:
    """All scenes' pictures, one below the other, in two columns, or in more where a JPEG would be too high."""
    pictures = [Image.open(path).convert("RGB") for path in sorted((output / "pictures").glob("*.png"))]
    if not pictures:
        return
    width, height = (max(sizes) for sizes in zip(*(picture.size for picture in pictures), strict=True))
    columns = min(len(pictures), max(2, -(-len(pictures) // (JPEG_SIDE // height))))
    sheet = Image.new("RGB", (columns * width, -(-len(pictures) // columns) * height), "white")
    for i, picture in enumerate(pictures):
        sheet.paste(picture, (i % columns * width, i // columns * height))
    with replacing(output / "sheet.jpg") as file:
        sheet.save(file, quality=85)
