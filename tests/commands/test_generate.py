"""The commands that make and tell of scenes, with tiny random networks in the official layout."""

import json
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from conversion.__main__ import main as convert
from conversion.pipeline_folder import find_weights
from gen3r_jax import generate, info
from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import scene_folder
from gen3r_jax.export.read import read_scene
from gen3r_jax.export.video import write_video
from gen3r_jax.generation import output
from gen3r_jax.generation.request import Request, read_jobs
from gen3r_jax.geometry.camera_files.official import write_cameras
from gen3r_jax.geometry.cameras import invert_se3
from gen3r_jax.geometry.trajectories import camera_path
from tests.helpers.paths import NANO

FRAMES, SIDE = 5, 112
SMALL = ["--num_frames", FRAMES, "--height", SIDE, "--width", SIDE, "--num_inference_steps", 2]
EXAMPLES = Path(os.environ.get("GEN3R_EXAMPLES", "no examples at hand"))


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gen3r") / "checkpoints"
    convert(["random", "gen3r", "--tiny", "--output", str(folder)])
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Two images of different sizes, one with transparency, and a video."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (130, 200, 3), np.uint8)).save(folder / "first.png")
    Image.fromarray(rng.integers(0, 255, (150, 120, 4), np.uint8)).save(folder / "last.png")
    write_video(folder / "clip.mp4", rng.integers(0, 255, (7, 120, 160, 3), np.uint8))
    write_cameras(
        folder / "cameras.json",
        invert_se3(camera_path("truck_right", FRAMES)),
        np.tile(np.array([[100.0, 0, 56], [0, 100, 56], [0, 0, 1]]), (FRAMES, 1, 1)),
        (SIDE, SIDE),
    )
    return folder


def run(official, output, *arguments):
    everything = ["--pretrained_model_name_or_path", official, "--output_dir", output, *SMALL, *arguments]
    return generate.main([str(argument) for argument in everything])


def refused(*arguments):
    with pytest.raises(UserError) as error:
        run(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_official_flags_make_a_whole_scene(official, pictures, tmp_path, capsys):
    assert run(
        official, tmp_path, "--task", "1view", "--frame_path", pictures / "first.png", "--prompts", "a room",
        "--cameras", "zoom_in", "--remove_far_points",
    ) == 0  # fmt: skip
    folder = Path(capsys.readouterr().out.strip())
    assert folder.parent == tmp_path / "1view"
    names = {path.name for path in folder.glob("[!.]*")}
    assert names >= {"rgb.mp4", "points.ply", "cameras.json", "prompts.txt", "viewer.html", "run.json", "scene.glb"}
    assert (folder / "prompts.txt").read_text() == "a room\n"
    run_report = json.loads((folder / "run.json").read_text())
    assert run_report["options"]["seed"] == 42 and run_report["options"]["cameras"] == "zoom_in"
    stages = [stage["stage"] for stage in run_report["stages"]]
    assert "Sampling" in stages and "Decoding the video" in stages
    assert all(stage["seconds"] >= 0 and stage["host_peak_bytes"] > 0 for stage in run_report["stages"])
    assert read_scene(folder).rgb.shape == (FRAMES, SIDE, SIDE, 3)
    assert official.with_name("checkpoints-gen3r_jax").is_dir()  # converted once
    assert info.describe(folder)[0] == "scene of 5 frames of 112 x 112 pixels"


@pytest.mark.slow
def test_every_task(official, pictures, tmp_path):
    (tmp_path / "prompt.txt").write_text("a garden\nsecond line\n")
    two = [pictures / "first.png", pictures / "last.png"]
    short = ["--format", "maps"]
    assert run(official, tmp_path, "--task", "2view", "--frame_path", *two, "--prompts", tmp_path / "prompt.txt",
               "--cameras", pictures / "cameras.json", *short) == 0  # fmt: skip
    assert run(official, tmp_path, "--task", "allview", "--frame_path", pictures / "clip.mp4", "--prompts", "x",
               "--solver", "unipc", "--seed", 1, *short) == 0  # fmt: skip
    assert run(official, tmp_path, "--frame_path", *two, "--frame_index", 1, 3, "--prompts", "x", *short) == 0
    folders = sorted(path.parent for path in tmp_path.rglob("run.json"))
    assert len(folders) == 3
    assert {path.name for path in folders[0].glob("[!.]*")} == {
        *("cameras.json", "prompts.txt", "depth.npz", "confidence.npz", "run.json"),
    }
    second = next(path for path in folders if path.parent.name == "2view")
    assert (second / "prompts.txt").read_text() == "a garden\n"


def test_cameras_can_be_looked_at_first(official, pictures, tmp_path, capsys):
    run(official, tmp_path, "--frame_path", pictures / "first.png", "--prompts", "x", "--cameras", "orbit_left",
        "--camera_angle", 20, "--preview_cameras")  # fmt: skip
    assert Image.open(capsys.readouterr().out.strip()).size == (1000, 500)
    assert [path.name for path in tmp_path.iterdir()] == ["1view-cameras.png"]


@pytest.mark.slow
def test_a_step_cache_tells_what_it_did(official, pictures, tmp_path):
    run(official, tmp_path, "--frame_path", pictures / "first.png", "--prompts", "x", "--num_inference_steps", 5,
        "--step_cache", 1e9, "--check_step_cache", "--format", "maps")  # fmt: skip
    (report,) = tmp_path.rglob("run.json")
    results = json.loads(report.read_text())["results"]
    assert results["evaluated_steps"] == 2
    assert 0 < results["relative_latents"] < 10 and 0 < results["psnr_db"] < 100 and results["relative_depth"] > 0


@pytest.mark.parametrize("mode", ["resident", "staged"])
def test_costs_are_told_before_anything_is_loaded(official, tmp_path, capsys, mode):
    assert run(official, tmp_path, "--dry_run", "--memory_mode", mode) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("Sampling, 2 steps") for line in lines)
    assert "estimated peak on cpu" in lines[-2] and "no estimate of time for cpu" in lines[-1]
    assert not list(tmp_path.iterdir())


