"""The conversion command: official files there and back, and what it refuses."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion.__main__ import main
from conversion.commands import random_checkpoint
from conversion.networks import NETWORKS
from conversion.prove import require_equal
from conversion.torch_files import open_checkpoint, write_checkpoint
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.storage import checkpoint
from tests.helpers.official import TINY, assert_same_bits, official_shapes


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
    (tmp_path / "more.safetensors").write_bytes(source.read_bytes() + b"more")
    (tmp_path / "text.safetensors").write_text("<html>not found</html>")
    (tmp_path / "weights.npz").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    for name, expected in {
        "cut.safetensors": "cut short",
        "more.safetensors": "it holds more than its header tells of",
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
    (tmp_path / "vae.pth").write_bytes(b"PK")
    message = refused("wan_vae", "--source", tmp_path / "vae.pth", "--output", tmp_path / "w")
    assert 'pip install "gen3r-jax[convert]"' in message


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty; download"), (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull")],
)
def test_files_that_were_not_downloaded_are_named(tmp_path, suffix, content, message):
    file = (tmp_path / "vae").with_suffix(suffix)
    file.write_bytes(content)
    line = refused("wan_vae", "--source", file, "--output", tmp_path / "w")
    assert str(file) in line and message in line


def test_shards_of_an_earlier_write_do_not_stay(tmp_path):
    def write(value: float, shard_bytes: int) -> None:
        tensors = {name: np.full(4, value, np.float32) for name in ("a", "b", "c")}
        entries = {name: jax.ShapeDtypeStruct(tensor.shape, tensor.dtype) for name, tensor in tensors.items()}
        write_checkpoint(tmp_path / "model.safetensors", entries, tensors.items(), shard_bytes)

    for value, shard_bytes, files in ((1, 16, 4), (2, 40, 3), (3, 100, 1), (4, 16, 4)):
        write(value, shard_bytes)
        assert len(list(tmp_path.iterdir())) == files  # shards and their index
        assert all(np.all(np.asarray(tensor) == value) for tensor in open_checkpoint(tmp_path).tensors.values())
