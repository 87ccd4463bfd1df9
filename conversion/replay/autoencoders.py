"""Recordings of the two causal autoencoders."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np

from conversion.recording import Arrays, Recording, Replay, Tolerance
from conversion.tables import geometry_adapter, wan_vae
from gen3r_jax.models.causal_autoencoder import CausalAutoencoder, DiagonalGaussian
from gen3r_jax.models.geometry_adapter import GeometryAdapter
from gen3r_jax.models.sizes import longest_clip
from gen3r_jax.models.wan_vae import WanVAE
from gen3r_jax.stages.adapter.losses import kl_divergence

Trace = dict[str, jax.Array]


def replay_wan_vae(recording: Recording) -> Arrays:
    network = recording.network(WanVAE, wan_vae.TABLE.read_config(recording.config), wan_vae.TABLE)
    inputs, results = recording.inputs, {}
    for case in inputs.cases():
        if f"{case}/video" in inputs:
            video = _channels_last(inputs[f"{case}/video"])
            video = video[:, : longest_clip(video.shape[1])]  # the official encoder drops the rest by itself
            posterior, trace = _encode(network, video)
            outputs = {
                "mean": posterior.mean,
                "logvar": posterior.logvar,
                "std": posterior.std,
                "mode": posterior.mode(),
            }
            if f"{case}/eps" in inputs:
                outputs["sample"] = posterior.sample(jnp.asarray(_channels_last(inputs[f"{case}/eps"])))
            results |= {f"outputs/{case}/{name}": _channels_first(x) for name, x in outputs.items()}
            results |= _chunks(f"intermediates/{case}/enc_", trace, posterior.mean.shape[1])
        if f"{case}/latent" in inputs:
            z = _channels_last(inputs[f"{case}/latent"])
            decoded, features = _decode(network, z)
            results[f"outputs/{case}/decoded"] = _channels_first(decoded)
            results |= _chunks(f"intermediates/{case}/dec_", {"chunk": features}, z.shape[1])
    return _as_recorded(recording, results)


def replay_geometry_adapter(recording: Recording) -> Arrays:
    table = geometry_adapter.TABLE
    network = recording.network(GeometryAdapter, table.read_config(recording.config), table)
    inputs, results = recording.inputs, {}
    for case in inputs.cases():
        if (packed := _input(recording, f"{case}/tok")) is not None:
            posterior, trace = _encode(network, packed)
            outputs = {"mean": posterior.mean, "logvar": posterior.logvar}
            results |= {f"outputs/{case}/{name}": _channels_first(x) for name, x in outputs.items()}
            results |= {f"outputs/{case}/{name}": x for name, x in _divergences(recording, case, posterior).items()}
            results |= _chunks(f"intermediates/{case}/enc_", trace, posterior.mean.shape[1])
        if (z := _input(recording, f"{case}/lat")) is not None:
            decoded, features = _decode(network, z)
            results[f"outputs/{case}/decoded"] = _channels_first(decoded)
            results[f"outputs/{case}/decoded_mean_hw"] = np.mean(_channels_first(decoded), axis=(-2, -1))
            trace = {"head_conv": features, "chunk": decoded}
            results |= _chunks(f"intermediates/{case}/dec_", trace, z.shape[1])
    return _as_recorded(recording, results)


def _divergences(recording: Recording, case: str, posterior: DiagonalGaussian) -> Arrays:
    values = {"kl": kl_divergence(posterior)}
    if f"{case}/other_params" in recording.inputs:
        other_moments = jnp.asarray(_channels_last(recording.inputs[f"{case}/other_params"]))
        other = DiagonalGaussian.from_moments(other_moments)
        values["kl_other"] = kl_divergence(posterior, other)
        values["kl_other_mean"] = jnp.mean(values["kl_other"])
        surprise = jnp.log(2 * jnp.pi) + other.logvar + (posterior.mean - other.mean) ** 2 / other.std**2
        values["other_nll_of_own_mean"] = 0.5 * jnp.sum(surprise, axis=(1, 2, 4))
    return {name: np.asarray(x) for name, x in values.items()}


# ---------------------------------------------------------------------------------------------------------------------
# The networks, with what they compute on the way under the names of the recorded layers


@jax.jit
def _encode(network: CausalAutoencoder, frames: jax.Array) -> tuple[DiagonalGaussian, Trace]:
    entered = network.enter(frames)
    stem, _ = network.encoder.stem(entered)
    features = network.encode_features(frames)
    return network.posterior(features), {"init_block": entered, "conv1": stem, "chunk": features}


@jax.jit
def _decode(network: CausalAutoencoder, z: jax.Array) -> tuple[jax.Array, jax.Array]:
    features = network.decode_features(z)
    return network.leave(features), features


# ---------------------------------------------------------------------------------------------------------------------
# Recorded layouts


def _chunks(prefix: str, trace: Trace, latents: int) -> Arrays:
    """Cuts clips as the official networks walk through them: the first latent's frames, then those of each other."""
    results = {}
    for name, x in trace.items():
        rate = (x.shape[1] - 1) // max(1, latents - 1)
        bounds = [0, *(1 + rate * i for i in range(latents))]
        pieces = [clip[None, :, start:stop] for clip in _channels_first(x) for start, stop in pairwise(bounds)]
        results |= {f"{prefix}{name}/{i}": piece for i, piece in enumerate(pieces)}
    return results