def test_costs_are_those_of_the_size_that_a_picture_asks_for(tmp_path, monkeypatch, capsys):
    Image.new("RGB", (300, 800)).save(tmp_path / "tall.png")
    monkeypatch.setattr("gen3r_jax.planning.estimate.estimate", lambda weights, request, *_: [])
    monkeypatch.setattr("gen3r_jax.planning.estimate.describe", lambda *_: [])
    flags = ["--weights", str(NANO), "--dry_run", "--size", "224", "--fit", "whole"]
    assert generate.main([*flags, "--images", str(tmp_path / "tall.png")]) == 0
    assert "frames of 112 x 336" in capsys.readouterr().out
    with pytest.raises(UserError, match="--fit whole takes its size from the first picture: give --images"):
        generate.main(flags)


def test_weights_know_what_they_were_made_for(official, tmp_path, capsys):
    """Flags override them."""
    file = official / "generation.json"
    try:
        file.write_text('{"num_inference_steps": 7, "num_frames": 4}')
        flags = "--pretrained_model_name_or_path", str(official), "--output_dir", str(tmp_path), "--dry_run"
        with pytest.raises(UserError, match="4 frames"):
            generate.main([*flags])
        file.write_text('{"num_inference_steps": 7, "num_frames": 9}')
        assert generate.main([*flags, *map(str, SMALL[:6])]) == 0
        assert "Sampling, 7 steps" in capsys.readouterr().out
        for text in ('{"side": 3}', "[", "[]", '{"height": "112"}', '{"num_frames": null}', '{"num_frames": 9.0}'):
            file.write_text(text)
            refused(official, tmp_path, "--dry_run")
    finally:
        file.unlink()


