"""Converters: every table both ways, what is refused, and the command line on the forms in which weights are found."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from conversion.__main__ import main
from conversion.checkpoints import random_checkpoint
from conversion.networks import NETWORKS
from conversion.prove import require_equal
from conversion.rules import Rule, Table, conv2d, convert, invert, linear, manifest, squeeze
from conversion.safetensors_files import open_safetensors
from conversion.torch_files import open_checkpoint, write_checkpoint
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.storage import checkpoint

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


def assert_same_bits(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert (first[name].dtype, first[name].shape) == (second[name].dtype, second[name].shape), name
        assert first[name].tobytes() == second[name].tobytes(), name


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
    jax.tree.map(np.testing.assert_array_equal, params, whole)
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

TINY = {name: network.table.network.Config.tiny() for name, network in NETWORKS.items()}

# Number of official tensors at full size, and SHA-256 of the sorted lines "name [shape]".
OFFICIAL = {
    "vggt": (1403, "ab2b029471a2b701fe423dd21aa66d3b7f67d4415c25c494c6d4d32368d9f6e0"),
    "wan_vae": (194, "ec97a6b8c2da9b2d23c2d6ea0ff8ac1f03c4215604ff0ac48efdb164832d9bd8"),
    "geometry_adapter": (202, "48c9c4f49154a828c02da3a41c11c5cf9bb61a13e16fda70ffc26baf2c7f8d3f"),
    "wan_dit": (989, "62a8232782d43c1280025df24f24f7c53f6c7da4d2660bc93834bfd8de44ef5e"),
    "umt5": (242, "d6379851fe159f731ef389ae07835eb08fa89ec5d66c040b0d37ac466279d11b"),
    "clip_vision": (391, "173be14b6706680e9cbab79afb2f1527691da69806a459a4378e4ed7569e54de"),  # without the text tower
}


def official_shapes(name: str) -> dict[str, list[int]]:
    network = NETWORKS[name]
    entries = manifest(network.table, network.table.read_config({}))
    return {network.prefix + key: list(entry.shape) for key, entry in entries.items()}


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


# ---------------------------------------------------------------------------------------------------------------------
# The command line


@pytest.fixture(scope="module")
def official(tmp_path_factory) -> Path:
    """A pipeline folder with a tiny random checkpoint of each network."""
    folder = tmp_path_factory.mktemp("official")
    for name, network in NETWORKS.items():
        random_checkpoint(name, folder / network.folder, config=TINY[name])
    return folder


def weights_file(official: Path, name: str) -> Path:
    return official / NETWORKS[name].folder / NETWORKS[name].weights


def run(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


def refused(*arguments) -> str:
    with pytest.raises(UserError) as error:
        main([str(argument) for argument in arguments])
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", NETWORKS)
def test_there_and_back(name, official, tmp_path, capsys):
    run(name, "--source", official, "--output", tmp_path / "weights")
    report = capsys.readouterr().out
    graphdef, params = checkpoint.load_network(tmp_path / "weights", NETWORKS[name].table.network)
    assert module.merge(graphdef, params).config == TINY[name]
    assert f"{module.count_parameters(params):,} parameters" in report
    run(name, "--invert", "--source", tmp_path / "weights", "--output", tmp_path / "back", "--shard_gb", 2e-5)
    files = sorted((tmp_path / "back").glob("*.safetensors"))
    assert len(files) > 1
    back = {key: x for file in files for key, x in load_file(file).items()}
    assert_same_bits(load_file(weights_file(official, name)), back)
    first, second = (folder / "config.json" for folder in (official / NETWORKS[name].folder, tmp_path / "back"))
    assert first.read_text() == second.read_text()


def test_a_file_that_is_written_does_not_cost_others(official, tmp_path):
    """Neither shards of its name, nor a config.json, nor an index."""
    run("umt5", "--source", official, "--output", tmp_path / "weights")
    for name in ("model-00001-of-00003.safetensors", "model.safetensors.index.json", "config.json"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        (folder / name).write_text("others'")
        with pytest.raises(UserError, match=f"{name} exists; name another output"):
            run("umt5", "--invert", "--source", tmp_path / "weights", "--output", folder / "model.safetensors")
        assert (folder / name).read_text() == "others'"
    run("umt5", "--invert", "--source", tmp_path / "weights", "--output", folder / "model.safetensors", "--force")
    assert (folder / "model.safetensors").exists()


def test_a_network_without_an_official_form_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no official form"):
        run("wan_vae", "--invert", "--source", "pretrained/nano/wan_vae", "--output", tmp_path / "back")


def test_shards(official, tmp_path):
    tensors = load_file(weights_file(official, "vggt"))
    entries = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in tensors.items()}
    files = write_checkpoint(tmp_path / "model.safetensors", entries, tensors.items(), shard_bytes=100_000)
    assert len(files) > 2 and files[0].name == f"model-00001-of-{len(files):05}.safetensors"
    opened = {name: np.asarray(x) for name, x in open_checkpoint(tmp_path).tensors.items()}
    assert_same_bits(opened, tensors)
    files[1].unlink()
    with pytest.raises(UserError, match=f"{files[1].name} does not exist"):
        open_checkpoint(tmp_path)


def test_index_that_disagrees_with_its_shards(tmp_path):
    save_file({"a": np.zeros(2), "stray": np.zeros(2)}, tmp_path / "x.safetensors")
    index = {"weight_map": {"a": "x.safetensors", "b": "x.safetensors"}}
    (tmp_path / "x.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"disagree on b \(in x.safetensors\), stray \(in x.safetensors\)"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("prefix", ["", "model.", "model.model."])
def test_wrapper_prefixes(prefix, official, tmp_path):
    tensors = load_file(weights_file(official, "wan_vae"))
    path = tmp_path / "vae.safetensors"
    save_file({prefix + name.removeprefix("model."): x for name, x in tensors.items()}, path)
    assert open_checkpoint(path).tensors.keys() == {name.removeprefix("model.") for name in tensors}


def test_a_prefix_on_some_names_only_is_kept(tmp_path):
    save_file({"model.a": np.zeros(1), "b": np.zeros(1)}, tmp_path / "x.safetensors")
    assert open_checkpoint(tmp_path / "x.safetensors").tensors.keys() == {"model.a", "b"}


def test_adapter_brings_its_own_statistics(official, tmp_path, capsys):
    source = weights_file(official, "geometry_adapter")
    tensors = {name.removeprefix("model."): x for name, x in load_file(source).items()}
    table = NETWORKS["geometry_adapter"].table
    usual = table.read_config({})
    statistics = {"mean": np.float32(usual.latent_mean), "std": np.float32(usual.latent_std)}
    (tmp_path / "config.json").write_text((source.parent / "config.json").read_text())
    save_file({**tensors, **statistics}, tmp_path / "same.safetensors")
    save_file({**tensors, **statistics, "mean": statistics["mean"] + 1}, tmp_path / "other.safetensors")

    def converted_config(name: str):
        run("geometry_adapter", "--source", tmp_path / f"{name}.safetensors", "--output", tmp_path / name)
        return module.merge(*checkpoint.load_network(tmp_path / name, table.network)).config

    same = converted_config("same")
    assert (same.latent_mean, same.latent_std) == (usual.latent_mean, usual.latent_std)
    assert "replace the usual ones" not in capsys.readouterr().out
    other = converted_config("other")
    assert "replace the usual ones" in capsys.readouterr().out
    np.testing.assert_array_equal(np.float32(other.latent_mean), statistics["mean"] + 1)
    run(
        "geometry_adapter",
        "--invert",
        "--source",
        tmp_path / "other",
        "--output",
        tmp_path / "back" / "all.safetensors",
    )
    assert_same_bits(
        {"model." + name: x for name, x in load_file(tmp_path / "other.safetensors").items()},
        load_file(tmp_path / "back" / "all.safetensors"),
    )


def test_vggt_without_point_head_and_with_track_head(official, tmp_path, capsys):
    source = weights_file(official, "vggt")
    tensors = load_file(source) | {"track_head.fmap_norm.weight": np.ones(3, np.float32)}
    (tmp_path / "config.json").write_text((source.parent / "config.json").read_text())
    save_file(tensors, tmp_path / "model.safetensors")
    run("vggt", "--source", tmp_path / "model.safetensors", "--output", tmp_path / "w", "--no_point_head")
    assert r"track_head\..*" in capsys.readouterr().out
    graphdef, params = checkpoint.load_network(tmp_path / "w", NETWORKS["vggt"].table.network)
    assert not module.merge(graphdef, params).config.point_head
    assert not any("point" in path for path in module.flatten(params))


def test_dtype(official, tmp_path):
    run("wan_vae", "--source", official, "--output", tmp_path / "w", "--dtype", "bfloat16")
    _, params = checkpoint.load_network(tmp_path / "w", NETWORKS["wan_vae"].table.network)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.bfloat16)}


def test_wrong_network_is_named(tmp_path):
    save_file({name: np.zeros(1) for name in official_shapes("wan_vae")}, tmp_path / "vae.safetensors")
    message = refused("geometry_adapter", "--source", tmp_path / "vae.safetensors", "--output", tmp_path / "w")
    assert "this is the network wan_vae, not geometry_adapter" in message
    assert not (tmp_path / "w").exists()


def test_missing_extra_and_misshapen_tensors_are_all_named(official, tmp_path):
    tensors = load_file(weights_file(official, "wan_vae"))
    del tensors["model.conv1.bias"], tensors["model.conv2.bias"]
    tensors |= {"model.surplus": np.zeros(1), "model.encoder.conv1.bias": np.zeros(1)}
    save_file(tensors, tmp_path / "x.safetensors")
    (tmp_path / "config.json").write_text((official / "wan_vae" / "config.json").read_text())
    message = refused("wan_vae", "--source", tmp_path / "x.safetensors", "--output", tmp_path / "w")
    for part in (
        "2 missing: ",
        "conv1.bias",
        "conv2.bias",
        "1 unexpected: surplus",
        "1 misshapen: encoder.conv1.bias [1]",
    ):
        assert part in message
    assert not (tmp_path / "w").exists()


def test_bad_files(official, tmp_path):
    source = weights_file(official, "wan_vae")
    (tmp_path / "cut.safetensors").write_bytes(source.read_bytes()[:-100])
    (tmp_path / "text.safetensors").write_text("<html>not found</html>")
    (tmp_path / "weights.npz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, expected in {
        "cut.safetensors": "cut short",
        "text.safetensors": "not a whole safetensors file",
        "none.safetensors": "does not exist",
        "weights.npz": "allowed are .safetensors",
        "empty": "holds no weights",
    }.items():
        assert expected in refused("wan_vae", "--source", tmp_path / name, "--output", tmp_path / "w")


def test_output_is_not_overwritten_unless_asked(official, tmp_path):
    (tmp_path / "w").mkdir()
    run("wan_vae", "--source", official, "--output", tmp_path / "w")
    assert "--force" in refused("wan_vae", "--source", official, "--output", tmp_path / "w")
    run("wan_vae", "--source", official, "--output", tmp_path / "w", "--force", "--dtype", "bfloat16")


def test_output_below_a_file_is_refused(official, tmp_path):
    (tmp_path / "file").write_text("")
    assert "cannot write" in refused("wan_vae", "--source", official, "--output", tmp_path / "file" / "w")


def test_too_little_space_is_noticed_before_writing(official, tmp_path, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)
    assert "GB free" in refused("wan_vae", "--source", official, "--output", tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_errors_are_one_line_with_status_2(tmp_path):
    command = [sys.executable, "-m", "conversion", "vggt", "--source", tmp_path / "none", "--output", tmp_path / "w"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr == f"error: {tmp_path / 'none'} does not exist\n"


def test_the_proof_notices_one_changed_bit(official, tmp_path):
    source = weights_file(official, "wan_vae")
    (tmp_path / "same.safetensors").write_bytes(source.read_bytes())
    assert require_equal(source, tmp_path / "same.safetensors") == sum(x.nbytes for x in load_file(source).values())
    changed = bytearray(source.read_bytes())
    changed[-1] ^= 1
    (tmp_path / "changed.safetensors").write_bytes(changed)
    with pytest.raises(UserError, match="the way back changed"):
        require_equal(source, tmp_path / "changed.safetensors")


def test_torch_files(official, tmp_path):
    torch = pytest.importorskip("torch", reason="the extra `convert` is not installed")
    tensors = load_file(weights_file(official, "wan_vae"))
    state = {"model." + name: torch.from_numpy(x).bfloat16() for name, x in tensors.items()}
    (tmp_path / "config.json").write_text((official / "wan_vae" / "config.json").read_text())
    torch.save({"state_dict": state, "epoch": 3}, tmp_path / "last.ckpt")
    torch.save(dict(state), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    for file in ("last.ckpt", "old.pth"):
        opened = open_checkpoint(tmp_path / file).tensors
        assert_same_bits(
            {name: np.asarray(x) for name, x in opened.items()},
            {name.removeprefix("model."): x.astype(jnp.bfloat16) for name, x in tensors.items()},
        )
    torch.save({"a": torch.zeros(1), "b": "text"}, tmp_path / "mixed.pth")
    assert "not a state dict" in refused("vggt", "--source", tmp_path / "mixed.pth", "--output", tmp_path / "w")


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_pickles_with_code_are_refused(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch", reason="the extra `convert` is not installed")
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Malicious()}, "bad.pth")
    assert "could run code" in refused("vggt", "--source", "bad.pth", "--output", "w")
    assert not (tmp_path / "executed").exists()


def test_torch_files_without_torch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "vae.pth").write_bytes(b"")
    message = refused("wan_vae", "--source", tmp_path / "vae.pth", "--output", tmp_path / "w")
    assert 'pip install "gen3r-jax[convert]"' in message


def test_shards_of_an_earlier_write_do_not_stay(tmp_path):
    def write(value: float, shard_bytes: int) -> None:
        tensors = {name: np.full(4, value, np.float32) for name in ("a", "b", "c")}
        entries = {name: jax.ShapeDtypeStruct(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        write_checkpoint(tmp_path / "model.safetensors", entries, tensors.items(), shard_bytes)

    for value, shard_bytes, files in ((1, 16, 4), (2, 40, 3), (3, 100, 1), (4, 16, 4)):
        write(value, shard_bytes)
        assert len(list(tmp_path.iterdir())) == files  # shards and their index
        assert all(np.all(np.asarray(tensor) == value) for tensor in open_checkpoint(tmp_path).tensors.values())
