"""Converters: every table both ways, what is refused, and the official names against the published lists."""

import dataclasses
import hashlib
import json
import os
import tracemalloc
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

from conversion.networks import NETWORKS
from conversion.rules import Rule, Table, conv2d, convert, invert, linear, manifest, squeeze
from conversion.safetensors_files import open_safetensors
from gen3r_jax import module
from gen3r_jax.errors import UserError
from tests.helpers.official import TINY, assert_same_bits, official_shapes

# ---------------------------------------------------------------------------------------------------------------------
# The engine, on a small network that has every feature of the large ones


@dataclasses.dataclass(frozen=True)
class ToyConfig:
    width: int = 4
    depth: int = 3


class ToyBlock(nnx.Module):
    def __init__(self, config: ToyConfig, *, rngs: nnx.Rngs):
        self.norm = nnx.LayerNorm(config.width, rngs=rngs)
        self.qkv = nnx.Linear(config.width, 3 * config.width, rngs=rngs)


class Toy(nnx.Module):
    Config = ToyConfig

    def __init__(self, config: ToyConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.blocks = module.stack(lambda r: ToyBlock(config, rngs=r), rngs, config.depth)
        self.heads = nnx.List([nnx.Conv(config.width, 2, (3, 5), rngs=rngs) for _ in range(2)])
        self.token = nnx.Param(jnp.zeros((2, config.width)))


RULES = (
    Rule(r"encoder\.blocks\.(?P<l>\d+)\.norm\.weight", "blocks.norm.scale"),
    Rule(r"encoder.blocks.(?P<l>\d+).(norm|qkv).bias", r"blocks.\2.bias"),
    Rule(r"encoder.(?P<l>.+).qkv.weight", "blocks.qkv.kernel", linear, rows=("first", "middle.1", "middle.2")),
    Rule(r"heads.(?P<i>\d+).weight", r"heads.\g<i>.kernel", conv2d),
    Rule(r"heads.(?P<i>\d+).bias", r"heads.\g<i>.bias"),
    Rule("token", "token", squeeze(0, 2)),
)
TOY = Table(
    Toy,
    RULES,
    read_config=lambda fields: ToyConfig(**fields),
    write_config=dataclasses.asdict,
    ignore=(r"mask", r"track\..*"),
    unused=lambda config: {"mask": (1, config.width)},
)


def random_tensors(table: Table, config, dtype=np.float32) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    tensors = {name: rng.standard_normal(entry.shape).astype(dtype) for name, entry in manifest(table, config).items()}
    return tensors | {name: np.zeros(shape, dtype) for name, shape in table.unused(config).items()}


@pytest.mark.parametrize("dtype", [np.float32, np.float16, jnp.bfloat16])
def test_toy_round_trip_keeps_every_bit(dtype):
    tensors = random_tensors(TOY, ToyConfig(), dtype)
    params = convert(tensors, TOY, ToyConfig())
    assert_same_bits(dict(invert(params, TOY, ToyConfig())), tensors)


def test_layouts_and_rows():
    tensors = random_tensors(TOY, ToyConfig())
    params = module.flatten(convert(tensors, TOY, ToyConfig()))
    np.testing.assert_array_equal(params["blocks.qkv.kernel"][1], tensors["encoder.middle.1.qkv.weight"].T)
    np.testing.assert_array_equal(params["heads.1.kernel"][2, 4, 3, 1], tensors["heads.1.weight"][1, 3, 2, 4])
    np.testing.assert_array_equal(params["token"], tensors["token"][0, :, 0])


def test_all_problems_come_in_one_line():
    tensors = random_tensors(TOY, ToyConfig())
    del tensors["token"]
    tensors["heads.0.bias"] = np.zeros(3, np.float32)
    tensors |= {"heads.2.bias": np.zeros(2), "encoder.blocks.3.norm.bias": np.zeros(4), "track.any": np.zeros(1)}
    with pytest.raises(UserError) as error:
        convert(tensors, TOY, ToyConfig())
    message = str(error.value)
    assert "1 missing: token;" in message
    assert "2 unexpected: heads.2.bias, encoder.blocks.3.norm.bias;" in message
    assert "1 misshapen: heads.0.bias [3], not [2]" in message
    assert "\n" not in message and "track" not in message


def test_a_parameter_with_two_rules_is_refused():
    table = dataclasses.replace(TOY, rules=(*RULES, Rule("alias", "token")))
    with pytest.raises(ValueError, match="2 rules fill token"):
        convert(random_tensors(TOY, ToyConfig()), table, ToyConfig())


def test_a_name_for_two_parameters_is_refused():
    rules = (
        *RULES[:3],
        Rule("heads.0.weight", "heads.0.kernel", conv2d),
        Rule("heads.0.weight", "heads.1.kernel", conv2d),
    )
    with pytest.raises(ValueError, match=r"heads\.0\.weight fills both heads\.0\.kernel and heads\.1\.kernel"):
        manifest(dataclasses.replace(TOY, rules=(*rules, *RULES[4:])), ToyConfig())


def test_rows_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"blocks\.qkv\.kernel has 5 rows, its rule names first, middle\.1, middle\.2"):
        manifest(TOY, ToyConfig(depth=5))


