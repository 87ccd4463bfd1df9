"""The causal VAE and the geometry adapter. Parity with the official code is checked in test_verify.py."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.models.causal_autoencoder import DiagonalGaussian, FrameAttention, L2Norm, Level
from gen3r_jax.models.geometry_adapter import GeometryAdapter, GeometryAdapterConfig, pack_tokens, unpack_tokens
from gen3r_jax.models.wan_vae import WanVAE, WanVAEConfig
from gen3r_jax.ops import causal_conv
from gen3r_jax.sharding import MeshOptions, make_mesh

CONFIGS = {WanVAE: WanVAEConfig(width=4), GeometryAdapter: GeometryAdapterConfig(hidden_dim=4, input_dim=20)}
SHAPES = {WanVAE: ((8, 16, 3), (1, 2, 16)), GeometryAdapter: ((4, 8, 20), (7, 14, 16))}  # frames, latents
NANO = replace(WanVAEConfig.nano(), width=4)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def drawn(cls, config):
    """Class, static part and random parameters."""
    graphdef, shapes = module.abstract(lambda rngs: cls(config, rngs=rngs))
    rng = np.random.default_rng(0)

    def draw(leaf):
        fan_in = np.prod(leaf.shape[-5:-1]) if leaf.ndim > 1 else 4.0
        return jnp.asarray(rng.uniform(-1, 1, leaf.shape) * (3 / fan_in) ** 0.5, jnp.float32)

    return cls, graphdef, jax.tree.map(draw, shapes)


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda cls: cls.__name__)
def network(request):
    return drawn(request.param, CONFIGS[request.param])


def error(ours, expected):
    """Largest difference relative to the largest value, over all leaves."""
    pairs = zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True)
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max()) for a, b in pairs)


def jit(function):
    # These programs run once: compiling them is what takes time.
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


def test_encoding_in_chunks_equals_the_whole(network):
    """Also that no frame sees the ones after it: the beginning of a clip is encoded like the clip."""
    cls, graphdef, params = network
    x = random(2, 13, *SHAPES[cls][0])

    def encode(x, chunk):
        return jit(lambda p, x: module.merge(graphdef, p).encode(x, chunk))(params, x)

    whole = encode(x, None)
    assert whole.mean.shape == (2, 4, *SHAPES[cls][1])
    for frames, chunk in ((1, 4), (5, 8), (9, 4), (13, 8)):
        expected = jax.tree.map(lambda leaf, f=frames: leaf[:, : (f + 3) // 4], whole)
        assert error(encode(x[:, :frames], chunk), expected) < 1e-6  # 3e-7


def test_decoding_in_chunks_equals_the_whole(network):
    cls, graphdef, params = network
    z = random(2, 4, *SHAPES[cls][1])

    def decode(z, chunk):
        return jit(lambda p, z: module.merge(graphdef, p).decode(z, chunk))(params, z)

    whole = decode(z, None)
    assert whole.shape == (2, 13, *SHAPES[cls][0])
    for latents, chunk in ((1, 2), (2, 1), (3, 2), (4, 3)):
        assert error(decode(z[:, :latents], chunk), whole[:, : 4 * latents - 3]) < 1e-6  # 4e-7


def test_nano_in_chunks_equals_the_whole():
    """Squares of pixels in place of the highest resolution, no stacks of blocks in the encoder's second level."""
    _, graphdef, params = drawn(WanVAE, NANO)
    assert params["encoder"]["stem"]["kernel"].shape == (3, 3, 3, 12, 4)
    x = random(1, 9, 8, 16, 3)

    def both(params, x, encoded, decoded):
        network = module.merge(graphdef, params)
        posterior = network.encode(x, encoded)
        return posterior, network.decode(posterior.mode(), decoded)

    whole, chunked = (jit(lambda p, x, c=chunks: both(p, x, *c))(params, x) for chunks in ((None, None), (4, 2)))
    assert whole[0].mean.shape == (1, 3, 1, 2, 16) and whole[1].shape == x.shape
    assert error(chunked, whole) < 1e-6


