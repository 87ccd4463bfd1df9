"""Which frames of a video or folder a request gives, and how fast they pass."""

import json

import pytest
from PIL import Image

from gen3r_jax.errors import UserError
from gen3r_jax.generation.request import Request, read_jobs
from tests.helpers.toy_videos import number_of, numbered_frames, write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos") / "clip.mp4"
    write_video(path, numbered_frames(21))
    return str(path)


@pytest.mark.parametrize(
    "options, numbers, fps",
    [
        ({"task": "1view"}, [0], None),
        ({"task": "2view"}, [0, 20], None),
        ({"task": "allview"}, [0, 5, 10, 15, 20], 2.4),
        ({"task": "allview", "stride": 2}, [0, 2, 4, 6, 8], 6),
        ({"task": "allview", "first": 3}, [3, 4, 5, 6, 7], 12),
        ({"task": "allview", "frame_index": (0, 3)}, [0, 3], None),
    ],
)
def test_frames_of_a_longer_video(video, options, numbers, fps):
    clip = Request(images=(video,), prompt="x", num_frames=5, **options).pictures()
    assert [number_of(frame) for frame in clip.frames] == numbers
    assert clip.fps == (fps and pytest.approx(fps, rel=1e-3))


def test_masks_go_with_their_frames(video, tmp_path):
    """Those of the chosen frames of a video; of a job beside its file; how pictures are fitted is a key, too."""
    (tmp_path / "masks").mkdir()
    for number in range(21):
        Image.new("L", (48, 32), 255 * (number % 2)).save(tmp_path / "masks" / f"{number}.png")
    line = {"images": video, "masks": "masks", "prompt": "x", "frame_index": [3, 4], "num_frames": 5, "fit": "pad"}
    (tmp_path / "jobs.jsonl").write_text(json.dumps(line))
    ((_, request),) = read_jobs(tmp_path / "jobs.jsonl", {})
    assert request.fit == "pad"
    assert [mask.all() for mask in request.pictures().masks] == [True, False]
    with pytest.raises(UserError, match="fit 'x' is none of crop, whole, pad"):
        Request(images=(video,), prompt="x", fit="x")


def test_a_moving_picture_is_a_clip(tmp_path):
    first, *others = (Image.fromarray(frame) for frame in numbered_frames(5))
    first.save(tmp_path / "clip.gif", save_all=True, append_images=others, duration=50)
    clip = Request(images=(str(tmp_path / "clip.gif"),), prompt="x", num_frames=5, task="allview").pictures()
    assert [number_of(frame) for frame in clip.frames] == [0, 1, 2, 3, 4] and clip.fps == pytest.approx(20)
    (frame,) = Request(images=(str(tmp_path / "clip.gif"),), prompt="x", num_frames=5).pictures().frames
    assert number_of(frame) == 0


@pytest.mark.parametrize(
    "options, message",
    [
        ({"task": "1view", "stride": 2}, "stride and first choose frames for the task allview"),
        ({"task": "allview", "stride": 0}, "--stride 0 is not a positive number"),
        ({"task": "allview", "first": -1}, "--first -1 is negative"),
    ],
)
def test_choices_that_mean_nothing_are_refused(video, options, message):
    with pytest.raises(UserError, match=message):
        Request(images=(video,), prompt="x", num_frames=5, **options)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"frames": "a.png", "images": "b.png"}, "frames and images say the same twice"),
        ({"frame_path": "a.png", "frames": "b.png"}, "frame_path and frames say the same twice"),
        ({"images": "a.png", "size": 112, "height": 224}, "size and height say the same twice"),
        ({"images": ""}, "images '' is no path"),
        ({"images": [3]}, "job.images must be a list of texts"),
    ],
    ids=str,
)
def test_a_job_says_each_thing_once(tmp_path, fields, message):
    (tmp_path / "jobs.jsonl").write_text(json.dumps({"prompt": "x", **fields}))
    ((_, error),) = read_jobs(tmp_path / "jobs.jsonl", {})
    assert isinstance(error, UserError) and message in str(error)
