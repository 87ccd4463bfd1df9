"""The transformer's training stage: what its loss is made of, and what must not change it."""

import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs.dit import get_config
from gen3r_jax import module
from gen3r_jax.data.encoded import Header
from gen3r_jax.diffusion.conditioning import camera_condition, camera_maps
from gen3r_jax.diffusion.tasks import TASKS
from gen3r_jax.errors import UserError
from gen3r_jax.generation.settings import SamplingOptions
from gen3r_jax.geometry.cameras import plucker_map
from gen3r_jax.models.wan_dit import WanDiT
from gen3r_jax.sharding import MeshOptions, batch_sharding, make_mesh, param_shardings
from gen3r_jax.stages.config import read_config
from gen3r_jax.stages.dit import inputs as dit_inputs
from gen3r_jax.stages.dit import tuning
from gen3r_jax.stages.dit.inputs import StoredInputs, draw_tasks
from gen3r_jax.stages.dit.stage import (
    ConditionOptions,
    DiTStage,
    LossOptions,
    ModelOptions,
    NoiseOptions,
    WeightsOptions,
)
from gen3r_jax.stages.dit.tuning import TuningOptions
from gen3r_jax.stages.random_weights import random_weights
from tests.helpers.toy_training import run_encoders

MODEL = ModelOptions("tiny", remat="none", vae_chunk_frames=0, frozen_dtype="float32")
STAGE = DiTStage(
    MODEL,
    WeightsOptions(dir="", wan_dit="", encoded=""),
    TuningOptions(),
    ConditionOptions(text_drop=0.2, camera_drop=0.5),
    NoiseOptions(shift=2.0, density="none", weighting="none", strata=4),
    SamplingOptions(num_inference_steps=2, guidance_scale=5.0, negative_prompt="bad detailed"),
)
F, SIDE = 2, 4  # latent frames and their side
CONFIG = STAGE.networks.configs["wan_dit"]


def stored(count=4, seed=0):
    """What is stored of so many samples, of random numbers."""
    rng = np.random.default_rng(seed)
    names = dit_inputs.posterior_names("appearance", "geometry", "1view", "2view")
    batch = {name: rng.normal(-9.0 * ("logvar" in name), 1, (count, F, SIDE, SIDE, 16)) for name in names}
    batch["text"] = rng.normal(size=(count, CONFIG.text_len, CONFIG.text_dim))
    batch["image"] = rng.normal(size=(count, 5, CONFIG.image_dim))  # 257 are as good
    batch["c2w"] = np.tile(np.eye(4), (count, 4 * F - 3, 1, 1)) + 0.01 * rng.normal(size=(count, 4 * F - 3, 4, 4))
    batch["intrinsics"] = np.tile([[30.0, 0, 16], [0, 30, 16], [0, 0, 1]], (count, 4 * F - 3, 1, 1))
    batch = {name: value.astype(np.float32) for name, value in batch.items()}
    return batch | {"has_cameras": np.ones(count, bool), "sample_index": np.arange(count, dtype=np.int32)}


def drawn(stage, count, start=0):
    return jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(jnp.arange(start, start + count))


@pytest.fixture(scope="module")
def params():
    """All branches count; the head of a new network is zero."""
    return jax.tree.map(jnp.asarray, random_weights(WanDiT, CONFIG, seed=3))


@pytest.fixture(scope="module")
def inputs():
    """What the loss reads of four samples, and their keys."""
    batch, keys = stored(), drawn(STAGE, 4)
    chosen = dit_inputs.choose(batch, jnp.zeros((CONFIG.text_len, CONFIG.text_dim)), keys, 0.2, 1 / 3)
    return {name: (batch | chosen)[name] for name in STAGE.loss_reads}, keys


def step_of(stage):
    return jax.jit(jax.value_and_grad(lambda *inputs: stage.loss(*inputs), has_aux=True))


@pytest.fixture(scope="module")
def reference(params, inputs):
    """((loss, metrics), gradients) of the plain stage."""
    return step_of(STAGE)(params, {}, *inputs)


def assert_same_step(step, reference):
    """Measured on any mesh, and with the blocks computed again: 1e-6 of the gradient's norm."""
    (loss, _), gradients = step
    (expected_loss, _), expected = reference
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    error = optax.tree.norm(jax.tree.map(jnp.subtract, gradients, expected))
    assert error < 1e-4 * optax.tree.norm(expected), error / optax.tree.norm(expected)


