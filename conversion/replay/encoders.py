"""Recordings of the text encoder and of the image encoder."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from conversion.recording import Arrays, Recording, Replay, Tolerance
from conversion.tables import clip_vision, umt5
from gen3r_jax.models.clip_vision import CLIPVision, preprocess
from gen3r_jax.models.umt5 import UMT5Encoder, distance_buckets


def t5(recording: Recording) -> Arrays:
    config = umt5.TABLE.read_config(recording.config)
    network = recording.network(UMT5Encoder, config, umt5.TABLE)
    ids, mask = recording.inputs["input_ids"], jnp.asarray(recording.inputs["attention_mask"], bool)
    run = jax.jit(UMT5Encoder.hidden_states)
    outputs = {"hidden": run(network, ids, mask), "hidden_no_mask": run(network, ids, np.ones_like(mask))}
    buckets = distance_buckets(300, config.num_buckets, config.max_distance)
    intermediates = {
        "bucket_matrix_first40": buckets[:40, :40],
        "bucket_row0_rel0_to_299": buckets[0],
        "bucket_row299_rel_minus299_to_0": buckets[299],
        "pos_bias_block0_L12": jnp.moveaxis(network.blocks.attn.distance_bias[0][buckets[:12, :12]], -1, 0)[None],
    }
    x, buckets = network.embedding[ids], distance_buckets(ids.shape[1], config.num_buckets, config.max_distance)
    for i in range(config.depth):
        x = jax.tree.map(lambda p, i=i: p[i], network.blocks)(x, mask, buckets)
        intermediates[f"block{i}"] = x
    return _named(outputs, intermediates)


def clip(recording: Recording) -> Arrays:
    """The network leaves the last block out; one that has a block more runs all that are recorded."""
    config = clip_vision.TABLE.read_config(recording.config)
    whole = dataclasses.replace(config, depth=config.depth + 1)
    network = recording.network(CLIPVision, config, clip_vision.TABLE)
    longer = recording.network(CLIPVision, whole, clip_vision.TABLE)
    image = recording.inputs["image_u8_hwc"][None].astype(np.float32) / 255
    preprocessed = preprocess(image, config.image_size)
    intermediates = {
        "preprocessed": jnp.moveaxis(preprocessed, -1, 1),
        "patch_embedding": jnp.moveaxis(network.patch_embed(preprocessed), -1, 1),
        "pre_norm": network.embed(preprocessed),
    }
    x = intermediates["pre_norm"]
    for i in range(config.depth - 1):
        x = jax.tree.map(lambda p, i=i: p[i], network.blocks)(x)
        intermediates[f"block{i}"] = x
    run = jax.jit(CLIPVision.__call__)
    return _named({"clip_context": run(network, image), "all_blocks_output": run(longer, image)}, intermediates)


def _named(outputs: dict, intermediates: dict) -> Arrays:
    groups = {"outputs": outputs, "intermediates": intermediates}
    return {f"{group}/{name}": np.asarray(x) for group, tensors in groups.items() for name, x in tensors.items()}


REPLAYS = {
    "t5": Replay(t5, {r".*": Tolerance(5e-5)}, marks=(r"inputs/input_ids", r"outputs/hidden_no_mask")),
    "clip": Replay(clip, {r".*": Tolerance(5e-5)}, marks=(r"inputs/image_u8_hwc", r"outputs/clip_context")),
}
