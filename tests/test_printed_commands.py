"""What README and docs print works.

Each command is read by its own parser, each block of Python is imported; and, which takes minutes, everything that can
runs on tiny or nano sizes, one after the other in one folder.
"""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conversion.__main__ import main as convert
from gen3r_jax.data.procedural import render_clip
from gen3r_jax.export.video import write_video
from gen3r_jax.geometry.camera_files.official import write_cameras
from gen3r_jax.geometry.camera_files.transforms import write_transforms
from gen3r_jax.geometry.cameras import Cameras, invert_se3
from gen3r_jax.geometry.trajectories import camera_path
from tests.helpers.paths import REPOSITORY
from tests.helpers.printed import Printed, printed
from tests.helpers.raw_sets import shared
from tests.helpers.toy_scenes import write_root

PRINTED = printed()
BLOCKS = [item for item in PRINTED if not item.in_sentence]

# What a command or block begins with that cannot run in a test, how many there are, and why.
NOT_RUN = {
    r"pip install": (7, "the network"),
    r"gcloud |docker |while gcloud": (23, "a cloud project"),
    r"kubectl |xpk ": (4, "a cluster in a cloud"),
    r"squeue |tail |scancel ": (3, "a Slurm cluster"),
    r"tensorboard |gen3r serve |make serve": (4, "a server, which runs until it is stopped"),
    r"from gen3r_jax\.client ": (1, "a server that runs"),
    r"vbench ": (1, "VBench, which is not a dependency"),
    r"python simple_trainer|ns-train ": (2, "trainers of splats, and a GPU"),
    r"gen3r generate --weights JaceyH919/": (1, "the network"),
    r"gen3r plan .*--topology v5": (3, "compilers for TPUs, and minutes for each program"),
    r"python -m benchmarks\.(components|training --config configs/dit\.py) ": (2, "networks of full size"),
    r"python -m benchmarks\.ablations ": (1, "trainings of hours"),
    r"gen3r convert lpips |gen3r evaluate \.\.\.": (2, "weights that torchvision and lpips hand out"),
    r"import json\nimport torch": (1, "PyTorch, and the official code"),
}
# Words of the documents that stand for others.
PLACEHOLDERS = {
    "[:tiny]": ":tiny",
    "--component NAME --frames T --side S": "--component vggt_aggregator --frames 1 --side 112",
    "prove NETWORK": "prove vggt",
    "prepare NAME": "prepare re10k",
    "--restore STEP": "--restore 100",
    "evaluate ...": "evaluate --config configs/eval.py",
    " ...": "",
}
# What makes them small, where they run: each takes the place of what it finds.
SMALLER = {
    r"--workers \d+": "--workers 1",
    r"(?<![\w/])/data/": "data/",
    r"(configs/(?:adapter|dit)\.py)(?!:)": r"\1:tiny",
    r"^(gen3r train .*)": r"\1 --config.train.phases='((5,1,1),)' --config.validation.clips=1",
    r"^(gen3r train .*dit\.py.*)": r"\1 --config.samples.num_inference_steps=0",
    r"^(gen3r evaluate .*)": r"\1 --config.data.num_scenes=1 --config.metrics.num_points=200",
    r"^(gen3r generate .*pretrained/nano .*)": r"\1 --num_inference_steps 1",
    r"(--source (?:vggt|wan_vae|geo_adapter)/.* --output) weights/": r"\1 networks/",
    r"^(gen3r (?:train|encode) .*dit\.py:tiny.*)": r"\1 --config.data.sets='()'",  # their scenes are longer
    r"--clips 200000": "--clips 4",
    r"--num_scenes \d\d+": "--num_scenes 2",
    r"WEIGHTS": "pretrained/nano",
    r"49, \(560, 560\)": "9, (112, 112)",
    r"120, \(224, 224\)": "61, (112, 112)",
    r"images IMAGE": "images image.png",
    r"for i in 1 2 3 4": "for i in 1 2",
    r"replay (?:tests/recorded|FILE_OR_FOLDER\.\.\.)": "replay tests/recorded/dit_rope.safetensors",
    r"--clips 8 --mesh .*": "--clips 2",
    r"(benchmarks.reconstruction .*) --frames \d+": r"\1 --frames 13",
    r"(benchmarks.reconstruction .*) --scenes \d+": r"\1 --scenes 1",
    r"--frames 49 --side 560 --steps 50": "--preset tiny --frames 5 --side 112 --steps 1",
    r"^(python -m benchmarks.loader)": r"\1 --frames 5 --side 112 --clips 2 --image_size 112 112",
}
RAW = {
    "data/RealEstate10K": "realestate10k",
    "RealEstate10K": "realestate10k",
    "acid_v1_release": "acid",
    "DL3DV-ALL-960P": "dl3dv",
    "TartanAir": "tartanair",
    "CO3D": "co3d",
    "wildrgb-d": "wildrgbd",
    "waymo_v2": "waymo",
    "KITTI-360": "kitti360",
    "vkitti2": "vkitti",
    "VKITTI2": "vkitti",
    "MVImgNet": "mvimgnet",
    "captures": "capture",
}
FEWER_DEVICES = os.environ.get("XLA_FLAGS", "").replace("--xla_force_host_platform_device_count=8", "")
CLOUD = {"PROJECT": "p", "ZONE": "us-east5-b", "BUCKET": "b", "IMAGE": "pkg.dev/p/r/gen3r:1", "ACCOUNT": "a@p"}