def test_the_loss_is_that_of_both_halves(reference):
    (loss, metrics), gradients = reference
    np.testing.assert_allclose(loss, (metrics["appearance_loss"] + metrics["geometry_loss"]) / 2, rtol=1e-6)
    dead = [name for name, leaf in module.flatten(gradients).items() if not np.abs(leaf).max() > 0]
    # A bias of keys moves all scores of a query alike; where its norm has only the bias to see, it counts.
    assert not dead, dead


def test_the_halves_are_weighed(params, inputs, reference):
    (_, metrics), _ = reference
    weighed = replace(STAGE, losses=LossOptions(geometry=3.0))
    loss, _ = jax.jit(weighed.loss)(params, {}, *inputs)
    expected = (metrics["appearance_loss"] + 3 * metrics["geometry_loss"]) / 4
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_noise_levels_that_do_not_exist():
    with pytest.raises(UserError, match=r"levels \[0.0, 1.5\]: noise levels are above 0 and at most 1"):
        LossOptions(levels=(0.5, 0.0, 1.5))


MESHES = [
    MeshOptions(data=2, fsdp=2, seq=2),
    pytest.param(MeshOptions(data=1, fsdp=1, seq=2, tensor=4), marks=pytest.mark.slow),
    # Three heads on four devices: keys and values are gathered.
    pytest.param(MeshOptions(data=1, fsdp=2, seq=4), marks=pytest.mark.slow),
    pytest.param(MeshOptions(data=2, fsdp=1, seq=1, tensor=4), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", MESHES, ids=str)
def test_any_mesh_gives_the_same_step(options, params, inputs, reference):
    mesh = make_mesh(options)
    batch, keys = inputs
    placed = {name: jax.device_put(x, batch_sharding(mesh, x.shape, ("batch",))) for name, x in batch.items()}
    with jax.set_mesh(mesh):
        step = step_of(STAGE)(jax.device_put(params, param_shardings(params, mesh)), {}, placed, keys)
    assert_same_step(jax.device_get(step), reference)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["full", "offload"])
def test_what_is_kept_for_the_gradient_does_not_change_it(remat, params, inputs, reference):
    stage = replace(STAGE, model=replace(MODEL, remat=remat))
    assert_same_step(step_of(stage)(params, {}, *inputs), reference)


def test_a_sample_does_not_depend_on_its_batch(params, inputs, reference):
    batch, keys = inputs
    loss = jax.jit(STAGE.loss)
    halves = [
        loss(params, {}, {name: x[part] for name, x in batch.items()}, keys[part])[0]
        for part in (slice(0, 2), slice(2, 4))
    ]
    assert abs(halves[0] - halves[1]) > 1e-3
    np.testing.assert_allclose(np.mean(halves), reference[0][0], rtol=1e-5)


def test_draws_follow_the_recipe():
    keys = drawn(STAGE, 6000)
    for all_frames in (1 / 3, 0.6):
        tasks = np.bincount(draw_tasks(keys, all_frames), minlength=3) / 6000
        rest = (1 - all_frames) / 2
        np.testing.assert_allclose(tasks, [rest, rest, all_frames], atol=0.03)
    index = jnp.arange(6000)
    sigmas = np.asarray(STAGE.levels(index, keys))
    u = sigmas / (2 - sigmas)  # the shift undone: evenly spread, from noise to clean in four equal parts
    np.testing.assert_allclose(np.histogram(u, bins=10, range=(0, 1))[0] / 6000, 0.1, atol=0.02)
    for part in range(4):
        assert ((1 - u[part::4] >= part / 4 - 1e-3) & (1 - u[part::4] <= (part + 1) / 4)).all()
    middle = replace(STAGE, noise=replace(STAGE.noise, density="logit_normal"))
    assert np.mean(np.abs(np.asarray(middle.levels(index, keys)) - 2 / 3) < 0.2) > 0.5


def test_stored_latents_of_the_drawn_task_and_text():
    batch, keys = stored(64), drawn(STAGE, 64)
    inputs = StoredInputs(
        CONFIG, {"": np.full((CONFIG.text_len, CONFIG.text_dim), 7.0)}, joint=True, text_drop=0.2, all_frames=1 / 3
    )
    (encoder,) = inputs.encoders
    chosen = encoder.function({}, {name: batch[name] for name in encoder.reads}, keys)
    for i, task in enumerate(np.asarray(draw_tasks(keys, 1 / 3))):
        name = {"1view": "1view", "2view": "2view", "allview": "appearance"}[TASKS[task]]
        np.testing.assert_array_equal(chosen["given_mean"][i], batch[f"{name}_mean"][i])
    empty = np.array([(text == 7).all() for text in chosen["text"]])
    assert 0.05 < empty.mean() < 0.4
    np.testing.assert_array_equal(np.asarray(chosen["text"])[~empty], batch["text"][~empty])


def test_cameras_are_those_of_the_pipeline():
    batch = stored(2)
    cameras = jnp.asarray(batch["intrinsics"]), jnp.asarray(batch["c2w"])
    maps = camera_maps(*cameras, (32, 32))
    whole = camera_condition(plucker_map(*cameras, (32, 32)))
    np.testing.assert_allclose(jnp.concatenate([maps, maps], axis=3), whole, atol=1e-5)


def test_cameras_that_are_unknown_do_not_count(params, inputs):
    batch, keys = inputs
    always = replace(STAGE, conditions=ConditionOptions(text_drop=0.0, camera_drop=0.0))
    loss = jax.jit(always.loss)
    unknown = batch | {"has_cameras": np.zeros(4, bool)}
    moved = unknown | {"c2w": batch["c2w"] + 0.3}
    assert loss(params, {}, unknown, keys)[0] == loss(params, {}, moved, keys)[0]
    assert loss(params, {}, unknown, keys)[0] != loss(params, {}, batch, keys)[0]


@pytest.mark.parametrize("mode", [pytest.param("camera", marks=pytest.mark.slow), "lora"])
def test_a_part_of_the_weights_is_trained(mode, params, inputs, reference):
    options = TuningOptions(mode, rank=2, targets=r"blocks\.self_attn\.(q|v)\.kernel")
    stage = replace(STAGE, tuning=options)
    new = mode == "lora"
    trainable = jax.jit(stage.init)(jax.random.key(0)) if new else tuning.trainable_part(options, params)
    frozen = {"wan_dit": tuning.frozen_part(options, params)}
    (loss, _), gradients = step_of(stage)(trainable, frozen, *inputs)
    np.testing.assert_allclose(loss, reference[0][0], rtol=1e-6)  # factors begin at zero
    if mode == "camera":
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6 + 1e-4 * np.abs(b).max()),
            gradients["camera_adapter"],
            reference[1]["camera_adapter"],
        )
        return
    assert set(gradients) == {"blocks.self_attn.q.kernel", "blocks.self_attn.v.kernel"}
    # The gradient of the second factor is that of the kernel, seen through the first.
    down, up = trainable["blocks.self_attn.q.kernel"]["down"], gradients["blocks.self_attn.q.kernel"]["up"]
    kernel = reference[1]["blocks"]["self_attn"]["q"]["kernel"]
    np.testing.assert_allclose(up, jnp.einsum("lir,lio->lro", down, kernel), atol=1e-5 * np.abs(up).max() + 1e-8)


