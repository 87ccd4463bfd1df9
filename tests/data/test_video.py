"""Videos are read by frame number: the frames that decoding from the start gives, seen as a player shows them."""

import struct
import wave

import av
import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data.colour import FrameColours
from gen3r_jax.data.images import read_clip
from gen3r_jax.data.video import Video
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.orientation import StoredPicture
from tests.helpers.toy_videos import moving_frames, number_of, numbered_frames, write_video

X264 = {"codec": "libx264", "max_b_frames": 2}
KINDS = {  # suffix, options
    "closed": (".mp4", X264 | {"x264-params": "keyint=8"}),
    "open": (".mp4", X264 | {"x264-params": "keyint=8:open-gop=1"}),
    "refresh": (".mp4", X264 | {"x264-params": "keyint=8:intra-refresh=1"}),
    "refresh in a transport stream": (".mp4", X264 | {"x264-params": "keyint=8:intra-refresh=1", "format": "mpegts"}),
    "transport stream": (".mp4", X264 | {"x264-params": "keyint=8:open-gop=1", "format": "mpegts"}),
    "MPEG-2": (".mp4", {"codec": "mpeg2video", "gop_size": 8, "max_b_frames": 2, "format": "mpegts"}),
    "HEVC": (".mp4", {"codec": "libx265", "x265-params": "keyint=8:radl=2:open-gop=0:log-level=none"}),
    "HEVC refresh": (".mkv", {"codec": "libx265", "x265-params": "keyint=8:intra-refresh=1:log-level=none"}),
    "AVI": (".avi", X264 | {"x264-params": "keyint=8"}),
    "uneven": (".mkv", X264 | {"x264-params": "keyint=8", "times": [40 * i + 7 * (i % 5) for i in range(40)]}),
    "late": (".mkv", X264 | {"x264-params": "keyint=8", "times": range(5000, 6600, 40)}),
    "late MP4": (".mp4", X264 | {"x264-params": "keyint=8", "times": range(5000, 6600, 40)}),
    "cut by an edit list": (".mp4", X264 | {"x264-params": "keyint=8", "times": range(-200, 1400, 40),
                            "avoid_negative_ts": "disabled", "use_editlist": "1"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_any_frames_are_those_of_decoding_from_the_start(tmp_path, kind):
    suffix, options = KINDS[kind]
    path = tmp_path / f"clip{suffix}"
    write_video(path, moving_frames(40), **options)
    with av.open(path) as container:
        colours = FrameColours(path)
        expected = [colours(frame, frame.width) for frame in container.decode(video=0)]
    assert len(expected) == (35 if "edit" in kind else 40)
    video = Video(path)
    assert len(video) == len(expected)
    assert video.times[0] == 0 and (np.diff(video.times) > 0.01).all()
    whole = video.read(range(len(video)))
    np.testing.assert_array_equal(whole, expected)
    for wanted in ([20], [33], [9], [16], [31, 7], range(11, 19), [0]):
        for index, picture in zip(wanted, Video(path).read(wanted), strict=True):
            np.testing.assert_array_equal(picture, expected[index], err_msg=f"{index} of {wanted}")
        for index, picture in zip(wanted, video.read(wanted), strict=True):
            np.testing.assert_array_equal(picture, expected[index], err_msg=f"{index} of {wanted}, once more")


@pytest.mark.parametrize("kind", ["late MP4", "transport stream", "refresh"])
def test_windows_count_from_the_first_frame(tmp_path, kind):
    suffix, options = KINDS[kind]
    path = tmp_path / f"clip{suffix}"
    write_video(path, moving_frames(40), **options)
    whole = Video(path)
    part = Video(path, (whole.times[20] - 0.01, whole.times[25] + 0.01))
    numbers = [int(np.argmin(np.abs(part.times - time))) for time in whole.times[20:26]]
    np.testing.assert_allclose(part.times[numbers], whole.times[20:26])
    np.testing.assert_array_equal(part.read(numbers), whole.read(range(20, 26)))


def test_titles_may_be_in_any_encoding(tmp_path):
    path = tmp_path / "old.mkv"
    write_video(path, numbered_frames(3), title="Title")
    path.write_bytes(path.read_bytes().replace(b"Title", b"Caf\xe9s"))
    assert b"Caf\xe9s" in path.read_bytes()
    assert [number_of(frame) for frame in Video(path).read(range(3))] == [0, 1, 2]


@pytest.mark.parametrize("marked", [False, True])
def test_the_film_is_read_and_not_its_cover(tmp_path, capsys, marked):
    path = tmp_path / ("film.mp4" if marked else "film.mkv")
    with av.open(path, "w") as container:
        cover, film = container.add_stream("mjpeg", rate=12), container.add_stream("libx264", rate=12)
        cover.height, cover.width, cover.pix_fmt = 96, 128, "yuvj420p"
        film.height, film.width, film.pix_fmt = 32, 48, "yuv420p"
        if marked:
            cover.disposition = av.stream.Disposition.attached_pic
        for stream, frames in ((cover, [np.full((96, 128, 3), 200, np.uint8)]), (film, numbered_frames(5))):
            for frame in [*frames, None]:
                container.mux(stream.encode(frame if frame is None else av.VideoFrame.from_ndarray(frame)))
    video = Video(path)
    assert [number_of(frame) for frame in video.read(range(len(video)))] == [0, 1, 2, 3, 4]
    assert ("number 1 of 48 x 32 is read" in capsys.readouterr().err) is not marked


@pytest.mark.parametrize("ratio, width", [("4/3", 64), ("8/9", 43)])
def test_pixels_are_made_square(tmp_path, capsys, ratio, width):
    ramp = np.repeat(np.linspace(0, 250, 48)[None, :, None].repeat(32, 0), 3, 2).astype(np.uint8)
    write_video(tmp_path / "wide.mp4", [ramp], sample_aspect_ratio=ratio)
    picture = Video(tmp_path / "wide.mp4").read([0])[0]
    assert picture.shape == (32, width, 3)
    shown = np.asarray(Image.fromarray(ramp).resize((width, 32), Image.Resampling.BICUBIC), int)
    assert np.abs(picture - shown).max() < 8
    assert f"frames of 48 x 32 are shown as {width} x 32" in capsys.readouterr().err


@pytest.mark.parametrize("first", ["tff", "bff"])
def test_interlaced_frames_show_one_moment(tmp_path, capsys, first):
    """A bar moves between the two fields of a frame; taken as one picture, it has combs."""
    fields = np.full((10, 64, 64, 3), 40, np.uint8)
    for moment, field in enumerate(fields):
        field[:, 3 * moment : 3 * moment + 20] = 220
    frames = fields[::2].copy()
    later = slice(1, None, 2) if first == "tff" else slice(0, None, 2)
    frames[:, later] = fields[1::2, later]
    write_video(tmp_path / "clip.mkv", list(frames), crf="1", first_field=first, **{"x264-params": "tff=1"})
    video = Video(tmp_path / "clip.mkv")
    for index in (3, 1):
        picture = video.read([index])[0].astype(int)
        assert np.abs(picture - fields[2 * index]).max() < 30
    assert "interlaced" in capsys.readouterr().err


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_avi_keeps_times_of_decoding_alone(tmp_path, codec):
    """With frames that refer to later ones they are not those of showing."""
    write_video(tmp_path / "clip.avi", numbered_frames(20), codec, bf="2", g="6", b="4M")
    video = Video(tmp_path / "clip.avi")
    assert len(video) == 20
    assert [number_of(frame) for frame in video.read([0, 1, 7, 13, 19])] == [0, 1, 7, 13, 19]


def test_a_damaged_frame_of_an_avi_is_the_only_one(tmp_path):
    write_video(tmp_path / "clip.avi", numbered_frames(9), "mpeg4", g="1", bf="0", b="4M")
    with av.open(tmp_path / "clip.avi") as container:
        packets = [packet for packet in container.demux() if packet.size]
    data = bytearray((tmp_path / "clip.avi").read_bytes())
    where = data.index(bytes(packets[4]))
    data[where : where + packets[4].size] = bytes(packets[4].size)
    (tmp_path / "clip.avi").write_bytes(data)
    found = Video(tmp_path / "clip.avi").read(range(9))
    assert found[4] is None and [number_of(found[i]) for i in (0, 3, 5, 8)] == [0, 3, 5, 8]


def test_video_frames_by_number(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(path, numbered_frames(20), g="6", bf="2")  # several key frames, and frames out of decoding order
    video = Video(path)
    assert len(video) == 20
    numbers = [0, 5, 6, 13, 13, 2, 19]
    assert [number_of(frame) for frame in video.read(numbers)] == numbers
    assert video.read([3])[0].shape == (32, 48, 3)
    np.testing.assert_allclose(video.times, np.arange(20) / 12, atol=1e-4)
    assert [(number, number_of(frame)) for number, frame in video.stream([13, 4, 5])] == [(4, 4), (5, 5), (13, 13)]


def test_a_window_of_a_video(tmp_path):
    """Counts from the key frame before it; times and frames are the same."""
    write_video(tmp_path / "clip.mp4", numbered_frames(30), g="6", bf="2")
    whole, part = Video(tmp_path / "clip.mp4"), Video(tmp_path / "clip.mp4", (14 / 12 - 0.01, 20 / 12 + 0.01))
    assert len(part) < 16
    numbers = [int(np.argmin(np.abs(part.times - whole.times[number]))) for number in range(14, 21)]
    np.testing.assert_allclose(part.times[numbers], whole.times[14:21])
    assert [number_of(frame) for frame in part.read(numbers)] == list(range(14, 21))


TURNS = {  # what a display matrix makes of a picture
    (0, 1, -1, 0): lambda picture: np.rot90(picture, -1),
    (0, -1, 1, 0): lambda picture: np.rot90(picture),
    (-1, 0, 0, -1): lambda picture: picture[::-1, ::-1],
    (-1, 0, 0, 1): lambda picture: picture[:, ::-1],
    (1, 0, 0, -1): lambda picture: picture[::-1],
    (0, 1, 1, 0): lambda picture: picture.swapaxes(0, 1),
    (0, -1, -1, 0): lambda picture: np.rot90(picture.swapaxes(0, 1), 2),
}


@pytest.mark.parametrize(("matrix", "tag"), list(zip(TURNS, (6, 8, 3, 2, 4, 5, 7), strict=True)))
def test_display_matrices_turn_and_mirror(tmp_path, matrix, tag):
    """Phones store portrait video lying down, and that of the front camera mirrored."""
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:16, :16], frame[:16, 32:] = 255, 128  # top left and top right
    path = tmp_path / "phone.mp4"
    write_video(path, [frame] * 2)
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    identity = struct.unpack(">9i", data[place : place + 36])
    assert identity[0] == identity[4] == 1 << 16
    a, b, c, d = (value << 16 for value in matrix)
    data[place : place + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    np.testing.assert_allclose(Video(path).read([1])[0].astype(int), TURNS[matrix](frame), atol=20)
    assert read_clip([path]).stored == StoredPicture(str(path), (32, 48), tag)  # cameras turn with it as with a picture


def test_damaged_video_frames_are_none(tmp_path):
    path = tmp_path / "torn.mkv"
    write_video(path, numbered_frames(30), g="5")
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    video = Video(path)
    assert 5 < len(video) < 30
    frames = video.read(range(len(video)))
    assert [number_of(frame) for frame in frames[:5]] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("content", [b"", b"not a video at all", None])
def test_unreadable_video(tmp_path, content):
    path = tmp_path / "bad.mp4"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.mp4") as error:
        Video(path)
    assert "\n" not in str(error.value)


def test_a_codec_that_nobody_knows(tmp_path):
    path = tmp_path / "odd.mkv"
    write_video(path, numbered_frames(3))
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG9/ISO/AVC"))
    with pytest.raises(UserError, match=r"odd\.mkv has no video stream that can be decoded"):
        len(Video(path))


def test_sound_is_no_video(tmp_path):
    with wave.open(str(tmp_path / "sound.avi"), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(1600))
    with pytest.raises(UserError, match="has no video stream"):
        Video(tmp_path / "sound.avi")
