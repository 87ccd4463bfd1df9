"""The adapter's training stage: what its loss is made of, and what must not change it."""

import functools
from dataclasses import fields, replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.generation import networks
from gen3r_jax.models.causal_autoencoder import DiagonalGaussian
from gen3r_jax.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig
from gen3r_jax.sharding import MeshOptions, batch_sharding, make_mesh, param_shardings
from gen3r_jax.stages.adapter import validation as adapter_validation
from gen3r_jax.stages.adapter.stage import AdapterStage, LossOptions, ModelOptions, WeightsOptions, weigh
from gen3r_jax.stages.random_weights import random_weights
from gen3r_jax.storage.checkpoint import save_network
from tests.helpers.toy_training import run_encoders

MODEL = ModelOptions("tiny", remat="none", frames_per_group=8, vae_chunk_frames=0, frozen_dtype="float32")
LOSSES = LossOptions(
    reconstruction=0.5,
    image_token=1.0,
    camera_token=1.0,
    camera=10.0,
    depth=2.0,
    point=1.0,
    similarity=0.1,
    alignment=2.0,
    kl="align",
    kl_weight_per="sample",
)
STAGE = AdapterStage(MODEL, WeightsOptions(dir="", adapter=""), LOSSES)


@pytest.fixture(scope="module")
def frozen():
    return jax.tree.map(jnp.asarray, STAGE.load_frozen())


@pytest.fixture(scope="module")
def trainable():
    """Drawn in NumPy: compiling the draws of `init` takes longer than a test may."""
    config = replace(GeometryAdapterConfig.tiny(), input_dim=320)
    return jax.tree.map(jnp.asarray, random_weights(GeometryAdapter, config, seed=2))


@pytest.fixture(scope="module")
def batch():
    """Two clips of five smooth frames that change."""
    noise = np.random.default_rng(0).uniform(0, 255, (2, 5, 5, 5, 3))
    return {"frames": np.asarray(jax.image.resize(noise, (2, 5, 56, 56, 3), "linear")).astype(np.uint8)}


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(1), 2)


def loss_of(stage):
    """The loss of a batch of frames."""
    return lambda trainable, frozen, batch, keys: stage.loss(
        trainable, frozen, run_encoders(stage, frozen, batch, keys), keys
    )


@functools.cache
def gradient_of(stage):
    return jax.jit(jax.value_and_grad(loss_of(stage), has_aux=True))


@pytest.fixture(scope="module")
def reference(trainable, frozen, batch, keys):
    """((loss, metrics), gradients) of the plain stage."""
    return gradient_of(STAGE)(trainable, frozen, batch, keys)


def assert_same_step(step, reference):
    """Losses and gradients agree up to rounding.

    Measured on any mesh: 2.0e-4 of the gradient's norm, and 1.1e-3 of a leaf's largest entry. That is what rounding
    does here: the plain step, compiled at another optimization level, differs by 1.5e-4 and 0.9e-3.
    """
    (loss, _), gradients = step
    (expected_loss, _), expected = reference
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    error = optax.tree.norm(jax.tree.map(jnp.subtract, gradients, expected))
    assert error < 1e-3 * optax.tree.norm(expected)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected))

    def check(a, b):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-3 * max(np.abs(b).max(), 1e-3 * largest))

    jax.tree.map(check, gradients, expected)


def test_loss_is_the_weighted_sum_of_its_parts(reference):
    (loss, metrics), gradients = reference
    parts = ("image_token_loss", "camera_token_loss", "camera_loss", "depth_loss", "point_loss")
    inner = np.dot([float(metrics[name]) for name in parts], [1, 1, 10, 2, 1])
    np.testing.assert_allclose(metrics["reconstruction"], 0.5 * inner, rtol=1e-5)
    groups = [metrics[name] for name in ("reconstruction", "similarity", "alignment")]
    np.testing.assert_allclose(loss, sum(groups), rtol=1e-6)
    assert all(np.isfinite(x) and np.shape(x) == () for x in metrics.values())
    norms = {name: float(jnp.linalg.norm(leaf)) for name, leaf in module.flatten(gradients).items()}
    assert all(norm > 0 for norm in norms.values()), norms