def reason(item: Printed) -> str:
    """Why an item is not run; "" if it is."""
    return next((why for start, (_, why) in NOT_RUN.items() if re.match(start, item.text)), "")


def filled_in(text: str) -> str:
    for placeholder, words in PLACEHOLDERS.items():
        text = text.replace(placeholder, words)
    return text


def serve(what: str, items: list[tuple[str, str]], folder: Path) -> list[tuple[str, float]]:
    """What was wrong with each command or block, and its seconds; see :mod:`tests.helpers.run_printed`."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)} | {"XLA_FLAGS": FEWER_DEVICES}
    command = [sys.executable, "-m", "tests.helpers.run_printed", what]
    done = subprocess.run(
        command, input=json.dumps(items), cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout)


def test_what_cannot_run_is_counted():
    found = {start: sum(bool(re.match(start, item.text)) for item in BLOCKS) for start in NOT_RUN}
    assert found == {start: count for start, (count, _) in NOT_RUN.items()}
    text = "\n".join(item.text for item in PRINTED)
    assert [placeholder for placeholder in PLACEHOLDERS if placeholder not in text] == []


def test_commands_are_read_by_their_parsers():
    """Every flag and value that is printed is one that the command takes, every key of a config one that it has."""
    items = [item for item in PRINTED if re.match(r"gen3r |python -m ", item.text)]
    answers = serve("read", [("bash", filled_in(item.text)) for item in items], REPOSITORY)
    wrong = {
        f"{item.place}: {item.text}": answer
        for item, (answer, _) in zip(items, answers, strict=True)
        if answer and not (item.in_sentence and "arguments are required" in answer)
    }
    assert wrong == {}


@pytest.mark.parametrize("item", [x for x in PRINTED if x.language == "python"], ids=lambda item: item.place)
def test_blocks_of_python_import_what_there_is(item):
    for node in ast.walk(ast.parse(item.text)):
        if isinstance(node, ast.ImportFrom) and not reason(item):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


@pytest.mark.parametrize(
    "item", [x for x in PRINTED if re.match(r"make |launch/", x.text) and not reason(x)], ids=lambda item: item.place
)
def test_targets_and_launchers_say_what_they_would_do(item, tmp_path):
    (tmp_path / "ready").touch()
    program, _, rest = filled_in(item.text).partition(" ")
    dry = f"{program} --dry-run VENV={tmp_path} {rest}" if program == "make" else f"{program} --dry_run {rest}"
    options = {"cwd": REPOSITORY, "env": {"PATH": os.defpath, **CLOUD}, "capture_output": True, "text": True}
    done = subprocess.run(["bash", "-c", dry], timeout=60, **options)
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """A folder with everything that the documents speak of as given: pictures, videos, raw data, official weights."""
    folder = tmp_path_factory.mktemp("printed")
    for name in ("Makefile", "pyproject.toml", "requirements.txt", "setup.py", "configs", "pretrained", "tests"):
        (folder / name).symlink_to(REPOSITORY / name)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o700)
    (folder / ".venv/ready").touch()

    convert(["random", "gen3r", "--tiny", "--output", str(folder / "checkpoints")])
    for name, official in {"vggt": "vggt", "wan_vae": "wan_vae", "geo_adapter": "geo_adapter"}.items():
        (folder / name).symlink_to(folder / "checkpoints" / official)
    rendered = render_clip(0, 9, (112, 140))
    clip, numbers = rendered.frames, range(len(rendered.frames))
    cameras = Cameras(rendered.c2w, rendered.intrinsics, np.tile((112, 140), (len(clip), 1)))
    write_transforms(folder / "transforms.json", [f"{number}.png" for number in numbers], cameras)
    (folder / "DEPTH").mkdir()
    for number in numbers:
        np.save(folder / "DEPTH" / f"{number}.npy", rendered.depth[number])
    for name in ("image.png", "first.png", "last.png", "photo.jpg", "a.jpg", "b.jpg", "scene0.png"):
        Image.fromarray(clip[0]).save(folder / name)
    for name in ("VIDEO.mp4", "video.mp4"):
        write_video(folder / name, clip)
    for name in ("style.safetensors", "camera.safetensors"):
        (folder / name).symlink_to(REPOSITORY / "tests/recorded/lora/adapter_model.safetensors")
    write_cameras(
        folder / "cameras.json",
        invert_se3(camera_path("truck_right", 5)),
        np.tile(np.array([[100.0, 0, 56], [0, 100, 56], [0, 0, 1]]), (5, 1, 1)),
        (112, 112),
    )
    (folder / "prompt.txt").write_text("a hall\n")
    (folder / "jobs.jsonl").write_text('{"name": "scene0", "images": "scene0.png", "prompt": "a hall"}\n')
    scenes = ("vkitti/Scene01_clone_cam0_c000", "re10k/0000000000000001")
    captions = (json.dumps({"scene": scene, "captions": ["a street"]}) for scene in scenes)
    (folder / "captions.jsonl").write_text("\n".join(captions))
    write_root(folder / "DATASET_ROOT", {"re10k": 2})
    (folder / "DATA").symlink_to(folder / "DATASET_ROOT")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shared, "STEP", 0.05)
        for name, module in RAW.items():
            importlib.import_module(f"tests.helpers.raw_sets.{module}").write(folder / name, frames=33)
    return folder


@pytest.mark.printed
def test_everything_runs(workplace):
    """In the order of the documents, but for weights and data sets, which others speak of as given, first."""
    first = ("docs/weights.md", "docs/datasets.md", "")
    items = [item for item in BLOCKS if not reason(item)]
    items.sort(key=lambda item: [item.place.startswith(name) for name in first].index(True))
    items = [item for item in items if not item.text.startswith("launch/")]  # they are looked at above
    texts, used = list(dict.fromkeys((item.language, filled_in(item.text)) for item in items)), set()
    for number, (language, text) in enumerate(texts):
        for found, smaller in SMALLER.items():
            text, count = re.subn(found, smaller, text)
            used |= {found} if count else set()
        # A work folder belongs to one training, and the documents print several for some of them.
        texts[number] = (language, re.sub(r"--workdir (runs/dit|DIR)(?= )", f"--workdir runs/{number}", text))
    assert used == set(SMALLER)
    answers = serve("run", texts, workplace)
    assert {text: wrong for (_, text), (wrong, _) in zip(texts, answers, strict=True) if wrong} == {}