@pytest.mark.parametrize("network", [WanVAE], indirect=True)
def test_rows_on_several_devices_equal_one_device(network):
    _, graphdef, params = network
    z = random(1, 2, 4, 2, 16)

    def decode(params, z):
        return module.merge(graphdef, params).decode(z)

    expected = jit(decode)(params, z)
    with jax.set_mesh(make_mesh(MeshOptions(fsdp=1, seq=2), jax.devices()[:2])):
        lowered = jit(decode).lower(params, z)
        assert "sharding_constraint" in lowered.as_text()
        assert error(lowered.compile()(params, z), expected) < 2e-6  # 6e-7


@pytest.mark.slow
@pytest.mark.parametrize("network", [GeometryAdapter], indirect=True)
def test_gradient_in_chunks_and_with_remat_equals_the_plain_one(network):
    """In float64: where both of its channels happen to be near 0, a norm makes 2e-5 to 9e-5 of float32's rounding."""
    cls, _, params = network
    z = random(1, 2, *SHAPES[cls][1])

    def graph(remat):
        return module.abstract(lambda rngs: cls(replace(CONFIGS[cls], remat=remat), rngs=rngs))[0]

    def gradient(graphdef, chunk):
        def loss(params, z):
            return jnp.mean(module.merge(graphdef, params).decode(z, chunk) ** 2)

        gradients, to_z = jit(jax.grad(loss, (0, 1)))(*jax.tree.map(lambda leaf: leaf.astype("float64"), (params, z)))
        return gradients["decoder"], to_z

    full, none = graph("full"), graph("none")
    with jax.enable_x64(True):
        assert error(gradient(full, 1), gradient(none, None)) < 5e-6  # 9e-7


def test_bfloat16_stays_near_float32(network):
    cls, graphdef, params = network
    x = random(1, 5, *SHAPES[cls][0])

    @jit
    def reconstruct(params):
        autoencoder = module.merge(graphdef, params)
        posterior = autoencoder.encode(x)
        return posterior, autoencoder.decode(posterior.mode())

    exact, half = reconstruct(params), reconstruct(module.cast(params, jnp.bfloat16))
    assert half[0].mean.dtype == jnp.float32 and half[1].dtype == jnp.bfloat16
    for ours, expected in zip(jax.tree.leaves(half), jax.tree.leaves(exact), strict=True):
        drift = jnp.sqrt(jnp.mean((ours - expected) ** 2)) / expected.std()
        assert drift < 0.01  # 0.002 to 0.005


# What compilers for TPUs spend their time on: seconds for every convolution.
def convolutions(cls, config, function, *shapes):
    graphdef, params = module.abstract(lambda rngs: cls(config, rngs=rngs))
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    traced = jax.jit(lambda params, *x: function(graphdef, params, *x)).trace(params, *shapes)
    return traced.lower(lowering_platforms=("tpu",)).as_text().count("stablehlo.convolution")


@pytest.mark.slow
def test_few_convolutions_for_tpus(monkeypatch):
    monkeypatch.setattr(causal_conv, "target_platform", lambda: "tpu")
    vae, adapter = WanVAEConfig.wan21(), GeometryAdapterConfig(remat="full")

    def loss(graphdef, params, packed, eps):
        network = module.merge(graphdef, params)
        return jnp.sum(network.decode(network.encode(packed).sample(eps)))

    def gradient(graphdef, params, packed, eps):
        return jax.grad(lambda p: loss(graphdef, p, packed, eps))(params)

    video, latents = (1, 49, 560, 560, 3), (1, 13, 70, 70, 16)
    encode = convolutions(WanVAE, vae, lambda g, p, x: module.merge(g, p).encode(x, 8), video)
    decode = convolutions(WanVAE, vae, lambda g, p, z: module.merge(g, p).decode(z, 2), latents)
    train = convolutions(GeometryAdapter, adapter, gradient, (1, 49, 40, 40, 10240), latents)
    assert (encode, decode, train) <= (55, 50, 180)  # 51, 45 (three for a causal convolution) and 135 (one)


def test_pack_and_unpack():
    tokens = random(4, 2, 3, 5 + 6, 8)
    packed = pack_tokens(tokens, (2, 3))
    assert packed.shape == (2, 3, 2, 3, 40)
    np.testing.assert_array_equal(packed[1, 2, 1, 0, 8:16], tokens[1, 1, 2, 5 + 3])  # second layer, row 1, column 0
    np.testing.assert_array_equal(packed[1, 2, 1, 0, 32:], tokens[3, 1, 2, 0])
    patches, camera = unpack_tokens(packed)
    np.testing.assert_array_equal(patches, tokens[:, :, :, 5:])
    np.testing.assert_allclose(camera, tokens[3, :, :, 0], atol=1e-6)