def posterior(seed, mean=0.0):
    rng = np.random.default_rng(seed)
    return DiagonalGaussian(*(jnp.asarray(rng.normal(m, 0.5, (2, 2, 3, 4, 5)), jnp.float32) for m in (mean, 0)))


def terms(scale=1.0):
    names = ("image_token_loss", "camera_token_loss", "camera_loss", "depth_loss", "point_loss")
    return {name: scale * jnp.array([1.0, 3.0]) for name in (*names, "image_distance", "camera_distance")}


WEIGHTS = [field.name for field in fields(LossOptions) if isinstance(field.default, float)]


@pytest.mark.parametrize("name", WEIGHTS)
def test_every_weight_counts(name):
    weights = LossOptions(**dict.fromkeys(WEIGHTS, 1.0))
    more = replace(weights, **{name: 3.0})
    one, other = (weigh(w, terms(), posterior(0), posterior(1, 2.0))[0] for w in (weights, more))
    assert one != other


@pytest.mark.parametrize(
    ("kl", "factor", "p"), [("align", 0.2, posterior(1, 2.0)), ("standard", 1.0, None), ("none", 0.0, None)]
)
def test_choices_of_the_divergence(kl, factor, p):
    q, video = posterior(0, 1.0), posterior(1, 2.0)
    loss, metrics = weigh(replace(LOSSES, kl=kl), terms(), q, video)
    base = 0.5 * 15 * 2 + 0.1 * 2 * 2
    if kl == "none":
        assert "kl" not in metrics and "alignment" not in metrics
        np.testing.assert_allclose(loss, base, rtol=1e-6)
        return
    variance = jnp.exp(q.logvar)
    against = (jnp.zeros(()), jnp.zeros(())) if p is None else (p.mean, p.logvar)
    full = 0.5 * (((q.mean - against[0]) ** 2 + variance) / jnp.exp(against[1]) - 1 - q.logvar + against[1])
    full = full.sum((1, 2, 4)).mean(1)
    target = 0.5 * 15 * np.array([1.0, 3.0])
    powers = 10.0 ** np.minimum(0, np.floor(np.log10(target / full)))
    assert (powers < 1).all() or kl == "standard"
    np.testing.assert_allclose(metrics["kl"], full.mean(), rtol=1e-5)
    np.testing.assert_allclose(loss, base + factor * (powers * full).mean(), rtol=1e-5)


def test_power_of_ten_of_a_sample_or_of_a_batch():
    # The divergences are equal, the other losses are not: alone, the samples have different powers of ten.
    q = DiagonalGaussian(jnp.full((2, 1, 1, 1, 10), 2.0), jnp.zeros((2, 1, 1, 1, 10)))
    alone = {"reconstruction": 1.0, "image_token": 1.0, "camera_token": 0.0, "camera": 0.0, "depth": 0.0, "point": 0.0}
    weights = replace(LOSSES, **alone, similarity=0.0, kl="standard")
    parts = terms() | {"image_token_loss": jnp.array([3.0, 30.0])}  # both divergences are 20
    loss, metrics = weigh(weights, parts, q, q)
    np.testing.assert_allclose([loss, metrics["kl_weight"]], [16.5 + (2 + 20) / 2, 0.55], rtol=1e-6)
    loss, metrics = weigh(replace(weights, kl_weight_per="batch"), parts, q, q)
    np.testing.assert_allclose([loss, metrics["kl_weight"]], [16.5 + 2, 0.1], rtol=1e-6)
    gradient = jax.grad(lambda x: weigh(weights, parts | {"image_token_loss": x}, q, q)[0])(parts["image_token_loss"])
    np.testing.assert_array_equal(gradient, [0.5, 0.5])  # nothing through the adaptive weight