@pytest.mark.parametrize("target", ["blocks.mlp.up.kernel", "patch_embed.kernel"])
def test_factors_beside_kernels_are_those_merged(target, params):
    options = TuningOptions("lora", rank=2, scale=0.5, targets=re.escape(target))
    factors = tuning.new_weights(options, params, jax.random.key(0))
    factors = jax.tree.map(lambda x: x + 0.1, factors)
    down, up = factors[target].values()
    merged = module.flatten(tuning.merged(options, factors, params))[target]
    np.testing.assert_allclose(merged, module.flatten(params)[target] + 0.5 * down @ up, atol=1e-5)
    network = tuning.network(options, STAGE.networks.graph("wan_dit"), factors, params)
    layer = network.patch_embed
    if target.startswith("blocks"):
        layer, merged = jax.tree.map(lambda x: x[1], network.blocks.mlp.up), merged[1]
    x = jax.random.normal(jax.random.key(1), (5, merged.shape[0]))
    np.testing.assert_allclose(layer(x), x @ merged + layer.bias[...], atol=1e-4)


def test_factors_need_kernels(params):
    with pytest.raises(UserError, match=r"matches no kernel; there are blocks\."):
        tuning.new_weights(TuningOptions("lora", targets=r"blocks\.none"), params, jax.random.key(0))
    with pytest.raises(UserError, match=r"the network has no blocks\.x\.kernel"):
        tuning.merged(TuningOptions("lora"), {"blocks.x.kernel": {}}, params)
    with pytest.raises(UserError, match="no regular expression"):
        TuningOptions("lora", targets="(")


