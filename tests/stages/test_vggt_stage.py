"""The stage that trains a small VGGT from nothing."""

from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gen3r_jax import module
from gen3r_jax.data.procedural import render_clip
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.cameras import decode_pose, rebase_to_first
from gen3r_jax.geometry.points import unproject_depth
from gen3r_jax.models.vggt import VGGT, VGGTConfig
from gen3r_jax.stages.options import NetworkOptions
from gen3r_jax.stages.random_weights import random_network
from gen3r_jax.stages.vggt import validation as vggt_validation
from gen3r_jax.stages.vggt.clips import Clip, SampleOptions, change, draw_samples, make_targets, mirror
from gen3r_jax.stages.vggt.losses import attention_scores, match_loss, places_in_first, track_loss
from gen3r_jax.stages.vggt.stage import TRACK, LossOptions, VGGTStage, WeightsOptions, vggt_loss
from gen3r_jax.stages.vggt.start import begin
from gen3r_jax.storage.checkpoint import load_network

SIDE = 56
SAMPLES = SampleOptions(frames=2, per_clip=2, window=0, shuffle=True, reverse=True, flip=True, permute_colors=True)
LOSSES = LossOptions(
    camera=2.0,
    camera_penalty="l1",
    depth=1.0,
    points=1.0,
    gradient=0.5,
    confidence=0.2,
    match=0.3,
    track=0.4,
    dense_frames=1,
)
STAGE = VGGTStage(NetworkOptions("tiny", remat="none"), WeightsOptions(vggt=""), SAMPLES, LOSSES)
KEYS = jax.random.split(jax.random.key(1), 1)


@pytest.fixture(scope="module")
def batch():
    """A rendered clip as the loader gives it; some depth is not known."""
    clip = render_clip(3, 5, (SIDE, SIDE), kinds=("rooms",))
    clip.depth[1, :20] = 0
    entries = {
        "frames": clip.frames,
        "c2w": rebase_to_first(clip.c2w).astype(np.float32),
        "intrinsics": clip.intrinsics.astype(np.float32),
        "depth": clip.depth.astype(np.float16),
    }
    return {name: value[None] for name, value in entries.items()}


@pytest.fixture(scope="module")
def clip(batch):
    return Clip(*(jnp.asarray(batch[name][0], batch[name].dtype) for name in ("frames", "c2w", "intrinsics", "depth")))


@pytest.fixture(scope="module")
def trainable():
    """Drawn in NumPy: compiling the draws of `init` takes longer than a test may."""
    track = {"kernel": 0.1 * np.ones((32, 2), np.float32), "bias": np.zeros(2, np.float32)}
    return jax.tree.map(jnp.asarray, random_network(VGGT, VGGTConfig.tiny(), seed=2) | {TRACK: track})


class Oracle:
    """Heads that know the targets; `error` is added to what they say."""

    config = VGGTConfig.tiny()

    class camera_head:
        ITERATIONS = 4

    def __init__(self, sample, error=0.0):
        self.sample, self.error = sample, error

    def aggregate(self, images):
        grid = SIDE // self.config.patch_size
        return jnp.zeros((4, *images.shape[:2], 5 + grid**2, 2 * self.config.embed_dim))

    def camera(self, tokens):
        return jnp.broadcast_to(self.sample.pose_enc + self.error, (4, *self.sample.pose_enc.shape))

    def depth(self, patches, size):
        depth = self.sample.depth * jnp.exp(self.error)
        return depth, jnp.ones_like(depth)

    def points(self, patches, size):
        points = self.sample.points + self.error
        return points, jnp.ones(points.shape[:-1])


