"""The pipeline with tiny random networks: what a sample depends on, what compiles, what is refused."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from conversion.__main__ import main as convert
from gen3r_jax import module
from gen3r_jax.diffusion.step_cache import evaluated_steps
from gen3r_jax.errors import UserError
from gen3r_jax.generation import programs
from gen3r_jax.generation.pipeline import Gen3RPipeline
from gen3r_jax.geometry.cameras import plucker_map
from gen3r_jax.models.registry import NETWORKS, PRESETS
from gen3r_jax.sharding import MeshOptions, make_mesh
from gen3r_jax.storage.hashes import write_hashes

FRAMES, SIDE, STEPS = 5, 112, 2
SETTINGS = {"num_frames": FRAMES, "num_inference_steps": STEPS}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gen3r")
    convert(["random", "gen3r", "--tiny", "--output", str(folder / "official")])
    convert(["gen3r", "--source", str(folder / "official"), "--output", str(folder / "weights")])
    return folder / "weights"


@pytest.fixture(scope="module")
def pipeline(weights):
    return Gen3RPipeline.from_pretrained(weights)


@functools.cache
def images(samples=1, frames=1):
    return np.random.default_rng(0).random((samples, frames, SIDE, SIDE, 3)).astype(np.float32)


@functools.cache
def cameras(samples=1):
    c2w = np.tile(np.eye(4, dtype=np.float32), (samples, FRAMES, 1, 1))
    c2w[:, :, 0, 3] = np.linspace(0, 1, FRAMES)
    intrinsics = np.array([[90, 0, 56], [0, 90, 56], [0, 0, 1]], np.float32)
    return plucker_map(np.broadcast_to(intrinsics, (samples, FRAMES, 3, 3)), c2w, (SIDE, SIDE))


@pytest.fixture(scope="module")
def result(pipeline):
    return pipeline("a quiet room", images(), cameras(), **SETTINGS)


def test_shapes_and_ranges(result):
    latents = (1, 2, SIDE // 8, 2 * SIDE // 8, 16)
    shapes = {
        "rgbs": (1, FRAMES, SIDE, SIDE, 3),
        "depth_maps": (1, FRAMES, SIDE, SIDE, 1),
        "depth_confidence": (1, FRAMES, SIDE, SIDE),
        "point_maps": (1, FRAMES, SIDE, SIDE, 3),
        "pcds": (1, FRAMES, SIDE, SIDE, 3),
        "point_masks": (1, FRAMES, SIDE, SIDE),
        "latents": latents,
    }
    assert {name: getattr(result, name).shape for name in shapes} == shapes
    assert [x.shape for x in result.cameras] == [(1, FRAMES, 3, 4), (1, FRAMES, 3, 3)]
    assert 0 <= result.rgbs.min() < result.rgbs.max() <= 1
    assert result.depth_maps.min() > 0 and result.depth_confidence.min() >= 1
    scene = result.scene(prompt="a quiet room")
    np.testing.assert_array_equal(scene.w2c[:, :3], result.cameras[0][0])
    pixels = np.einsum("tij,thwj->thwi", scene.w2c[:, :3, :3], scene.points - result.pcds[0])
    half = 0.5 * scene.depth / scene.intrinsics[:, 0, 0, None, None]
    np.testing.assert_allclose(pixels[..., 0], half, atol=1e-5)  # theirs are at corners


@pytest.mark.slow
def test_everything_that_steers_matters(pipeline, result):
    changes = {
        "prompt": pipeline("a loud street", images(), cameras(), **SETTINGS),
        "image": pipeline("a quiet room", 1 - images(), cameras(), **SETTINGS),
        "cameras": pipeline("a quiet room", images(), None, **SETTINGS),
        "seed": pipeline("a quiet room", images(), cameras(), seed=1, **SETTINGS),
        "guidance": pipeline("a quiet room", images(), cameras(), guidance_scale=2.0, **SETTINGS),
        "negative prompt": pipeline("a quiet room", images(), cameras(), negative_prompt="dark", **SETTINGS),
        "place": pipeline("a quiet room", images(), cameras(), control_frames=[2], **SETTINGS),
        "solver": pipeline("a quiet room", images(), cameras(), solver="unipc", **SETTINGS),
        "shift": pipeline("a quiet room", images(), cameras(), shift=4.0, **SETTINGS),
        "skip": pipeline("a quiet room", images(), cameras(), cfg_skip_ratio=0.5, **SETTINGS),
    }
    for name, changed in changes.items():
        assert np.abs(changed.latents - result.latents).max() > 1e-4, name
    again = pipeline("a quiet room", images(), cameras(), **SETTINGS)
    np.testing.assert_array_equal(again.latents, result.latents)


def test_nothing_is_compiled_twice(pipeline, result):
    """Prompt, image, seed, cameras, guidance, steps, solver and shift are numbers to the compiled programs."""
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if event.endswith("backend_compile_duration") else None
    )
    sizes = {name: f._cache_size() for name, f in vars(programs).items() if hasattr(f, "_cache_size")}
    for seed, solver, steps in ((5, "unipc", 3), (6, "dpm++", 4), (7, "euler", 1)):
        pipeline(
            f"scene {seed}", images() / 2, seed=seed, solver=solver, shift=3.0,
            num_frames=FRAMES, num_inference_steps=steps, guidance_scale=1.0 + seed,
        )  # fmt: skip
    assert {name: getattr(programs, name)._cache_size() for name in sizes} == sizes
    assert len(sizes) == 13
    assert compiled == []
    programs.step.clear_cache()
    pipeline("a quiet room", images(), num_frames=FRAMES, num_inference_steps=3)
    assert programs.step._cache_size() == 1  # the first step takes what the others leave


@pytest.mark.slow
def test_a_sample_depends_on_seed_and_index_alone(pipeline):
    """Measured: 7e-6 of latents up to 6."""
    batch = np.concatenate([images(), 1 - images()])
    both = pipeline(["a quiet room", "a loud street"], batch, **SETTINGS)
    first = pipeline("a quiet room", batch[:1], **SETTINGS)
    np.testing.assert_allclose(both.latents[:1], first.latents, atol=1e-4)
    np.testing.assert_allclose(both.rgbs[:1], first.rgbs, atol=1e-4)
    same = pipeline(["a quiet room"] * 2, np.concatenate([images()] * 2), **SETTINGS)
    assert np.abs(same.latents[0] - same.latents[1]).max() > 0.1  # another index, another draw


def _weigh_arrays():
    return sum(x.nbytes for x in jax.live_arrays())


@pytest.mark.slow
def test_memory_modes_agree(weights, pipeline, result):
    """Measured: 6e-6 of latents up to 6."""
    staged, most, weigh = Gen3RPipeline.from_pretrained(weights, memory_mode="staged"), [], _weigh_arrays
    before = weigh()
    staged("a quiet room", images(), cameras(), callback_on_step_end=lambda *_: most.append(weigh()), **SETTINGS)
    got = staged("a quiet room", images(), cameras(), **SETTINGS)
    np.testing.assert_allclose(got.latents, result.latents, atol=1e-4)
    largest = sum(x.nbytes for x in jax.tree.leaves(pipeline.network("wan_dit")))
    everything = sum(x.nbytes for x in jax.tree.leaves(pipeline._loaded))
    assert max(most) - before < largest + 0.2 * everything  # the transformer and what it works on
    assert weigh() - before < 0.1 * everything


@pytest.mark.slow
def test_devices_share_the_work(weights, result):
    """Measured: 1.3e-5 of latents up to 6, 5e-6 of colours, 4e-6 of depth up to 1."""
    with jax.set_mesh(make_mesh(MeshOptions(data=1, fsdp=2, seq=2, tensor=2))):
        pipeline = Gen3RPipeline.from_pretrained(weights)
        programs.step.clear_cache()
        got = pipeline("a quiet room", images(), cameras(), **SETTINGS)
        assert programs.step._cache_size() == 1
        kernel = pipeline.network("wan_dit")[1]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.spec == PartitionSpec(None, "fsdp", "tensor")
    for name in ("latents", "rgbs", "depth_maps"):
        np.testing.assert_allclose(getattr(got, name), getattr(result, name), atol=1e-4, err_msg=name)


def test_without_guidance_there_is_no_negative_prompt(pipeline):
    dark, light = (
        pipeline("a room", images(), guidance_scale=1.0, negative_prompt=text, **SETTINGS) for text in ("dark", "light")
    )
    np.testing.assert_array_equal(dark.latents, light.latents)


def test_a_step_cache_runs_fewer_steps(pipeline):
    settings = {**SETTINGS, "num_inference_steps": 8}
    exact = pipeline("a quiet room", images(), cameras(), **settings)
    assert exact.evaluations == 8
    cached = pipeline("a quiet room", images(), cameras(), step_cache=1e9, **settings)
    assert cached.evaluations == 2  # the first and the last
    assert np.abs(cached.latents - exact.latents).max() > 1e-3
    all_run = pipeline("a quiet room", images(), cameras(), step_cache=1e-30, **settings)
    assert 2 <= all_run.evaluations <= 8


def test_steps_are_taken_over_until_the_change_adds_up():
    modulations = 1.0 + 0.05 * np.arange(10)[:, None]
    counts = [evaluated_steps(modulations, threshold).sum() for threshold in (0, 0.1, 0.3, 100)]
    assert counts[0] == 10 and counts[-1] == 2 and sorted(counts, reverse=True) == counts
    assert evaluated_steps(modulations, 0.1)[[0, -1]].all()
    assert counts[1] > counts[2]
    assert evaluated_steps(np.ones((5, 3)), 0.1).tolist() == [True, False, False, False, True]


def test_steps_are_reported(pipeline, result):
    seen = []
    pipeline("a quiet room", images(), cameras(), callback_on_step_end=lambda *step: seen.append(step), **SETTINGS)
    assert [i for i, _, _ in seen] == [0, 1]
    assert seen[0][1] == 1000.0 > seen[1][1]
    np.testing.assert_array_equal(seen[-1][2], result.latents)


def test_given_noise_replaces_the_seed(pipeline, result):
    rng = np.random.default_rng(3)
    noise = rng.normal(size=result.latents.shape).astype(np.float32)
    eps = rng.normal(size=(*result.latents.shape[:3], SIDE // 8, 16)).astype(np.float32)
    first, second = (
        pipeline("a room", images(), seed=seed, latents=noise, posterior_noise=eps, **SETTINGS) for seed in (1, 2)
    )
    np.testing.assert_array_equal(first.latents, second.latents)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"control_images": images(1, 3)}, "3 images for 5 frames"),
        ({"control_images": images()[:, :, :100]}, "side 100 is not a multiple of 112"),
        ({"control_images": images()[0]}, "need the shape"),
        ({"prompt": ["one", "two"]}, "2 prompts for 1 samples"),
        ({"num_frames": 6}, "6 frames are not 4 k"),
        ({"num_inference_steps": 0}, "at least 1"),
        ({"guidance_scale": -1.0}, "guidance_scale must be at least 0, not -1.0"),
        ({"cfg_skip_ratio": 2.0}, "guidance_skip must be at least 0 and at most 1, not 2.0"),
        ({"step_cache": -0.1}, "step_cache must be at least 0, not -0.1"),
        ({"solver": "heun"}, "none of euler"),
        ({"control_frames": [5]}, "different indices from 0 to 4"),
        ({"control_frames": [0, 1]}, "1 images and 2 control_frames"),
        ({"control_cameras": np.zeros((1, 1, 112, 112, 6))}, r"control_cameras need the shape \[1, 5, 112, 112, 6\]"),
        ({"shift": np.inf}, "shift must be a finite number"),
        ({"control_images": 255 * images()}, "numbers from 0 to 1"),
        ({"control_images": np.zeros((1, 1, SIDE, SIDE, 3), np.uint8)}, "numbers from 0 to 1"),
        ({"control_images": np.nan * images()}, "numbers from 0 to 1"),
        ({"control_frames": np.array([0, 1])}, "1 images and 2 control_frames"),
        ({"latents": np.zeros((1, 2, 14, 14, 16))}, r"latents need the shape \[1, 2, 14, 28, 16\]"),
        ({"posterior_noise": np.zeros((1, 2, 14, 28, 16))}, r"posterior_noise need the shape \[1, 2, 14, 14, 16\]"),
    ],
    ids=lambda value: "" if isinstance(value, dict) else value,
)
def test_what_does_not_fit_is_refused(pipeline, changes, message):
    arguments = {"prompt": "a room", "control_images": images(), **SETTINGS, **changes}
    with pytest.raises(UserError, match=message):
        pipeline(**arguments)


def test_networks_that_were_not_made_for_each_other_are_refused(weights, tmp_path):
    for entry in weights.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "umt5").unlink()
    shutil.copytree(weights / "umt5", tmp_path / "umt5")
    description = json.loads((tmp_path / "umt5" / "config.json").read_text())
    description["config"] |= {"dim": 48, "vocab_size": 3}
    (tmp_path / "umt5" / "config.json").write_text(json.dumps(description))
    write_hashes(tmp_path / "umt5")
    with pytest.raises(UserError, match=r"text_dim and umt5.dim are 24 and 48; the tokenizer knows \d+ words, umt5 3"):
        Gen3RPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["umt5", "geometry_adapter"])
def test_the_network_that_gave_the_first_number_that_is_not_finite_is_named(pipeline, result, name, monkeypatch):
    graphdef, params = pipeline.network(name)
    broken = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), params)
    monkeypatch.setitem(pipeline._loaded, name, (graphdef, broken))
    monkeypatch.setattr(pipeline, "_prompts", {})
    with pytest.raises(module.NotFinite, match=f"what the network {name} gave is not finite"):
        pipeline("a quiet room", images(), cameras(), **SETTINGS)


def test_partial_folders_are_refused(weights, tmp_path):
    with pytest.raises(UserError, match="neither converted weights nor the official folder"):
        Gen3RPipeline.from_pretrained(tmp_path)
    (tmp_path / "vggt").symlink_to(weights / "vggt")
    with pytest.raises(UserError, match=r"lacks umt5, clip_vision, .*gen3r convert gen3r"):
        Gen3RPipeline.from_pretrained(tmp_path)
    (tmp_path / "vggt").unlink()
    for entry in weights.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "vggt").unlink()
    (tmp_path / "vggt").symlink_to(weights / "umt5")
    with pytest.raises(UserError, match="holds weights of UMT5Encoder, not of VGGT"):
        Gen3RPipeline.from_pretrained(tmp_path)
    for name in ("vggt", "scheduler.json", "hashes.json"):
        (tmp_path / name).unlink()
    (tmp_path / "vggt").symlink_to(weights / "vggt")
    for text, message in (("{", "is not JSON"), ("[]", "no JSON object"), ('{"shift": "2"}', "no shift above 0")):
        (tmp_path / "scheduler.json").write_text(text)
        with pytest.raises(UserError, match=message):
            Gen3RPipeline.from_pretrained(tmp_path)
    with pytest.raises(UserError, match="none of resident, staged"):
        Gen3RPipeline.from_pretrained(weights, memory_mode="tiny")


def test_results_are_plain_arrays(result):
    for field in dataclasses.fields(result):
        if field.name in ("prompts", "report"):
            continue
        assert all(isinstance(x, np.ndarray | int) for x in jax.tree.leaves(getattr(result, field.name))), field.name


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_that_is_loaded_again_is_the_same_to_the_compiler(name):
    """Memory mode "staged" loads networks for every scene; programs are compiled for the first alone."""
    build = functools.partial(NETWORKS[name], PRESETS["tiny"][name])
    graphdefs = [module.abstract(lambda rngs: build(rngs=rngs))[0] for _ in range(2)]
    assert graphdefs[0] == graphdefs[1] and hash(graphdefs[0]) == hash(graphdefs[1])
