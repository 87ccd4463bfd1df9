"""Preparing data sets: what all sets share, on Virtual KITTI 2."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data.depth import read_depth
from gen3r_jax.data.format import read_transforms
from gen3r_jax.data.prepare.frames import Developing
from gen3r_jax.data.prepare.recording import ReadOptions
from gen3r_jax.data.prepare.registry import NAMES, data_set
from gen3r_jax.data.prepare.run import Settings, prepare
from gen3r_jax.errors import UserError
from raw_sets import shared, vkitti
from raw_sets.prepared import prepare_set, read_scene_folder


def test_the_shared_camera_comes_out(tmp_path):
    scene = read_scene_folder(prepare_set("vkitti", vkitti.write(tmp_path / "raw"), tmp_path / "out")[0])
    shared.assert_camera(scene.cameras)
    np.testing.assert_allclose(scene.depth[:, 1, 1], [2.0, 1.5, 1.0], rtol=1e-3)
    assert (scene.depth[:, 0, 0] == 0).all(), "the sky has no depth"
    assert scene.description["scale"] == "metric"