def test_the_truth_has_no_loss(clip):
    sample = jax.tree.map(lambda x: x[None], make_targets(clip))
    # A frame of which half is not known: what is said there does not count.
    sample = replace(sample, known=sample.known.at[:, 1, : SIDE // 2].set(False))
    losses = replace(LOSSES, dense_frames=0, match=0.0, track=0.0)
    judge = jax.jit(lambda sample, error: vggt_loss(losses, Oracle(sample, error), {}, sample, KEYS))
    loss, _ = judge(sample, 0.0)
    np.testing.assert_allclose(loss, 0, atol=1e-5)
    off, metrics = judge(sample, 0.1)
    iterations = np.mean([0.6**i for i in range(4)])
    np.testing.assert_allclose(metrics["camera_loss"], 2.5 * iterations * 0.1, rtol=1e-4)
    np.testing.assert_allclose(metrics["depth_loss"], 0.1, rtol=1e-3)
    np.testing.assert_allclose(metrics["points_loss"], 0.1 * 3**0.5, rtol=1e-4)
    np.testing.assert_allclose(metrics["gradient_loss"], 0, atol=1e-5)
    np.testing.assert_allclose(off, 2 * metrics["camera_loss"] + metrics["depth_loss"] + metrics["points_loss"])


def test_a_micro_batch_of_two_is_the_mean_of_two_of_one(clip):
    """Also where more is known of the one than of the other."""
    whole = jax.tree.map(lambda x: x[None], make_targets(clip))
    half = replace(whole, known=whole.known.at[:, :, : SIDE // 2].set(False))
    both = jax.tree.map(lambda *x: jnp.concatenate(x), whole, half)
    losses = replace(LOSSES, dense_frames=0, camera=0.0, points=0.0, match=0.0, track=0.0)
    error = jnp.linspace(0, 0.5, SIDE)[:, None]

    @jax.jit
    def loss(sample):
        keys = jax.random.split(jax.random.key(1), len(sample.images))
        return vggt_loss(losses, Oracle(sample, error), {}, sample, keys)[0]

    assert abs(loss(whole) - loss(half)) > 0.05
    np.testing.assert_allclose(loss(both), (loss(whole) + loss(half)) / 2, rtol=1e-5)


def assert_consistent(sample: dict, frames: np.ndarray):
    """Cameras, depth, points and frames of a sample tell the same story; the first camera is at the origin."""
    w2c, intrinsics = decode_pose(np.asarray(sample.pose_enc), frames.shape[1:3])
    np.testing.assert_allclose(w2c[0], np.eye(4)[:3], atol=1e-5)
    intrinsics[:, :2, 2] -= 0.5  # VGGT's unprojection has pixel centres at whole numbers
    points = unproject_depth(np.asarray(sample.depth), w2c, intrinsics)
    np.testing.assert_allclose(points, sample.points, atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(points, axis=-1)[sample.known].mean(), 1, rtol=1e-3)
    # Where a point of the last frame is seen in the first, it is as far away there, and its colour is alike.
    x, y, z = np.moveaxis(points[-1], -1, 0)
    column, row = (np.rint(a / z * intrinsics[0, i, i] + intrinsics[0, i, 2]) for i, a in enumerate((x, y)))
    inside = np.asarray(sample.known[-1]) & (z > 0) & (column >= 0) & (column < SIDE) & (row >= 0) & (row < SIDE)
    column, row = column[inside].astype(int), row[inside].astype(int)
    there = np.asarray(sample.depth)[0, row, column]
    known = there > 0
    assert known.sum() > 500
    assert np.median(np.abs(there / z[inside] - 1)[known]) < 0.015
    difference = np.abs(frames[0, row, column].astype(float) - frames[-1][inside])
    assert np.median(difference) < 8


def test_samples_stay_consistent(clip):
    assert_consistent(make_targets(clip), np.asarray(clip.frames))
    mirrored = mirror(clip)
    np.testing.assert_array_equal(mirrored.frames, clip.frames[:, :, ::-1])
    assert_consistent(make_targets(mirrored), np.asarray(mirrored.frames))
    backwards = jax.tree.map(lambda x: x[::-1], clip)
    assert_consistent(make_targets(backwards), np.asarray(backwards.frames))
    # A crop whose principal point is not in the middle, mirrored twice, is what it was.
    off = replace(clip, intrinsics=clip.intrinsics.at[:, 0, 2].add(3))
    assert mirror(off).intrinsics[0, 0, 2] == SIDE / 2 - 3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), mirror(mirror(off)), off)


@pytest.mark.slow
def test_draws_differ_and_stay_consistent(clip):
    options = replace(SAMPLES, frames=3, window=4, permute_colors=False)
    draw = jax.jit(jax.vmap(lambda key: change(clip, key, options)))
    drawn = draw(jax.random.split(jax.random.key(0), 20))
    samples = jax.device_get(jax.jit(jax.vmap(make_targets))(drawn))
    for i in range(4):
        assert_consistent(jax.tree.map(lambda x, i=i: x[i], samples), np.asarray(drawn.frames[i]))
    assert len(np.unique(np.asarray(drawn.c2w), axis=0)) > 10
    plain = SampleOptions(0, 1, 0, shuffle=False, reverse=False, flip=False, permute_colors=False)
    np.testing.assert_array_equal(change(clip, KEYS[0], plain).frames, clip.frames)
    samples = jax.jit(lambda clips: draw_samples(clips, KEYS, SAMPLES))(jax.tree.map(lambda x: x[None], clip))
    assert samples.images.shape == (2, 2, SIDE, SIDE, 3)
    assert np.abs(samples.images[0] - samples.images[1]).max() > 0.1  # samples of one clip are not the same


def test_patches_find_their_places(clip):
    sample, special, grid = make_targets(clip), 5, SIDE // 14
    places, seen = places_in_first(sample.points, sample.depth, sample.intrinsics[0], 14)
    assert seen[0].all() and 20 < seen[1:].sum() < 64 - 4 and not seen[1, :1].any()  # its depth is not known
    own = np.stack(np.meshgrid(range(grid), range(grid), indexing="ij"), axis=-1)
    np.testing.assert_allclose(places[0], own, atol=1e-4)
    assert np.abs(places[4] - own)[seen[4]].max() > 0.3
    moves = places - own
    np.testing.assert_allclose(track_loss(moves, places, seen), 0, atol=1e-5)
    np.testing.assert_allclose(track_loss(moves + jnp.array([3, 4]), places, seen)[seen], 5, rtol=1e-5)

    size = special + grid**2
    scores = np.full((2, 5, size, 5, size), -1e3)
    near = -8 * np.square(np.asarray(places)[..., None, None, :] - own).sum(-1)
    scores[:, :, special:, 0, special:] = near.reshape(5, grid**2, grid**2)
    loss = match_loss(jnp.asarray(scores).reshape(2, 5 * size, 5 * size), places, seen)
    nothing = match_loss(jnp.zeros((2, 5 * size, 5 * size)), places, seen)
    np.testing.assert_allclose(nothing, seen * np.log(5 * size), rtol=1e-5)
    np.testing.assert_allclose(loss[0], 0, atol=1e-2)
    assert loss[seen].mean() < 1.5 and loss[seen].max() < 3  # not zero: what lies between patches is shared


def test_scores_are_those_of_the_aggregator(trainable):
    """The attention that is taught is the one that the network uses."""
    vggt = STAGE._network(trainable)
    images = jnp.asarray(np.random.default_rng(0).random((1, 2, 28, 28, 3)), jnp.float32)

    def compare(vggt, images):
        tokens, aggregator = vggt.aggregate(images), vggt.aggregator
        within, over = jnp.split(tokens[1], 2, axis=-1)
        block = jax.tree.map(lambda p: p[1], aggregator.global_blocks)
        x = within.reshape(1, -1, within.shape[-1])
        _, _, values = block.attn.queries_keys_values(block.norm1(x), None)
        weights = jax.nn.softmax(attention_scores(aggregator, within, 1, (28, 28)))
        x = x + block.scale1 * block.attn.proj(jnp.einsum("bknm,bmkd->bnkd", weights, values).reshape(x.shape))
        x = x + block.scale2 * block.mlp(block.norm2(x))
        return x.reshape(over.shape), over

    np.testing.assert_allclose(*jax.jit(compare)(vggt, images), atol=1e-4)


@pytest.mark.slow
def test_training_lowers_the_loss(trainable, batch):
    # One dense head and one sample: half the time.
    stage = replace(STAGE, losses=replace(LOSSES, points=0.0), samples=replace(SAMPLES, per_clip=1))
    tx = optax.adam(3e-3)

    @jax.jit
    def update(params, state):
        (loss, metrics), gradients = jax.value_and_grad(lambda p: stage.loss(p, {}, batch, KEYS), has_aux=True)(params)
        updates, state = tx.update(gradients, state)
        return optax.apply_updates(params, updates), state, loss, metrics, gradients

    params, state, losses = trainable, tx.init(trainable), []
    for _ in range(8):
        params, state, loss, metrics, gradients = update(params, state)
        if not losses:
            parts = [metrics[f"{name}_loss"] for name in ("camera", "match", "track", "depth", "gradient")]
            np.testing.assert_allclose(loss, np.dot(parts, [2, 0.3, 0.4, 1, 0.5]), rtol=1e-5)
            norms = {name: float(jnp.linalg.norm(leaf)) for name, leaf in module.flatten(gradients).items()}
            assert all(norm > 0 for name, norm in norms.items() if not name.startswith("point_head")), norms
        losses.append(float(loss))
    assert losses[-1] < 0.9 * losses[0], losses


def test_weights_travel(trainable, tmp_path):
    STAGE.export(trainable, tmp_path)
    network = {name: params for name, params in trainable.items() if name != TRACK}
    chex.assert_trees_all_equal(load_network(tmp_path / "vggt", VGGT)[1], network)
    again = replace(STAGE, weights=WeightsOptions(str(tmp_path / "vggt"))).load_trainable()
    chex.assert_trees_all_equal(again | {TRACK: trainable[TRACK]}, trainable)
    shapes = jax.eval_shape(STAGE.init, jax.random.key(0))
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), shapes, again)
    assert STAGE.load_trainable() is None