def test_a_parameter_without_a_rule_is_refused():
    with pytest.raises(ValueError, match="0 rules fill token"):
        manifest(dataclasses.replace(TOY, rules=RULES[:-1]), ToyConfig())


def test_a_rule_must_carry_its_groups_to_the_target():
    with pytest.raises(ValueError, match="each group"):
        Rule(r"heads.(\d+).bias", "heads.0.bias")


def test_submodule():
    tensors = random_tensors(TOY, ToyConfig())
    prefix = "encoder."
    part = {name.removeprefix(prefix): x for name, x in tensors.items() if name.startswith(prefix)}
    params = convert(part, TOY, ToyConfig(), source_prefix=prefix, target_prefix="blocks.")
    whole = convert(tensors, TOY, ToyConfig())["blocks"]
    chex.assert_trees_all_equal(params, whole)
    del part["blocks.1.norm.bias"]
    with pytest.raises(UserError, match=r"1 missing: blocks\.1\.norm\.bias$"):
        convert(part, TOY, ToyConfig(), source_prefix=prefix, target_prefix="blocks.")


def test_memory_stays_near_one_tensor_above_the_result(tmp_path):
    config = ToyConfig(width=256, depth=16)
    rules = [dataclasses.replace(rule, rows=tuple(f"b{i}" for i in range(16)) if rule.rows else ()) for rule in RULES]
    table = dataclasses.replace(TOY, rules=tuple(rules))
    tensors = random_tensors(table, config)
    save_file(tensors, tmp_path / "toy.safetensors")
    largest = max(x.nbytes for x in tensors.values())
    del tensors
    stored, _ = open_safetensors(tmp_path / "toy.safetensors")
    manifest(table, config)  # traced before, so that only the conversion counts
    tracemalloc.start()
    params = convert(stored, table, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    assert size > 12 * largest
    assert peak < size + 1.5 * largest


# ---------------------------------------------------------------------------------------------------------------------
# The tables of the real networks

# Number of official tensors at full size, and SHA-256 of the sorted lines "name [shape]".
OFFICIAL = {
    "vggt": (1403, "ab2b029471a2b701fe423dd21aa66d3b7f67d4415c25c494c6d4d32368d9f6e0"),
    "wan_vae": (194, "ec97a6b8c2da9b2d23c2d6ea0ff8ac1f03c4215604ff0ac48efdb164832d9bd8"),
    "geometry_adapter": (202, "48c9c4f49154a828c02da3a41c11c5cf9bb61a13e16fda70ffc26baf2c7f8d3f"),
    "wan_dit": (989, "62a8232782d43c1280025df24f24f7c53f6c7da4d2660bc93834bfd8de44ef5e"),
    "umt5": (242, "d6379851fe159f731ef389ae07835eb08fa89ec5d66c040b0d37ac466279d11b"),
    "clip_vision": (391, "173be14b6706680e9cbab79afb2f1527691da69806a459a4378e4ed7569e54de"),  # without the text tower
}


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip_keeps_every_bit(name):
    table, config = NETWORKS[name].table, TINY[name]
    tensors = random_tensors(table, config, jnp.bfloat16)
    params = convert(tensors, table, config)
    assert_same_bits(dict(invert(params, table, config)), tensors)


@pytest.mark.parametrize("name", NETWORKS)
def test_official_names_and_shapes(name):
    shapes = official_shapes(name)
    lines = "\n".join(sorted(f"{key} {shape}" for key, shape in shapes.items()))
    assert (len(shapes), hashlib.sha256(lines.encode()).hexdigest()) == OFFICIAL[name]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("vggt", "vggt_1b_gen3r"),
        ("wan_vae", "wan21_vae"),
        ("geometry_adapter", "geometry_adapter"),
        ("wan_dit", "wan_dit_1_3b_gen3r"),
        ("umt5", "umt5_xxl_encoder"),
        ("clip_vision", "clip_vit_h14_xlm_roberta"),
    ],
)
def test_names_and_shapes_equal_the_published_lists(name, file):
    path = Path(os.environ.get("GEN3R_MANIFESTS", "")) / f"{file}.json"
    if not path.exists():
        pytest.skip("no lists of the official names at hand (GEN3R_MANIFESTS)")
    network, shapes = NETWORKS[name], official_shapes(name)
    published = json.loads(path.read_text())["params"]
    ignored = {key for key in published if network.table.ignores(key.removeprefix(network.prefix))} - shapes.keys()
    assert shapes == {key: shape for key, shape in published.items() if key not in ignored}


@pytest.mark.parametrize("name", NETWORKS)
def test_config_fields_round_trip(name):
    table, config = NETWORKS[name].table, TINY[name]
    if hasattr(config, "latent_mean"):  # these are in no config.json, but beside the weights
        full = table.read_config({})
        config = dataclasses.replace(config, latent_mean=full.latent_mean, latent_std=full.latent_std)
    assert table.read_config(json.loads(json.dumps(table.write_config(config)))) == config
    assert NETWORKS[name].fields <= table.write_config(TINY[name]).keys()
