"""Damage never passes: every flipped bit of a network's folder is found, and told in one line that names the file."""

import shutil

import numpy as np
import pytest
from flax import nnx

from gen3r_jax import module
from gen3r_jax.data.encoded import Header, read_header
from gen3r_jax.errors import UserError
from gen3r_jax.generation.settings import read_settings, read_shift
from gen3r_jax.models.tokenizer import Tokenizer
from gen3r_jax.storage.checkpoint import load_network, save_compact, save_network, save_weights
from gen3r_jax.storage.files import write_json
from gen3r_jax.storage.hashes import write_hashes
from gen3r_jax.verify import main
from tests.helpers.damage import files_in, flip_bit
from tests.storage.test_checkpoint import Net, NetConfig

NETWORK = Net(NetConfig(label="a"), rngs=nnx.Rngs(0))


def _save(folder, form):
    if form == "folder":
        save_network(folder, NETWORK)
    else:
        save_compact(folder, Net, NETWORK.config, module.split(NETWORK)[1])
    return folder


@pytest.mark.parametrize(("form", "flips"), [("folder", 60), ("one file", 20)])
def test_every_flipped_bit_is_found(tmp_path, form, flips):
    whole, rng = _save(tmp_path / "whole", form), np.random.default_rng(0)
    files = files_in(whole)
    for number in range(flips):
        folder = tmp_path / f"{number}"
        shutil.copytree(whole, folder)
        name = files[number % len(files)]
        flip_bit(folder / name, rng)
        try:
            params = module.flatten(load_network(folder, Net)[1])
        except UserError as error:
            assert name in str(error) or "hashes.json" in name
            assert "\n" not in str(error) and len(str(error)) < 400
        else:  # white space between the hashes
            assert name == "hashes.json"
            for key, leaf in module.flatten(module.split(NETWORK)[1]).items():
                np.testing.assert_array_equal(params[key], leaf)


@pytest.mark.parametrize("form", ["folder", "one file"])
def test_a_file_that_is_gone_or_not_told_of_is_found(tmp_path, form):
    folder = _save(tmp_path / "net", form)
    first = next(name for name in files_in(folder) if name.startswith("params"))
    hashes = (folder / "hashes.json").read_text()
    (folder / "hashes.json").write_text(hashes.replace('"params', '"others'))
    with pytest.raises(UserError, match=r"hashes\.json does not tell of .*params"):
        load_network(folder, Net)
    (folder / "hashes.json").write_text(hashes)
    (folder / first).unlink()
    with pytest.raises(UserError):
        load_network(folder, Net)
    assert main([str(folder)]) == 1


def test_folders_without_hashes_are_read_with_a_notice_and_get_them(tmp_path, capsys):
    folder = _save(tmp_path / "weights" / "net", "folder")
    (folder / "hashes.json").unlink()
    for _ in range(2):
        load_network(folder, Net)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f"gen3r verify --write {folder} adds it")
    assert main([str(folder.parent)]) == 1
    assert main([str(folder.parent), "--write"]) == main([str(folder.parent)]) == 0
    capsys.readouterr()
    load_network(folder, Net)
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match="holds no weights"):
        main([str(tmp_path / "weights" / "net" / "params"), "--write"])
    with pytest.raises(UserError, match=r"holds no weights .*, no checkpoints and no shards"):
        main([str(tmp_path / "weights" / "net" / "params")])


def test_what_is_beside_networks_has_hashes_too(tmp_path, capsys):
    write_json(tmp_path / "scheduler.json", {"shift": 2.0})
    write_json(tmp_path / "generation.json", {"seed": 3})
    Tokenizer.tiny().save(tmp_path / "tokenizer")
    write_hashes(tmp_path)
    texts = {"a room": np.ones((3, 4), np.float32)}
    (tmp_path / "latents").mkdir()
    Header(5, 112, True, "float32", {}, {"train": 1, "test": 1}, texts).write(tmp_path / "latents")
    readers = {
        "scheduler.json": lambda: read_shift(tmp_path),
        "generation.json": lambda: read_settings(tmp_path),
        "latents/header.safetensors": lambda: read_header(tmp_path / "latents"),
        "tokenizer/tokenizer.json": lambda: Tokenizer.from_folder(tmp_path / "tokenizer"),
    }
    assert main([str(tmp_path)]) == 0
    for name, read in readers.items():
        read()
        whole = (tmp_path / name).read_bytes()
        flip_bit(tmp_path / name, np.random.default_rng(0))
        with pytest.raises(UserError, match=f"{name} is damaged: .* gen3r verify --write"):
            read()
        assert main([str(tmp_path)]) == 1
        (tmp_path / name).write_bytes(whole)
    capsys.readouterr()
    (tmp_path / "hashes.json").unlink()
    (tmp_path / "generation.json").write_text('{"seed": 4}')
    assert read_settings(tmp_path).seed == 4  # as before there were hashes
    assert main([str(tmp_path)]) == 1 and "no hashes.json; --write adds it" in capsys.readouterr().out
    assert main([str(tmp_path), "--write"]) == main([str(tmp_path)]) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["folder", "one file"])
def test_numbers_that_are_not_finite_are_not_written(tmp_path, form, value):
    params = module.split(NETWORK)[1]
    params["heads"]["0"]["bias"] = params["heads"]["0"]["bias"].at[1].set(value).astype("bfloat16")
    with pytest.raises(module.NotFinite, match=r"weights for .*net are not finite \(heads\.0\.bias\)"):
        (save_weights if form == "folder" else save_compact)(tmp_path / "net", Net, NETWORK.config, params)
    assert not (tmp_path / "net").exists()


def test_a_config_changed_by_hand_is_taken_when_that_is_said(tmp_path):
    folder = _save(tmp_path / "net", "one file")
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"a"', '"b"'))
    with pytest.raises(UserError, match=r"config\.json is damaged: .* gen3r verify --write"):
        load_network(folder, Net)
    main([str(folder), "--write"])
    graphdef, params = load_network(folder, Net)
    assert module.merge(graphdef, params).config.label == "b"
