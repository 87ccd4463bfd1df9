"""What was found, as one HTML file that needs nothing else, and as lines for the terminal."""

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

import numpy as np

from gen3r_jax.data.check.checks import Finding, SceneResult
from gen3r_jax.data.check.pictures import Preview
from gen3r_jax.data.check.reprojection import READINGS
from gen3r_jax.data.check.sets import SetResult
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import write_text

BARS = "▁▂▃▄▅▆▇█"

STYLE = """
:root { color-scheme: light dark; --ink: #1d2433; --dim: #69748a; --page: #f5f6f9; --card: #fff; --line: #dfe3ea;
  --blue: #2f6fde; --red: #c93636; --amber: #b07400; --green: #1f8a4c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9f0; --dim: #98a2b6; --page: #14171d; --card: #1c2028;
  --line: #303642; --blue: #7aa7ff; --red: #ff7b7b; --amber: #e6b450; --green: #5fd08d; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.5rem 4rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; }
p { margin: .2rem 0; }
.dim { color: var(--dim); }
.error { color: var(--red); }
.warning { color: var(--amber); }
.good { color: var(--green); }
.tag { font-size: .75rem; font-weight: 600; text-transform: uppercase; letter-spacing: .04em; }
table { width: 100%; margin: .8rem 0; border-collapse: collapse; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
th, td { padding: .4rem .8rem; text-align: left; vertical-align: top; border-top: 1px solid var(--line);
  overflow-wrap: anywhere; }
th { font-weight: 600; font-size: .8rem; color: var(--dim); border-top: 0; white-space: nowrap; }
td.tag { white-space: nowrap; }
td { min-width: 5.5rem; }
.where { min-width: 9rem; }
.number { text-align: right; font-variant-numeric: tabular-nums; width: 6rem; }
.overview td:first-child { font-weight: 600; }
.lengths { font-size: 1.1rem; letter-spacing: 1px; color: var(--blue); }
.scene { display: grid; grid-template-columns: minmax(0, 1fr) 200px; gap: .3rem 1.2rem; margin: .8rem 0;
  padding: .9rem 1rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px; }
.scene h3 { grid-column: 1 / -1; font-size: .95rem; margin: 0; overflow-wrap: anywhere; }
.scene h3 span { font-weight: 400; }
.scene img { display: block; max-width: 100%; border-radius: 4px; margin-bottom: .4rem; }
svg { width: 200px; height: 200px; }
.path { fill: none; stroke: var(--blue); stroke-width: 2; stroke-linejoin: round; }
.looks { fill: none; stroke: var(--dim); stroke-width: 1; opacity: .8; }
.first { fill: var(--red); }
.scale { fill: none; stroke: var(--dim); stroke-width: 1.2; }
svg text { font-size: 12px; fill: var(--dim); }
@media (max-width: 50rem) { .scene { grid-template-columns: 1fr; } }
"""