@pytest.mark.slow
def test_groups_of_frames_do_not_change_the_step(reference, trainable, frozen, batch, keys):
    stage = replace(STAGE, model=replace(MODEL, frames_per_group=3, remat="full", vae_chunk_frames=4))  # 3 and 2 frames
    step = gradient_of(stage)(trainable, frozen, batch, keys)
    assert_same_step(step, reference)


@pytest.mark.slow
def test_a_sample_does_not_depend_on_its_batch(reference, trainable, frozen, batch, keys):
    loss = jax.jit(loss_of(STAGE))
    alone = [loss(trainable, frozen, {"frames": batch["frames"][i : i + 1]}, keys[i : i + 1])[0] for i in range(2)]
    assert abs(alone[0] - alone[1]) > 1e-2
    np.testing.assert_allclose(np.mean(alone), reference[0][0], rtol=1e-5)
    other = loss(trainable, frozen, {"frames": batch["frames"][:1]}, keys[1:])[0]
    assert abs(alone[0] - other) > 1e-4  # another key, another draw


def test_nothing_frozen_has_a_gradient(trainable, frozen, batch, keys):
    @jax.jit
    def gradients_of(frozen, batch):
        inputs = run_encoders(STAGE, frozen, batch, keys)
        return jax.grad(lambda frozen: STAGE.loss(trainable, frozen, inputs, keys)[0])(frozen)

    gradients = gradients_of(frozen, batch)
    assert all(not leaf.any() for leaf in jax.tree.leaves(gradients))


@pytest.mark.slow
def test_loss_falls(reference, trainable, frozen, batch, keys):
    tx = optax.adam(3e-3)
    state = tx.init(trainable)

    @jax.jit
    def update(params, state, gradients):
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(params, updates), state

    params, losses = trainable, []
    for _ in range(20):
        (loss, _), gradients = gradient_of(STAGE)(params, frozen, batch, keys)
        losses.append(float(loss))
        params, state = update(params, state, gradients)
    assert losses[-1] < 0.7 * losses[0], losses


def placed(mesh, trainable, frozen, batch):
    params = (jax.device_put(tree, param_shardings(tree, mesh)) for tree in (trainable, frozen))
    frames = batch["frames"]
    sharding = batch_sharding(mesh, frames.shape, STAGE.entries["frames"].axes)
    return *params, {"frames": jax.device_put(frames, sharding)}


MESHES = [
    # Two samples for data x fsdp = 4: some devices hold copies.
    pytest.param(MeshOptions(data=2, fsdp=2, seq=2), marks=pytest.mark.slow),
    pytest.param(MeshOptions(data=2, fsdp=4), marks=pytest.mark.slow),
    pytest.param(MeshOptions(data=1, fsdp=2, seq=2, tensor=2), marks=pytest.mark.slow),
    pytest.param(MeshOptions(fsdp=1, seq=4, tensor=2), marks=pytest.mark.slow),
]


@pytest.mark.parametrize("options", MESHES, ids=str)
def test_any_mesh_gives_the_same_step(options, reference, trainable, frozen, batch, keys):
    mesh = make_mesh(options)
    with jax.set_mesh(mesh):
        step = jax.jit(jax.value_and_grad(loss_of(STAGE), has_aux=True))(*placed(mesh, trainable, frozen, batch), keys)
    assert_same_step(jax.device_get(step), reference)


@pytest.mark.slow
def test_bfloat16_stays_near_float32(reference, trainable, frozen, batch, keys):
    stage = replace(STAGE, model=replace(MODEL, frozen_dtype="bfloat16"))
    half = stage.load_frozen()
    kinds = {name: leaf.dtype for name, leaf in module.flatten(half).items()}
    assert all((kind == np.float32) == ("_head." in name) for name, kind in kinds.items())
    loss, metrics = jax.jit(loss_of(stage))(module.cast(trainable, jnp.bfloat16), half, batch, keys)
    assert loss.dtype == jnp.float32
    for name, value in reference[0][1].items():
        np.testing.assert_allclose(metrics[name], value, rtol=0.05, atol=0.01, err_msg=name)