def _input(recording: Recording, name: str) -> np.ndarray | None:
    """A map stored whole (``tok_direct``), or as a block that is enlarged, plus a map that is broadcast."""
    inputs = recording.inputs
    if f"{name}_direct" in inputs:
        return _channels_last(inputs[f"{name}_direct"])
    if f"{name}_block" not in inputs:
        return None
    block, detail = inputs[f"{name}_block"], inputs[f"{name}_map"]
    for axis in (-2, -1):
        block = np.repeat(block, detail.shape[axis] // block.shape[axis], axis=axis)
    return _channels_last(block + detail)


def _as_recorded(recording: Recording, results: Arrays) -> Arrays:
    """What was recorded of `results`; tensors with fewer rows and columns than ours hold every nth."""
    chosen = {}
    for group, tensors in (("outputs", recording.outputs), ("intermediates", recording.intermediates)):
        for name in tensors:
            x = results.get(f"{group}/{name}")
            if x is not None:
                if x.ndim == 5:
                    rows, columns = (
                        -(-full // kept) for full, kept in zip(x.shape[3:], tensors[name].shape[3:], strict=True)
                    )
                    x = x[..., ::rows, ::columns]
                chosen[f"{group}/{name}"] = x
    return chosen


def _channels_last(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)


def _channels_first(x: jax.Array) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


# Absolute errors, except KL: sums of thousands of terms.
REPLAYS = {
    "wan_vae": Replay(
        replay_wan_vae,
        {r"outputs/.*": Tolerance(5e-5), r".*": Tolerance(1e-4)},
        (r"weights/(model\.)?encoder\.downsamples\.2\.resample\.1\.weight", r"inputs/\w+/video"),
    ),
    "geo_adapter": Replay(
        replay_geometry_adapter,
        {
            r"outputs/\w+/(kl\w*|other_nll\w*)": Tolerance(relative=1e-5),
            # At these widths norms over two channels amplify rounding. The official code in float64 is 3.0e-4 away from
            # its own float32 recording (1.0e-4 with PyTorch's plain instead of its fused attention) and ours 0.5e-4
            # away from float64, so the two cannot agree better than about 3e-4; measured 2.9e-4.
            r".*/(decoded|dec_chunk/\d+|dec_head_conv/\d+)": Tolerance(5e-4),
            r".*": Tolerance(5e-5),
        },
        (r"weights/(model\.)?encoder\.init_block\.resample\.1\.weight", r"outputs/\w+/mean"),
    ),
}