def test_camera_token_is_the_mean_over_the_grid():
    packed = random(1, 2, 4, 4, 20)
    np.testing.assert_allclose(unpack_tokens(packed)[1], packed[..., 16:].mean(axis=(2, 3)), atol=1e-6)


def test_posterior():
    moments = jnp.array([1.0, -2.0, 40.0, -50.0]).reshape(1, 1, 1, 1, 4)
    posterior = DiagonalGaussian.from_moments(moments)
    np.testing.assert_array_equal(posterior.logvar.ravel(), [20.0, -30.0])
    np.testing.assert_allclose(
        posterior.sample(jnp.full_like(posterior.mean, 2)).ravel(),
        [1 + 2 * np.exp(10), -2 + 2 * np.exp(-15)],
        rtol=1e-6,
    )


def test_l2_norm_at_zero():
    norm = L2Norm(4)
    x = jnp.zeros(4).at[0].set(1e-20)
    np.testing.assert_allclose(norm(x)[0], 1e-8 * 2, rtol=1e-5)  # the length counts as 1e-12 at least
    assert np.isfinite(jax.grad(lambda x: norm(x).sum())(jnp.zeros(4))).all()


def test_initialisation():
    level = Level(8, 8, 2, None, "none", rngs=nnx.Rngs(0))
    kernel, bias, limit = level.blocks.conv1.kernel[...], level.blocks.conv1.bias[...], (27 * 8) ** -0.5
    for leaf in (kernel, bias):  # PyTorch's default: uniform within ±1/sqrt(fan-in)
        assert 0.8 * limit < jnp.abs(leaf).max() <= limit
    assert abs(kernel.std() / limit * 3**0.5 - 1) < 0.05
    assert jnp.abs(kernel[0] - kernel[1]).max() > limit  # rows of a stack differ
    assert not jnp.any(FrameAttention(8, rngs=nnx.Rngs(0)).proj.kernel[...])


@pytest.mark.parametrize(
    ("cls", "method", "shape", "chunk", "message"),
    [
        (WanVAE, "encode", (1, 7, 8, 8, 3), None, "7 frames are not 4 k + 1; nearest: 5, 9"),
        (WanVAE, "encode", (1, 5, 20, 16, 3), None, "height 20 is not a multiple of 8; nearest: 16, 24"),
        (WanVAE, "encode", (1, 5, 8, 8, 3), 6, "chunk_frames 6 is not a multiple of 4"),
        (WanVAE, "decode", (1, 2, 1, 1, 16), 0, "chunk_frames 0 is not a positive number of latents"),
        (GeometryAdapter, "encode", (1, 4, 4, 4, 20), None, "4 frames are not 4 k + 1; nearest: 1, 5"),
        (GeometryAdapter, "encode", (1, 5, 6, 8, 20), None, "patch grid 6x8: sides must be multiples of 4"),
        (GeometryAdapter, "decode", (1, 2, 7, 10, 16), None, "latent grid 7x10: sides must be multiples of 7"),
    ],
)
def test_what_does_not_fit_is_said(cls, method, shape, chunk, message):
    def call(x):
        return getattr(cls(CONFIGS[cls], rngs=nnx.Rngs(0)), method)(x, chunk)

    with pytest.raises(UserError, match=message.replace("+", r"\+")):
        jax.eval_shape(call, jax.ShapeDtypeStruct(shape, jnp.float32))


def test_sizes_of_the_networks():
    """The official one has 127 million parameters; the fields for smaller ones leave it alone."""
    for config, count in ((WanVAEConfig.wan21(), 126_892_531), (WanVAEConfig.nano(), 1_936_316)):
        _, params = module.abstract(lambda rngs, config=config: WanVAE(config, rngs=rngs))
        assert module.count_parameters(params) == count
    with pytest.raises(UserError, match="patch 2 with 4 factors"):
        nnx.eval_shape(lambda: WanVAE(WanVAEConfig(patch=2), rngs=nnx.Rngs(0)))


def test_latent_statistics_must_fit():
    with pytest.raises(UserError, match="latent_mean has 3 numbers for 16 latent channels"):
        nnx.eval_shape(lambda: WanVAE(WanVAEConfig(latent_mean=(0.0,) * 3), rngs=nnx.Rngs(0)))