def test_jobs_go_on_where_they_stopped(official, pictures, tmp_path, capsys):
    jobs = [
        {"name": "one", "frame_path": "first.png", "prompts": "a room"},
        {"name": "broken", "frame_path": "nothing.png", "prompts": "a room"},
        {"name": "two", "frame_path": ["first.png", "last.png"], "task": "2view", "prompts": "a hall", "seed": 3},
        {"name": "unknown", "frame_path": "first.png", "prompts": "x", "speed": 3},
    ]
    file = pictures / "jobs.jsonl"
    file.write_text("\n".join(map(json.dumps, jobs)) + "\n{not json\n")
    assert run(official, tmp_path, "--jobs", file, "--format", "maps", "sheet") == 1
    errors = capsys.readouterr().err
    for part in ("broken: error:", "unknown key job.speed", "job0005: error: the line is not JSON"):
        assert part in errors, part
    assert "3 of 5 jobs failed" in errors and "jobs: 5 of 5 scenes, " in errors
    assert errors.splitlines()[-1].startswith("open ") and errors.splitlines()[-1].endswith("sheet.png")
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == ["one", "sheet.png", "two"]
    heights = [Image.open(tmp_path / name / "sheet.png").height for name in (".", "one", "two")]
    assert heights[0] > heights[1] + heights[2]
    before = (tmp_path / "one" / "run.json").stat().st_mtime_ns
    file.write_text("\n".join(map(json.dumps, jobs[:1] + jobs[2:3])))
    assert run(official, tmp_path, "--jobs", file, "--format", "maps") == 0
    assert "one: done before" in capsys.readouterr().err
    assert (tmp_path / "one" / "run.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prompts", "x"], "--images is needed"),
        (["--frame_path", "{}/first.png"], "--prompt is needed"),
        (["--frame_path", "{}/first.png", "--prompts", " "], "no prompt"),
        (["--frame_path", "{}/first.png", "{}/last.png", "--prompts", "x"], "2 images for 1view, which takes 1"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--task", "2view"], "has 1 frame, 2view takes 2"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--task", "allview"], "has 1 frame, allview takes 5"),
        (["--frame_path", "{}/none.png", "--prompts", "x"], "none.png"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--cameras", "fly"], "neither a file nor one of"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--num_frames", "8"], "8 frames are not 4 k"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--height", "100"], "side 100"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--num_inference_steps", "0"], "at least 1"),
        (
            ["--frame_path", "{}/first.png", "--prompts", "x", "--guidance_scale", "-2"],
            "guidance_scale must be at least 0",
        ),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--frame_index", "7"], "different indices"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--preview_cameras"], "there is no path to draw"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--fps", "nan"], "fps must be a finite number, not nan"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--seed", "-1"], "seed must be at least 0"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--cameras", "zoom_in", "--camera_angle", "9"], "zoom_in"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--camera_angle", "9"], "are of presets"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--camera_format", "colmap"], "is of camera files"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--check_step_cache"], "which is not given"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--size", "112", "--width", "224"], "say the same twice"),
        (["--dry_run", "--mesh", "seq=2"], "estimates for one device"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--mesh", "rows=2"], "with the axes data, fsdp, seq"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--mesh", "seq=3"], "does not fit 8 devices"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--camera_easing", "ends"], "no path to resample"),
        (["--frame_path", "{}/first.png", "--prompts", "x", "--camera_scale", "2"], "is of files and Cameras"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mistakes_are_one_line(official, pictures, tmp_path, arguments, message):
    text = refused(official, tmp_path, *(str(argument).format(pictures) for argument in arguments))
    assert message in text
    assert not list(tmp_path.rglob("*.json"))


def test_places_that_do_not_work(official, pictures, tmp_path):
    basic = ["--frame_path", pictures / "first.png", "--prompts", "x"]
    (tmp_path / "file").touch()
    assert "cannot write to" in refused(official, tmp_path / "file" / "below", *basic)
    assert "no weights at" in refused(tmp_path / "nowhere", tmp_path, *basic)
    assert "neither converted weights nor" in refused(tmp_path, tmp_path, *basic)


def test_an_interrupted_run_leaves_nothing(official, pictures, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(output, "write_scene", stop)
    with pytest.raises(KeyboardInterrupt):
        run(official, tmp_path, "--frame_path", pictures / "first.png", "--prompts", "x")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("task", "frames", "cameras"),
    [
        ("1view", ["1-view/knossos.png"], "arc_left"),
        pytest.param("1view", ["1-view/knossos.png"], "free", marks=pytest.mark.slow),
        pytest.param("2view", ["2-view/bedroom"], "2-view/bedroom/cameras.json", marks=pytest.mark.slow),
        pytest.param("allview", ["all-view/garden.mp4"], "free", marks=pytest.mark.slow),
    ],
)
def test_real_examples(official, tmp_path, task, frames, cameras):
    if not EXAMPLES.exists():
        pytest.skip("no example images at hand")
    paths = [EXAMPLES / frame for frame in frames]
    if task == "2view":
        paths = sorted(path for path in paths[0].iterdir() if path.suffix in (".png", ".jpg"))
    if cameras.endswith(".json"):  # made for images of 560 x 560, which the file does not say
        document = json.loads((EXAMPLES / cameras).read_text()) | {"width": 560, "height": 560}
        cameras = tmp_path / "cameras.json"
        cameras.write_text(json.dumps(document))
    assert run(official, tmp_path / "out", "--task", task, "--frame_path", *paths, "--prompts", "a place",
               "--cameras", cameras) == 0  # fmt: skip
    (folder,) = (path.parent for path in (tmp_path / "out").rglob("run.json"))
    scene = read_scene(folder)
    assert scene.rgb.shape == (FRAMES, SIDE, SIDE, 3) and np.isfinite(scene.points).all()
    with av.open(folder / "rgb.mp4") as video:
        assert video.streams.video[0].codec_context.name == "h264"


def test_one_command_for_everything(official, tmp_path):
    def gen3r(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "gen3r_jax", *map(str, arguments)], capture_output=True, text=True, check=False
        )

    told = gen3r("--help")
    assert told.returncode == 0 and all(name in told.stdout for name in ("generate", "reconstruct", "info", "train"))
    wrong = gen3r("paint")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: no command 'paint'")
    described = gen3r("info", find_weights(official))
    assert described.returncode == 0 and "weights of 6 networks" in described.stdout
    nothing = gen3r("info", tmp_path)
    assert nothing.returncode == 2 and nothing.stderr.count("\n") == 1


