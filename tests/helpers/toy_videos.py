"""Videos whose frames show their number."""

import av
import numpy as np


def number_of(frame):
    return round((frame.mean() - 10) / 8)


def numbered_frames(count, size=(32, 48)):
    """Frames whose brightness tells their number."""
    return [np.full((*size, 3), 10 + 8 * number, np.uint8) for number in range(count)]


def write_video(path, frames, codec="libx264", **options):
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=12, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
