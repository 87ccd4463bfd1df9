"""Videos: H.264 in MP4, and depth as colours."""

from fractions import Fraction
from pathlib import Path
from typing import Annotated

import av
import numpy as np
from av.video.reformatter import ColorRange, VideoReformatter
from jaxtyping import Float, UInt8

from gen3r_jax.data.colour import BT709, EXACT
from gen3r_jax.options import Range, read_value
from gen3r_jax.storage.files import replacing


def write_video(path: Path | str, frames: UInt8[np.ndarray, "t h w 3"], fps: float = 12) -> None:
    """Writes sRGB frames as H.264, 4:2:0, quality close to visually lossless (CRF 17): playable nearly everywhere.

    Colours are those of BT.709 in limited range, and the file says so, so that no player has to guess.
    4:2:0 needs even sides: an odd one gets its last row or column twice, so nothing is lost and nothing moves.
    """
    h, w = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
    with replacing(path) as temporary, av.open(temporary, "w", format="mp4", options={"movflags": "faststart"}) as file:
        stream = file.add_stream(
            "libx264", rate=Fraction(fps).limit_denominator(1001 if fps >= 1 else 100_000), options={"crf": "17"}
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        codec, colours = stream.codec_context, VideoReformatter()
        codec.color_primaries = codec.color_trc = codec.colorspace = BT709
        codec.color_range = ColorRange.MPEG
        for frame in frames:
            picture = colours.reformat(
                av.VideoFrame.from_ndarray(frame, format="rgb24"),
                format="yuv420p",
                dst_colorspace=BT709,
                dst_color_range=ColorRange.MPEG,
                dst_color_primaries=BT709,
                dst_color_trc=BT709,
                interpolation=EXACT,
            )
            file.mux(stream.encode(picture))
        file.mux(stream.encode())


def require_fps(fps: float) -> None:
    """Raises UserError for a speed, in frames a second, that no video can have."""
    read_value(fps, Annotated[float, Range(at_least=0.001, at_most=1000)], "fps")


def colorize_depth(
    depth: Float[np.ndarray, "*b h w"], limits: tuple[float, float] | None = None
) -> UInt8[np.ndarray, "*b h w 3"]:
    """Depth as colours of matplotlib's "inferno": near is bright, far is dark, even in inverse depth.

    Inverse depth spends the colours where things are near and leaves some for the sky.

    Args:
      limits: depths of the brightest and the darkest colour. By default the 2nd and 98th percentile of the whole array,
        so a clip does not flicker, and a few stray pixels do not take the contrast from the rest. To compare two clips,
        give both the limits of one (:func:`depth_limits`).
    """
    near, far = limits or depth_limits(depth)
    # Depths that are not positive or finite become the darkest.
    inverse = np.divide(1.0, depth, out=np.zeros(np.shape(depth)), where=np.isfinite(depth) & (np.asarray(depth) > 0))
    brightness = (inverse - 1 / far) / max(1 / near - 1 / far, 1e-12)
    import matplotlib  # half a second, for which no help text should wait

    return matplotlib.colormaps["inferno"](np.clip(brightness, 0, 1), bytes=True)[..., :3]


def colorize_agreement(agreement: Float[np.ndarray, "*b h w"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """How far two depths agree as colours of matplotlib's "viridis": bright where they are equal, dark below a half."""
    import matplotlib  # half a second, for pictures alone

    return matplotlib.colormaps["viridis"](np.clip(2 * agreement - 1, 0, 1), bytes=True)[..., :3]


def depth_limits(depth: Float[np.ndarray, "*b h w"]) -> tuple[float, float]:
    """The 2nd and 98th percentile of the valid (positive, finite) depths; (1, 2) if there are none."""
    valid = depth[np.isfinite(depth) & (depth > 0)]
    if valid.size == 0:
        return 1.0, 2.0
    near, far = np.percentile(valid, (2, 98))
    return float(near), float(far)
