"""What shows a scene at a glance: some frames, their depth, and the path of the camera from above."""

import math
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float
from PIL import Image

from gen3r_jax.data.depth import read_depth
from gen3r_jax.data.images import Picture, encode_image, read_image

FRAMES = 6
HEIGHT = 110
DIRECTIONS = 24
SIDE, MARGIN = 240, 30


@dataclass(frozen=True)
class Preview:
    """sheet, depth: JPEG files, some frames side by side and their depth. path: an SVG element."""

    sheet: bytes
    path: str
    depth: bytes | None


def draw_preview(folder: Path, names: list[str], c2w: Float[np.ndarray, "t 4 4"], metric: bool) -> Preview:
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, FRAMES).round().astype(int))]
    sheet = [_small(read_image(folder / "images" / name)) for name in chosen]
    depth = None
    if (folder / "depth").is_dir():
        maps = [_small(read_depth(folder / "depth" / f"{Path(name).stem}.png")) for name in chosen]
        depth = encode_image(_paint_depth(np.concatenate(maps, axis=1)), quality=80)
    return Preview(encode_image(np.concatenate(sheet, axis=1), quality=80), draw_path(c2w, metric), depth)


def draw_path(c2w: Float[np.ndarray, "t 4 4"], metric: bool) -> str:
    """The camera's path seen from above, as an SVG element: the first camera is the dot and looks up the page.

    Above is where the cameras on average have their upper side, as data sets agree on no axis.
    """
    down = c2w[:, :3, 1].mean(axis=0)
    down = down / np.linalg.norm(down) if np.linalg.norm(down) > 0.1 else c2w[0, :3, 1]
    forward = c2w[0, :3, 2] - down * (down @ c2w[0, :3, 2])
    if np.linalg.norm(forward) < 1e-3:  # it looks straight down
        forward = -c2w[0, :3, 1] + down * (down @ c2w[0, :3, 1])
    forward /= max(np.linalg.norm(forward), 1e-9)
    axes = np.stack([np.cross(down, forward), -forward])  # right and down on the page
    places = (c2w[:, :3, 3] - c2w[0, :3, 3]) @ axes.T
    low, extent = places.min(axis=0), float(np.ptp(places, axis=0).max()) or 1.0
    scale = (SIDE - 2 * MARGIN) / extent
    places = (places - low - np.ptp(places, axis=0) / 2) * scale + SIDE / 2
    looks = c2w[:, :3, 2] @ axes.T
    every = -(-len(places) // DIRECTIONS)
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    ticks = "".join(
        f"M{x:.1f} {y:.1f}l{14 * dx:.1f} {14 * dy:.1f}"
        for (x, y), (dx, dy) in zip(places[::every], looks[::every], strict=True)
    )
    length = _round_number(extent / 3)
    x, y = places[0]
    right, bottom = MARGIN + length * scale, SIDE - 10
    return (
        f'<svg viewBox="0 0 {SIDE} {SIDE}" role="img"><title>camera path from above</title>'
        f'<path class="looks" d="{ticks}"/><polyline class="path" points="{line}"/>'
        f'<circle class="first" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
        f'<path class="scale" d="M{MARGIN} {bottom - 4}v4H{right:.1f}v-4"/>'
        f'<text x="{right + 5:.1f}" y="{bottom}">{length:g} {"m" if metric else "units"}</text></svg>'
    )


def _round_number(length: float) -> float:
    """The largest of 1, 2, 5, 10, ... (times a power of ten) that is not longer."""
    power = 10.0 ** math.floor(math.log10(length))
    return max(factor * power for factor in (1, 2, 5) if factor * power <= length * (1 + 1e-9))


def _small(image: np.ndarray) -> np.ndarray:
    """Scaled to HEIGHT; depth without mixing known with unknown."""
    size = (max(1, round(image.shape[1] * HEIGHT / image.shape[0])), HEIGHT)
    kind = Image.Resampling.NEAREST if image.ndim == 2 else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(size, kind))


def _paint_depth(depth: Float[np.ndarray, "h w"]) -> Picture:
    """Near is bright; black where nothing is known."""
    known = depth > 0
    near = 1 / np.where(known, depth, 1)
    low, high = np.percentile(near[known], (2, 98)) if known.any() else (0.0, 1.0)
    brightness = 0.1 + 0.9 * np.clip((near - low) / max(high - low, 1e-9), 0, 1)
    return matplotlib.colormaps["inferno"](np.where(known, brightness, 0), bytes=True)[..., :3]
