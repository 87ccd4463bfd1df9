"""Videos whose frames show their number."""

from fractions import Fraction

import av
import numpy as np


def number_of(frame):
    return round((frame.mean() - 10) / 8)


def numbered_frames(count, size=(32, 48)):
    """Frames whose brightness tells their number."""
    return [np.full((*size, 3), 10 + 8 * number, np.uint8) for number in range(count)]


def moving_frames(count):
    """Blocks that pass by, 64 x 96: a frame decoded from wrong references shows."""
    blocks = np.random.default_rng(0).integers(0, 255, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return [np.roll(blocks, (3 * i, 5 * i), (0, 1)) for i in range(count)]


def write_video(
    path,
    frames,
    codec="libx264",
    format=None,
    times=None,
    title=None,
    pix_fmt="yuv420p",
    gop_size=None,
    max_b_frames=None,
    sample_aspect_ratio=None,
    avoid_negative_ts="auto",
    use_editlist="-1",
    first_field=None,
    **options,
):
    """Writes frames, 12 a second or at `times` in milliseconds; `options` are the encoder's."""
    container_options = {"avoid_negative_ts": avoid_negative_ts}
    if use_editlist != "-1":
        container_options["use_editlist"] = use_editlist
    with av.open(path, "w", format=format, options=container_options) as container:
        if title:
            container.metadata["title"] = title
        stream = container.add_stream(codec, rate=12, options=options)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pix_fmt
        if gop_size:
            stream.codec_context.gop_size = gop_size
        if max_b_frames is not None:
            stream.codec_context.max_b_frames = max_b_frames
        if sample_aspect_ratio:
            stream.codec_context.sample_aspect_ratio = Fraction(sample_aspect_ratio)
        if times:
            stream.codec_context.time_base = Fraction(1, 1000)
        for i, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            if times:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            if first_field:
                frame = _marked_as_interlaced(frame, first_field)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def _marked_as_interlaced(frame, first_field):
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=Fraction(1, 12))
    graph.link_nodes(source, graph.add("setfield", first_field), graph.add("buffersink")).configure()
    graph.push(frame)
    return graph.pull()
