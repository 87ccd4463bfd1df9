"""RealEstate10K as its archive unpacks, with frames or with the video of a clip."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.helpers.raw_sets import shared

STEP = 33367
LATE = 300
"""Microseconds between two frames, and that a video shows them later than the stamps say."""

AROUND = 20
"""Other frames of a video before and after those of the clip."""

FIRST = 1_000_000


def write(
    raw: Path,
    *,
    frames: int = shared.FRAMES,
    folder: str = "train",
    clip: str = "0000000000000001",
    video: str = "a_b-c",
    media: str = "frames",
    size: tuple[int, int] = shared.SIZE,
    step: int = STEP,
    start: int = 0,
) -> Path:
    """media: "frames", "video" or "" for none. size: of the pictures; the intrinsics are parts of it. start: when the
    video shows its first frame, in microseconds."""
    text = raw / folder / f"{clip}.txt"
    text.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"https://www.youtube.com/watch?v={video}"]
    for i in range(frames):
        w2c = " ".join(map(str, shared.w2c(i)[:3].ravel()))
        lines.append(f"{FIRST + step * i} 0.78125 1.0416666666666667 0.515625 0.4895833333333333 0.0 0.0 {w2c}")
        if media == "frames":
            shared.write_picture(raw / folder / clip / f"{FIRST + step * i}.png", i, size=size)
    text.write_text("\n".join(lines) + "\n")
    if media == "video":
        write_video(raw / "videos" / f"{video}.mp4", frames, start)
    return raw


def write_video(path: Path, frames: int, start: int = 0) -> None:
    """Without loss; frames of the clip among grey ones, several key frames, decoded in another order than shown.

    The first frame is shown at `start`, from which stamps count.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w", options={"movie_timescale": "90000"}) as container:
        stream = container.add_stream("libx264rgb", rate=30, options={"crf": "0", "g": "7", "bf": "2"})
        stream.height, stream.width = shared.SIZE
        stream.pix_fmt = "rgb24"
        stream.codec_context.time_base = stream.time_base = Fraction(1, 90000)
        for i in range(-AROUND, frames + AROUND):
            grey = np.full((*shared.SIZE, 3), 128, np.uint8)
            frame = av.VideoFrame.from_ndarray(shared.picture(i) if 0 <= i < frames else grey, format="rgb24")
            shown = FIRST + STEP * i + LATE if i > -AROUND else 0  # stamps count from the first frame
            frame.pts, frame.time_base = round((start + shown) * 0.09), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