def test_data_without_depth_or_cameras(batch):
    with pytest.raises(UserError, match=r"data\.depth=True"):
        STAGE.prepare({name: value for name, value in batch.items() if name != "depth"})
    with pytest.raises(UserError, match="cameras"):
        STAGE.prepare(batch | {"has_cameras": np.array([False])})
    assert STAGE.prepare(batch | {"has_cameras": np.array([True])})
    with pytest.raises(UserError, match=r"samples\.frames 7 .* 5 frames"):
        jax.eval_shape(
            lambda c: draw_samples(c, KEYS, replace(SAMPLES, frames=7)), Clip(*(batch[n] for n in STAGE.loss_reads))
        )


def test_validation_of_the_truth(batch, clip, tmp_path):
    sample = jax.tree.map(lambda x: np.asarray(x)[None], make_targets(clip))
    metrics = vggt_validation.judge(tmp_path, batch, sample.pose_enc, sample.depth)
    assert metrics["abs_rel"] < 1e-3 and metrics["delta_1.25"] == 1 and metrics["auc_30"] > 0.96
    assert metrics["abs_rel_constant"] > 0.1 and metrics["rotation_degrees_identity"] > 1
    assert (tmp_path / "depth.png").exists()


def test_a_new_network_begins_by_comparing():
    params = random_network(VGGT, VGGTConfig.tiny(), seed=0)
    before = module.flatten(jax.tree.map(np.shape, params))
    begun = begin(jax.tree.map(jnp.asarray, params), jax.random.key(0))
    assert module.flatten(jax.tree.map(np.shape, begun)) == before
    aggregator, attention = begun["aggregator"], begun["aggregator"]["global_blocks"]["attn"]
    query, key, value = np.split(attention["qkv"]["kernel"], 3, axis=-1)
    np.testing.assert_array_equal(query, key)
    np.testing.assert_allclose(value @ attention["proj"]["kernel"], np.tile(-np.eye(32), (4, 1, 1)), atol=1e-5)
    assert not np.allclose(value[0], value[1])
    assert (aggregator["frame_blocks"]["scale2"] == 1).all() and (
        begun["camera_head"]["trunk"]["1"]["scale1"] == 1
    ).all()
    assert 0.4 < aggregator["register_token"].std() < 0.6
    positions = aggregator["patch_embed"]["pos_embed"][0, 1:]
    assert np.abs(positions).max() <= 0.5 and len(np.unique(positions, axis=0)) == 16


def test_untrained_cameras_stand_at_the_origin():
    bias = jax.jit(lambda key: STAGE.init(key)["camera_head"]["pose_branch"]["fc2"]["bias"])(jax.random.key(0))
    np.testing.assert_allclose(4 * bias, [0, 0, 0, 0, 0, 0, 1, 1, 1])
