"""Every table that names the networks of a pipeline names all of them."""

import dataclasses

import pytest

from conversion.networks import NETWORKS as CONVERTED
from gen3r_jax.models.registry import EXACT, NETWORKS, PRESETS
from gen3r_jax.stages.networks import SEEDS
from gen3r_jax.stages.options import Changes


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_has_the_config_of_every_network(preset):
    assert {name: type(config) for name, config in PRESETS[preset].items()} == {
        name: network.Config for name, network in NETWORKS.items()
    }


def test_every_network_can_be_converted_changed_and_drawn():
    assert {name: network.table.network for name, network in CONVERTED.items()} == NETWORKS
    assert SEEDS.keys() == {field.name for field in dataclasses.fields(Changes)} == NETWORKS.keys()
    assert len(set(SEEDS.values())) == len(SEEDS)
    assert EXACT.keys() <= NETWORKS.keys()