def grouped(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of the same reason together: errors first, then the more frequent."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.level, finding.reason), []).append(finding)
    return sorted(groups.values(), key=lambda group: (group[0].level, -len(group)))


def summary(results: Sequence[SetResult]) -> str:
    """For the terminal: each set's counts, and of each kind of finding how many, and the first."""
    lines = []
    for result in results:
        if result.name:
            lines.append(f"{result.name}: {_counts(result)}")
        elif result.findings:
            lines.append("the root as a whole:")
        for group in grouped(result.all_findings):
            first = group[0]
            example = f"{first.where}: {first.detail}" if first.detail else first.where
            lines.append(f"  {first.level:7} {len(group):5d} x {first.reason} (first: {example})")
    return "\n".join(lines)


def total(results: Sequence[SetResult]) -> str:
    """Such as "2 errors, 1 warning"."""
    return ", ".join(_number(sum(result.count(level) for result in results), level) for level in ("error", "warning"))


def write_report(path: Path, root: Path, results: Sequence[SetResult]) -> None:
    write_text(path, _page(root, results))


def _counts(result: SetResult) -> str:
    lengths = [scene.frames for scene in result.scenes]
    captioned = sum(scene.captions > 0 for scene in result.scenes)
    parts = [
        f"{_number(len(lengths), 'scene')} with {_number(sum(lengths), 'frame')} ({min(lengths)} to {max(lengths)})",
        f"{captioned} with captions",
    ]
    if verdicts := [scene.depth.state for scene in result.scenes if scene.depth]:
        states = [f"{verdicts.count(state)} {state}" for state in ("agree", "wrong", "undecided") if state in verdicts]
        parts.append(f"depth and poses: {', '.join(states)}")
    return "; ".join(parts)


def _number(count: int, word: str) -> str:
    return f"{count} {word}{'' if count == 1 else 's'}"


def _page(root: Path, results: Sequence[SetResult]) -> str:
    errors = sum(result.count("error") for result in results)
    tone = "error" if errors else "good"
    rows = "".join(
        f'<tr><td>{escape(result.name)}</td><td class="number">{len(result.scenes)}</td>'
        f'<td class="number">{sum(scene.frames for scene in result.scenes)}</td>'
        f'<td class="number">{result.count("error")}</td><td class="number">{result.count("warning")}</td></tr>'
        for result in results
        if result.name
    )
    columns = "".join(f'<th class="number">{column}</th>' for column in ("scenes", "frames", "errors", "warnings"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(root.name)}: check</title><style>{STYLE}</style></head>\n<body>"
        f'<h1>{escape(str(root))}</h1><p class="{tone}">{total(results)}</p>'
        f'<table class="overview"><tr><th>set</th>{columns}</tr>{rows}</table>\n'
        f"{''.join(map(_section, results))}</body></html>\n"
    )


def require_report(path: Path) -> None:
    """Raises UserError where something else than a report stands at `path`."""
    if not path.exists():
        return
    beginning = path.open("rb").read(1 << 14) if path.is_file() else b""
    if not beginning.startswith(b"<!doctype html>") or b": check</title>" not in beginning:
        raise UserError(f"{path} is there already and is no report of gen3r check; give another --report")


def _section(result: SetResult) -> str:
    if not result.name:
        return f"<h2>The root as a whole</h2>{_findings(result)}" if result.findings else ""
    drawn = "".join(_scene(scene, scene.preview) for scene in result.scenes if scene.preview)
    lengths = sorted(scene.frames for scene in result.scenes)
    return (
        f"<h2>{escape(result.name)}</h2><p>{escape(_counts(result))}</p>"
        f'<p class="dim">frames a scene: {lengths[0]} <span class="lengths">{_histogram(lengths)}</span> '
        f"{lengths[-1]}, median {lengths[len(lengths) // 2]}</p>{_findings(result)}{drawn}\n"
    )


def _findings(result: SetResult) -> str:
    rows = "".join(
        f'<tr><td class="tag {group[0].level}">{group[0].level}</td><td class="number">{len(group)}</td>'
        f'<td>{escape(group[0].reason)}</td><td class="where">{escape(group[0].where)}</td>'
        f'<td class="dim">{escape(group[0].detail)}</td></tr>'
        for group in grouped(result.all_findings)
    )
    if not rows:
        return '<p class="good">Nothing found.</p>'
    head = '<tr><th></th><th class="number">times</th><th>what</th><th>first</th><th></th></tr>'
    return f"<table>{head}{rows}</table>"


def _scene(scene: SceneResult, preview: Preview) -> str:
    images = "".join(
        f'<img alt="{alt}" src="data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}">'
        for alt, jpeg in (("frames", preview.sheet), ("depth", preview.depth))
        if jpeg
    )
    facts = [_number(scene.frames, "frame"), _number(scene.captions, "caption"), scene.split, _verdict(scene)]
    levels = {finding.level for finding in scene.findings}
    tags = "".join(f' <span class="tag {level}">{level}</span>' for level in sorted(levels))
    return (
        f'<article class="scene"><h3>{escape(scene.id)}{tags} '
        f'<span class="dim">{escape(", ".join(filter(None, facts)))}</span></h3>'
        f"<div>{images}</div>{preview.path}</article>\n"
    )


def _verdict(scene: SceneResult) -> str:
    """Depth against poses, in words."""
    verdict = scene.depth
    if verdict is None:
        return ""
    if verdict.state == "wrong":
        return f"{verdict.by} agree {verdict.times:.0f} x better {READINGS[verdict.best].words}"
    if verdict.state == "undecided":
        return f"depth undecided: {verdict.why}"
    others = [error for error, reading in zip(verdict.depth, READINGS, strict=True) if reading.mistake]
    return (
        f"neighbouring depths differ by {verdict.depth[0]:.2%} (other readings of the poses: {min(others):.2%} or more)"
    )


def _histogram(lengths: Sequence[int]) -> str:
    counts, _ = np.histogram(lengths, bins=min(24, lengths[-1] - lengths[0] + 1))
    levels = np.ceil(counts / counts.max() * (len(BARS) - 1)).astype(int)
    return "".join(BARS[level] for level in levels)