def test_prompts_that_are_no_paths():
    """Three bytes a character: more than a file's name may have."""
    request = Request(images=("a.png",), prompt="一" * 200)
    assert request.text() == "一" * 200


def test_texts_with_a_mark_or_in_another_code(tmp_path):
    (tmp_path / "marked.txt").write_bytes("\ufeffa room".encode())
    assert Request(images=("a.png",), prompt=str(tmp_path / "marked.txt")).text() == "a room"
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8"):
        Request(images=("a.png",), prompt=str(tmp_path / "latin.txt"))
    for texts in ({"prompt": "caf\udce9"}, {"prompt": "x", "negative_prompt": "caf\udce9"}):
        with pytest.raises(UserError, match=r"prompt is no text: character 3, '\\udce9', is none"):
            Request(images=("a.png",), **texts)


def test_jobs_that_make_no_sense_do_not_stop_the_others(tmp_path):
    (tmp_path / "sparse").mkdir()
    jobs = [
        {"frame_path": [], "prompts": "x"},
        {"frame_path": "a.png", "prompts": "x", "frame_index": ["a"]},
        {"frame_path": "a.png", "prompts": "x", "seed": 10**20},
        {"frame_path": "a.png", "prompts": "x", "cameras": "sparse"},
    ]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    found = [request for _, request in read_jobs(tmp_path / "jobs.jsonl", {"task": "1view"})]
    for request, message in zip(
        found, ("images is empty", "job.frame_index must be", "job.seed must be at least 0"), strict=False
    ):
        assert isinstance(request, UserError) and message in str(request)
    assert found[3].cameras == str(tmp_path / "sparse")


def test_pictures_of_jobs_are_beside_the_file_or_in_the_working_folder(tmp_path, monkeypatch):
    (tmp_path / "jobs").mkdir()
    for name in ("here.png", "jobs/here.png", "only.png"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    jobs = [{"images": image, "prompt": "x"} for image in ("here.png", "only.png", "nowhere.png")]
    Path("jobs/jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    found = [request.images for _, request in read_jobs(Path("jobs/jobs.jsonl"), {})]
    assert found == [("jobs/here.png",), ("only.png",), ("jobs/nowhere.png",)]


def test_the_size_of_a_job_is_a_side_or_both(tmp_path):
    jobs = [{"images": "a.png", "prompt": "x", "size": size} for size in (112, [112, 224])]
    (tmp_path / "jobs.jsonl").write_text("\n\n".join(map(json.dumps, jobs)))
    assert [request.size for _, request in read_jobs(tmp_path / "jobs.jsonl", {})] == [(112, 112), (112, 224)]


def test_flags_of_cameras_are_for_jobs_that_they_fit(tmp_path):
    (tmp_path / "cameras.json").write_text("{}")
    others = ({}, {"cameras": "cameras.json"}, {"cameras": "zoom_in"})
    jobs = [{"frame_path": "a.png", "prompts": "x", **cameras} for cameras in others]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, jobs)))
    flags = {"task": "1view", "cameras": "orbit_left", "camera_angle": 20.0, "camera_format": "opencv"}
    (_, first), (_, second), (_, third) = read_jobs(tmp_path / "jobs.jsonl", flags)
    assert (first.cameras, first.camera_angle, first.camera_format) == ("orbit_left", 20.0, None)
    assert (second.camera_angle, second.camera_format) == (None, "opencv")
    assert (third.camera_angle, third.camera_format) == (None, None)


def test_words_of_jobs_that_are_names_of_folders_stay_words(tmp_path):
    for name in ("kitchen", "spiral"):
        (tmp_path / name).mkdir()
    job = {"frame_path": "kitchen", "prompts": "kitchen", "cameras": "spiral"}
    other = {"frame_path": "a.png", "prompts": "one\u2028line"}
    lines = [json.dumps(job), json.dumps(other, ensure_ascii=False)]
    (tmp_path / "jobs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (_, first), (_, second) = read_jobs(tmp_path / "jobs.jsonl", {"task": "1view"})
    assert (first.prompt, first.cameras) == ("kitchen", "spiral")
    assert first.images == (str(tmp_path / "kitchen"),)
    assert second.prompt == "one\u2028line"


def test_a_folder_that_is_taken_is_refused_before_the_work(tmp_path):
    (tmp_path / "scene").mkdir()
    with scene_folder(tmp_path / "scene") as partial:  # reserved
        (partial / "run.json").write_text("{}")
    with pytest.raises(UserError, match="it is there already"), scene_folder(tmp_path / "scene"):
        raise AssertionError("the work began")
