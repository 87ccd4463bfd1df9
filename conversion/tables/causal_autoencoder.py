"""Rules that the tables of the VAE and of the geometry adapter share: their causal encoders and decoders.

Officially each is one flat list of blocks and changes of resolution, and a "middle" of block, attention, block. Ours
are four levels: an `entry` block where the width changes, and a stack of the blocks that keep it. The middle's block
next to the list is one more row of the nearest stack.
"""

from collections.abc import Iterator

from conversion.rules import Rule, conv1x1_2d, conv1x1_3d, conv2d, conv3d, conv_time, copy, gamma_2d, gamma_3d, layer
from gen3r_jax.models.causal_autoencoder import TEMPORAL


def encoder_rules(entries: tuple[int, ...], space: str) -> Iterator[Rule]:
    """Rules below ``encoder.``.

    Args:
      entries: levels that change the width.
      space: official name of the convolution inside a change of resolution.
    """
    yield from layer("encoder.conv1", "encoder.stem", conv3d)
    for i in range(4):
        rows = [f"downsamples.{3 * i + j}" for j in range(2)] + ["middle.0"] * (i == 3)
        yield from _level("encoder", i, rows, i in entries)
        if i < 3:
            yield from _resample(f"encoder.downsamples.{3 * i + 2}", f"encoder.levels.{i}", space, TEMPORAL[i])
    yield from _attention("encoder")
    yield from _block("encoder.middle.2", "encoder.tail")
    yield from _head("encoder")


def decoder_rules(entries: tuple[int, ...], space: str) -> Iterator[Rule]:
    """Rules below ``decoder.``; arguments as for :func:`encoder_rules`."""
    yield from layer("decoder.conv1", "decoder.stem", conv3d)
    yield from _block("decoder.middle.0", "decoder.lead")
    yield from _attention("decoder")
    for i in range(4):
        rows = ["middle.2"] * (i == 0) + [f"upsamples.{4 * i + j}" for j in range(3)]
        yield from _level("decoder", i, rows, i in entries)
        if i < 3:
            yield from _resample(f"decoder.upsamples.{4 * i + 3}", f"decoder.levels.{i}", space, TEMPORAL[::-1][i])
    yield from _head("decoder")


def latent_rules() -> Iterator[Rule]:
    """The two projections between encoder, latents and decoder."""
    yield from layer("conv1", "to_moments", conv1x1_3d)
    yield from layer("conv2", "from_latent", conv1x1_3d)


_BLOCK = (
    ("residual.0.gamma", "norm1.scale", gamma_3d),
    ("residual.2.weight", "conv1.kernel", conv3d),
    ("residual.2.bias", "conv1.bias", copy),
    ("residual.3.gamma", "norm2.scale", gamma_3d),
    ("residual.6.weight", "conv2.kernel", conv3d),
    ("residual.6.bias", "conv2.bias", copy),
)


def _block(source: str, target: str) -> Iterator[Rule]:
    for official, ours, op in _BLOCK:
        yield Rule(f"{source}.{official}", f"{target}.{ours}", op)


def _level(side: str, i: int, rows: list[str], has_entry: bool) -> Iterator[Rule]:
    target = f"{side}.levels.{i}"
    if has_entry:
        entry, *rows = rows
        yield from _block(f"{side}.{entry}", f"{target}.entry")
        yield from layer(f"{side}.{entry}.shortcut", f"{target}.entry.shortcut", conv1x1_3d)
    for official, ours, op in _BLOCK:
        yield Rule(f"{side}.(?P<l>.+).{official}", f"{target}.blocks.{ours}", op, tuple(rows))


def _resample(source: str, target: str, space: str, temporal: bool) -> Iterator[Rule]:
    yield from layer(f"{source}.{space}", f"{target}.resample.space", conv2d)
    if temporal:
        yield from layer(f"{source}.time_conv", f"{target}.resample.time.conv", conv_time)


def _attention(side: str) -> Iterator[Rule]:
    yield Rule(f"{side}.middle.1.norm.gamma", f"{side}.attention.norm.scale", gamma_2d)
    yield from layer(f"{side}.middle.1.to_qkv", f"{side}.attention.qkv", conv1x1_2d)
    yield from layer(f"{side}.middle.1.proj", f"{side}.attention.proj", conv1x1_2d)


def _head(side: str) -> Iterator[Rule]:
    yield Rule(f"{side}.head.0.gamma", f"{side}.norm.scale", gamma_3d)
    yield from layer(f"{side}.head.2", f"{side}.head", conv3d)
