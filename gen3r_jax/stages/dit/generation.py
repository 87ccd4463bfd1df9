"""The programs of generating one scene, to compile for devices that are not here."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gen3r_jax.generation.networks import Network
from gen3r_jax.generation.settings import GenerationSettings
from gen3r_jax.models.registry import NETWORKS
from gen3r_jax.planning.estimate import Run, generation_runs
from gen3r_jax.sharding import param_shardings
from gen3r_jax.stages.networks import Networks
from gen3r_jax.training.program import Program


def generation_programs(networks: Networks, dtype: str, settings: GenerationSettings, mesh: Mesh) -> list[Program]:
    """Programs over a mesh; the solver's step is run as often as it has steps. `dtype`: of the weights."""
    everywhere = NamedSharding(mesh, PartitionSpec())

    def network(name: str) -> Network:
        shapes = networks.shapes(name, dtype)
        return networks.graph(name), _placed(shapes, param_shardings(shapes, mesh))

    abstract = {name: network(name) for name in NETWORKS}
    with jax.set_mesh(mesh):
        runs = generation_runs(abstract, networks.configs["wan_dit"], settings, "resident")

    def program(run: Run) -> Program:
        arguments = _placed(run.arguments, jax.tree.map(lambda _: everywhere, run.arguments))
        return Program(run.name, jax.jit(run.function), (abstract[run.network], *arguments), run.count)

    return [program(run) for run in runs]


def _placed(shapes: Any, places: Any) -> Any:
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes, places
    )
