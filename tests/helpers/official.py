"""Tiny configs of the networks that can be converted, and what their official files must hold."""

import numpy as np

from conversion.networks import NETWORKS
from conversion.rules import manifest

TINY = {name: network.table.network.Config.tiny() for name, network in NETWORKS.items()}


def official_shapes(name: str) -> dict[str, list[int]]:
    network = NETWORKS[name]
    entries = manifest(network.table, network.table.read_config({}))
    return {network.prefix + key: list(entry.shape) for key, entry in entries.items()}


def assert_same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert (first[name].dtype, first[name].shape) == (second[name].dtype, second[name].shape), name
        assert first[name].tobytes() == second[name].tobytes(), name
