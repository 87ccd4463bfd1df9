"""The weights that ship with the project: an image becomes a scene, and they are as good as when they were trained."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from configs.eval import get_config
from gen3r_jax import generate
from gen3r_jax.data.sources import open_source
from gen3r_jax.evaluation.options import read_evaluation
from gen3r_jax.evaluation.run import evaluate
from gen3r_jax.evaluation.tables import METRICS
from gen3r_jax.export.read import read_scene
from gen3r_jax.generation.pipeline import Gen3RPipeline
from gen3r_jax.generation.settings import read_settings
from tests.helpers.paths import NANO

# Row, metric, the mean that the weights had on these four scenes, and how much worse it may be.
RECORDED = [
    ("vae_only/allview", "psnr", 25.18, 0.3),
    ("vae_only/allview", "abs_rel", 0.119, 0.01),
    ("gen3r/1view+cameras", "psnr_new", 19.27, 0.5),
    ("gen3r/1view+cameras", "auc_30", 0.498, 0.08),
    ("gen3r/2view+cameras", "psnr_new", 21.36, 0.5),
    ("gen3r/2view+cameras", "chamfer", 0.156, 0.02),
]


def test_they_are_small():
    assert sum(path.stat().st_size for path in NANO.rglob("*") if path.is_file()) < 25e6


def test_an_image_becomes_a_scene(tmp_path):
    weights, image = ("--pretrained_model_name_or_path", str(NANO)), ("--frame_path", str(NANO / "example.png"))
    how = ("--cameras", "orbit_left", "--num_inference_steps", "3", "--output_dir", str(tmp_path))
    assert generate.main([*weights, *image, "--prompts", "a table on a field", *how]) == 0
    (folder,) = (tmp_path / "1view").iterdir()
    assert {"viewer.html", "sheet.png", "rgb.mp4", "points.ply", "run.json"} <= {path.name for path in folder.iterdir()}
    scene = read_scene(folder)
    assert scene.rgb.shape == (9, 112, 112, 3) and (scene.depth > 0).all()


@pytest.fixture(scope="module")
def mean(tmp_path_factory) -> Callable[[str, str], float]:
    """Means over test scenes, by row and metric, of a short evaluation."""
    config = get_config("nano")
    config.data.num_scenes = 4
    config.rows.update(tasks=("1view", "2view"), cameras=(True,), vggt=False)
    options, output = read_evaluation(config.to_dict(), read_settings(NANO)), tmp_path_factory.mktemp("evaluation")
    source = open_source("procedural", split="test", num_scenes=4, num_frames=9, size=(112, 112), cameras=True)
    evaluate(Gen3RPipeline.from_pretrained(NANO), source, options, output)
    scenes = [json.loads(path.read_text())["rows"] for path in sorted((output / "scenes").glob("*.json"))]
    assert len(scenes) == 4
    return lambda row, metric: np.mean([scene[row]["values"][metric] for scene in scenes])


@pytest.mark.slow
@pytest.mark.parametrize(("row", "metric", "recorded", "slack"), RECORDED)
def test_they_are_as_good_as_they_were(mean, row, metric, recorded, slack):
    better = -1 if METRICS[metric].better == "↓" else 1
    assert better * (mean(row, metric) - recorded) > -slack