def test_appearance_alone(inputs):
    batch, keys = inputs
    stage = replace(STAGE, model=replace(MODEL, latents="appearance"))
    assert "geometry_mean" not in stage.loss_reads
    assert not stage.networks.configs["wan_dit"].shared_halves
    assert stage.inputs.frozen == ("umt5", "clip_vision", "wan_vae")
    shapes = jax.eval_shape(stage.init, jax.random.key(0))
    loss, metrics = jax.eval_shape(stage.loss, shapes, {}, {name: batch[name] for name in stage.loss_reads}, keys)
    assert loss.shape == () and "geometry_loss" not in metrics


@pytest.mark.parametrize(("latents", "there"), [("appearance", True), ("appearance", False), ("joint", True)])
def test_latents_that_hold_enough(latents, there, tmp_path):
    stage = replace(STAGE, model=replace(MODEL, latents=latents), weights=WeightsOptions("", "", str(tmp_path)))
    texts = dict.fromkeys(("", "bad detailed"), np.zeros((CONFIG.text_len, CONFIG.text_dim)))
    Header(4 * F - 3, 8 * SIDE, there, "float16", {}, {}, texts).write(tmp_path)
    assert stage.load_frozen() == {}
    assert ("geometry_mean" in stage.entries) == (latents == "joint")


def test_a_negative_prompt_that_was_not_encoded(tmp_path):
    stage = replace(STAGE, weights=WeightsOptions("", "", str(tmp_path)))
    Header(4 * F - 3, 8 * SIDE, True, "float16", {}, {}, {"": np.zeros((1, 1))}).write(tmp_path)
    with pytest.raises(UserError, match="negative_prompt 'bad detailed', but of ''"):
        stage.load_frozen()


def test_geometry_cannot_be_learnt_from_latents_of_appearance(tmp_path):
    stage = replace(STAGE, weights=WeightsOptions("", "", str(tmp_path)))
    Header(4 * F - 3, 8 * SIDE, False, "float16", {}, {}, {}).write(tmp_path)
    with pytest.raises(UserError, match="latents of appearance alone"):
        stage.load_frozen()


@pytest.mark.slow
def test_frames_and_stored_latents_give_the_same_loss(params):
    """Encoded in the step, or before: the same samples, keys and noise."""
    rng = np.random.default_rng(0)
    frames = np.asarray(jax.image.resize(rng.uniform(0, 255, (3, 5, 4, 4, 3)), (3, 5, 112, 112, 3), "linear"))
    cameras = {name: stored(3)[name] for name in ("c2w", "intrinsics", "has_cameras")}
    captions = ["a red ball", "a room", "two boxes"]
    batch = STAGE.inputs.prepare({"frames": frames.astype(np.uint8), "caption": captions, **cameras})
    frozen = STAGE.load_frozen()
    keys = drawn(STAGE, 3)
    assert set(np.asarray(draw_tasks(keys, 1 / 3))) == {0, 1, 2}
    batch |= {"sample_index": np.arange(3)}

    everything = STAGE.inputs.encode_all(frozen, batch) | {"sample_index": np.arange(3)}
    texts = dict(zip([""], np.asarray(STAGE.inputs.encode_texts(frozen, [""])), strict=True))
    before = StoredInputs(CONFIG, texts, joint=True, text_drop=0.2, all_frames=1 / 3)
    (choose,) = before.encoders
    everything |= choose.function({}, {name: everything[name] for name in choose.reads}, keys)
    now = jax.jit(lambda frozen, batch: run_encoders(STAGE, frozen, batch, keys))(
        frozen, {name: batch[name] for name in (*STAGE.entries, "sample_index")}
    )
    loss = jax.jit(STAGE.loss)
    losses = [loss(params, {}, {name: x[name] for name in STAGE.loss_reads}, keys)[0] for x in (now, everything)]
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_strata_must_divide_the_batch():
    config = get_config("tiny").to_dict()
    config["train"]["batch_size"] = 6
    with pytest.raises(UserError, match=r"6 is not a multiple of noise\.strata 4"):
        read_config(config)
    config["train"]["batch_size"] = 8
    stage, options = read_config(config)
    assert isinstance(stage, DiTStage) and options.train.batch_size == 8


def test_a_random_transformer_is_trained_as_a_whole():
    config = get_config("tiny").to_dict()
    config["weights"]["wan_dit"] = "random"
    stage = read_config(config)[0]
    assert stage.load_trainable() is None and stage.networks.configs["wan_dit"].dim == 144
    config["tuning"]["mode"] = "camera"
    with pytest.raises(UserError, match="nothing is there to tune"):
        read_config(config)[0].load_trainable()