@pytest.mark.slow
def test_adapter_weights_travel(trainable, tmp_path):
    STAGE.export(trainable, tmp_path)
    stage = replace(STAGE, weights=WeightsOptions(dir="", adapter=str(tmp_path / "geometry_adapter")))
    chex.assert_trees_all_equal(stage.load_trainable(), trainable)
    assert STAGE.load_trainable() is None
    shapes = jax.eval_shape(STAGE.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(shapes, trainable)
    exported = replace(STAGE, weights=WeightsOptions(dir=str(tmp_path), adapter=""))
    chex.assert_trees_all_equal(exported.load_frozen(), STAGE.load_frozen())
    config = GeometryAdapterConfig(hidden_dim=4, input_dim=160)
    save_network(tmp_path / "other", GeometryAdapter(config, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="takes 160 channels"):
        replace(STAGE, weights=WeightsOptions(dir="", adapter=str(tmp_path / "other"))).init(jax.random.key(0))


def test_missing_weights_name_the_command(tmp_path):
    full = replace(STAGE, model=replace(MODEL, preset="gen3r"))
    with pytest.raises(UserError, match="gen3r convert vggt"):
        full.load_frozen()
    with pytest.raises(UserError, match=r"no weights at .*vggt: convert"):
        replace(full, weights=WeightsOptions(dir=str(tmp_path), adapter="")).load_frozen()


def test_validation_judges_the_trip_and_writes_pictures(trainable, frozen, batch, tmp_path):
    metrics, views = jax.device_get(STAGE._judge(trainable, frozen, batch["frames"]))
    assert metrics["token_loss"] > 0.1 and metrics["kl"] > 0
    assert np.abs(views.direct.depth - views.through.depth).mean() > 0.01
    metrics = adapter_validation.write(tmp_path, batch["frames"], views)
    assert all(np.isfinite(value) and value > 0 for value in metrics.values())
    same = adapter_validation.write(tmp_path, batch["frames"], replace(views, through=views.direct))
    np.testing.assert_allclose(list(same.values()), 0, atol=1e-3)  # degrees by arccos: 3e-4
    names = ("depth.png", "depth.mp4", "latents.png", "points_vggt.ply", "points_adapter.ply")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_camera_differences():
    pose = np.tile(np.float32([0, 0, 0, 0, 0, 0, 1, 1, 1]), (4, 1, 3, 1))
    turned = pose.copy()
    turned[..., 3:7] = [0, np.sin(0.1), 0, np.cos(0.1)]  # 0.2 radians about y
    turned[..., :3] = [0, 3, 4]
    depth = np.full((1, 3, 8, 8), 2.0, np.float32)
    scenes = [
        networks.to_scene(np.zeros((3, 8, 8, 3), np.uint8), networks.Geometry(jnp.asarray(p), d, depth, None))
        for p, d in ((pose, depth), (turned, 1.1 * depth))
    ]
    metrics = adapter_validation.compare(*scenes)
    np.testing.assert_allclose(metrics["rotation_degrees"], np.degrees(0.2), rtol=1e-4)
    np.testing.assert_allclose(metrics["translation"], 2.5, rtol=1e-5)
    np.testing.assert_allclose(metrics["depth_relative_error"], 0.1, rtol=1e-4)


def test_equal_latents_have_equal_colors():
    latents = np.random.default_rng(0).normal(size=(2, 7, 7, 16)).astype(np.float32)
    rows = list(adapter_validation.latent_colors(latents, latents).values())
    np.testing.assert_array_equal(rows[0], rows[1])
    np.testing.assert_array_equal(rows[0], rows[2])
    video, own, shared = adapter_validation.latent_colors(latents, latents + 1).values()
    np.testing.assert_allclose(own.astype(int), video.astype(int), atol=1)
    assert np.abs(shared.astype(int) - video).mean() > 5
