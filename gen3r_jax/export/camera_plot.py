"""A picture of a camera path, to look at before anything slow begins."""

from pathlib import Path

import numpy as np
from jaxtyping import Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gen3r_jax.storage.files import replacing

MOST_FRUSTA = 9


def plot_cameras(
    path: Path | str,
    c2w: Float[np.ndarray, "t 4 4"],
    intrinsics: Float[np.ndarray, "t 3 3"],
    image_size: tuple[int, int],
) -> None:
    """Draws a path (OpenCV axes) from above and from the side, as a PNG; some of the frusta, the first in green."""
    height, width = image_size
    span = np.ptp(c2w[:, :3, 3], axis=0).max()
    depth = 0.25 * span if span > 0 else 1.0  # of the drawn frusta
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    chosen = np.unique(np.linspace(0, len(c2w) - 1, MOST_FRUSTA).round().astype(int))
    figure = Figure(figsize=(10, 5), layout="constrained")
    for axes, (right, up), title, labels in zip(
        figure.subplots(1, 2),
        (((0, 1), (2, 1)), ((2, 1), (1, -1))),
        ("from above", "from the side"),
        (("right", "forward"), ("forward", "up")),
        strict=True,
    ):

        def flat(points: np.ndarray, right=right, up=up) -> tuple[np.ndarray, np.ndarray]:
            return points[..., right[0]] * right[1], points[..., up[0]] * up[1]

        axes.plot(*flat(c2w[:, :3, 3]), ".-", color="0.4", linewidth=1, markersize=3)
        for index in chosen:
            k, pose = intrinsics[index], c2w[index]
            rays = np.column_stack([(corners - k[:2, 2]) / k[[0, 1], [0, 1]], np.ones(4)]) * depth
            ends = rays @ pose[:3, :3].T + pose[:3, 3]
            color = "tab:green" if index == 0 else "tab:red" if index == chosen[-1] else "tab:blue"
            for end in ends:
                axes.plot(*flat(np.stack([pose[:3, 3], end])), color=color, linewidth=0.8)
            axes.plot(*flat(np.vstack([ends, ends[:1]])), color=color, linewidth=0.8)
        axes.set(title=title, xlabel=labels[0], ylabel=labels[1], aspect="equal")
        axes.grid(alpha=0.3)
    figure.suptitle(f"{len(c2w)} cameras: first green, last red; in the unit of the scene")
    with replacing(path) as temporary, temporary.open("wb") as file:
        FigureCanvasAgg(figure).print_png(file)
