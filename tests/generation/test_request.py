"""Which frames of a video or folder a request gives, and how fast they pass."""

import json

import pytest

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
