"""Weights of frozen networks to try a training with when there are no trained ones.

They are no substitute: nothing was learned. But what they make of a video follows the video, so that there is
something to compress and compare.
"""

from typing import Any

import jax
import numpy as np

from gen3r_jax import module
from gen3r_jax.models.vggt import VGGT
from gen3r_jax.module import Params


def random_weights(network_class: type[module.Network], config: Any, seed: int) -> Params:
    """Parameters of ``network_class(config)`` that keep the size of signals; the same for the same seed.

    Drawn in NumPy: compiling a network's own initializers takes longer than a short training. All branches count fully,
    where VGGT's blocks begin with 0.01 and leave their tokens nearly equal.
    """
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        names = [key.key for key in path]
        if names[-1].startswith("scale"):
            return np.ones(leaf.shape, np.float32)
        if names[-1] == "bias":
            return np.zeros(leaf.shape, np.float32)
        stacked = any("blocks" in name or name == "trunk" for name in names)
        fan_in = np.prod(leaf.shape[stacked:-1]) if names[-1] == "kernel" else 1
        return rng.normal(0, fan_in**-0.5, leaf.shape).astype(np.float32)

    return jax.tree.map_with_path(draw, module.abstract(lambda rngs: network_class(config, rngs=rngs))[1])


def random_network(network_class: type[module.Network], config: Any, seed: int) -> Params:
    """:func:`random_weights`; VGGT's cameras then stand near the origin, look ahead and see about one radian."""
    params = random_weights(network_class, config, seed)
    if network_class is VGGT:
        last = params["camera_head"]["pose_branch"]["fc2"]
        last["kernel"] *= 0.05
        # Translation, quaternion and fields of view; the head adds its output up four times.
        last["bias"] += np.array([0, 0, 0, 0, 0, 0, 0.25, 0.25, 0.25], np.float32)
    return params


def narrow_posterior(autoencoder: Params) -> Params:
    """The random weights of an autoencoder that is nearly sure of its latents, as trained ones are."""
    layer = autoencoder["to_moments"]
    bias = np.array(layer["bias"])
    bias[len(bias) // 2 :] -= 10  # of the log-variance
    return autoencoder | {"to_moments": layer | {"bias": bias}}
