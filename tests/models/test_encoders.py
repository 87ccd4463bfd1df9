"""Text encoder, image encoder and tokenizer. Agreement with the official ones is in ``test_verify.py``."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from conversion.recording import Recording
from conversion.tables import clip_vision, umt5
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.models.clip_vision import CLIPVision, preprocess
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.models.umt5 import UMT5Encoder


@pytest.fixture(scope="module")
def text_encoder(recorded):
    recording = Recording(recorded / "t5.safetensors")
    return recording.network(UMT5Encoder, umt5.TABLE.read_config(recording.config), umt5.TABLE)


@pytest.fixture(scope="module")
def image_encoder(recorded):
    recording = Recording(recorded / "clip.safetensors")
    return recording.network(CLIPVision, clip_vision.TABLE.read_config(recording.config), clip_vision.TABLE)


def in_bfloat16(network):
    graphdef, params = module.split(network)
    return module.merge(graphdef, module.cast(params, jnp.bfloat16))


encode_text = jax.jit(UMT5Encoder.__call__)
encode_image = jax.jit(CLIPVision.__call__)


def test_features_of_a_text_depend_neither_on_padding_nor_on_its_batch(text_encoder):
    ids = np.random.default_rng(0).integers(1, 64, (2, 12))
    mask = np.arange(12) < np.array([[12], [5]])
    both = encode_text(text_encoder, ids, mask)
    assert not both[1, 5:].any() and both[0].all(axis=-1).all()
    alone = encode_text(text_encoder, ids[1:, :8], mask[1:, :8])
    np.testing.assert_allclose(both[1, :5], alone[0, :5], atol=1e-5)
    other = ids.copy()
    other[1, 5:] += 1  # what is masked does not count
    np.testing.assert_array_equal(encode_text(text_encoder, other % 64, mask)[1], both[1])


@pytest.mark.parametrize("size", [(56, 56), (40, 100)])
def test_image_features(image_encoder, size):
    images = jnp.asarray(np.random.default_rng(1).random((2, *size, 3)), jnp.float32)
    features = encode_image(image_encoder, images)
    assert features.shape == (2, 17, 32)
    np.testing.assert_allclose(features[1:], encode_image(image_encoder, images[1:]), atol=1e-5)
    assert np.abs(features[0] - features[1]).max() > 0.1


def test_images_are_cut_to_8_bits():
    image = np.full((1, 20, 20, 3), 100.9 / 255, np.float32)
    np.testing.assert_allclose(preprocess(image, 8), preprocess(np.full_like(image, 100 / 255), 8), atol=1e-6)
    assert np.ptp(preprocess(image, 8), axis=(1, 2)).max() < 1e-5  # a plain image stays plain


def test_drift_in_bfloat16(text_encoder, image_encoder):
    """Measured: 1.1 % of the largest feature for the text, 0.7 % for the image."""
    ids, mask = np.arange(1, 13)[None], np.ones((1, 12), bool)
    image = jnp.asarray(np.random.default_rng(1).random((1, 56, 56, 3)), jnp.float32)
    for run, network, inputs in (
        (encode_text, text_encoder, (ids, mask)),
        (encode_image, image_encoder, (image,)),
    ):
        exact, half = run(network, *inputs), run(in_bfloat16(network), *inputs)
        drift = np.abs(np.float32(half) - exact).max() / np.abs(exact).max()
        assert 1e-4 < drift < 0.03, drift


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    Tokenizer.tiny().save(folder)
    return Tokenizer.from_folder(folder)


def test_tokens_end_and_are_padded(tokenizer):
    ids, mask = tokenizer(["abc", ""], 6)
    np.testing.assert_array_equal(ids, [[3, 4, 5, 1, 0, 0], [1, 0, 0, 0, 0, 0]])
    np.testing.assert_array_equal(mask.sum(axis=1), [4, 1])


def test_a_long_text_is_cut_with_a_warning(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        ids, mask = tokenizer(["abcdefgh"], 5)
    np.testing.assert_array_equal(ids, [[3, 4, 5, 6, 1]])
    assert mask.all() and "left out: 'efgh'" in caplog.text


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(UserError, match="no tokenizer at"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="is no tokenizer"):
        Tokenizer.from_folder(tmp_path)
