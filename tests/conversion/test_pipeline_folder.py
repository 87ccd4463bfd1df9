"""The converter of the whole official folder."""

import json
import os
import shutil

import numpy as np
import pytest

from conversion import pipeline_folder
from conversion.__main__ import main
from conversion.networks import NETWORKS
from conversion.pipeline_folder import find_weights
from gen3r_jax.errors import UserError
from gen3r_jax.storage.checkpoint import read_config


def run(*arguments) -> None:
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    folder = tmp_path_factory.mktemp("official")
    run("random", "gen3r", "--tiny", "--output", folder)
    return folder


def test_everything_is_converted_and_what_is_there_is_kept(official, tmp_path, capsys):
    run("gen3r", "--source", official, "--output", tmp_path)
    configs = {name: read_config(tmp_path / name, network.table.network) for name, network in NETWORKS.items()}
    assert configs["wan_dit"].text_dim == configs["umt5"].dim
    assert configs["wan_dit"].image_dim == configs["clip_vision"].dim
    assert configs["geometry_adapter"].input_dim == 10 * configs["vggt"].embed_dim
    assert json.loads((tmp_path / "scheduler.json").read_text()) == {"shift": 2.0}
    assert (tmp_path / "tokenizer" / "tokenizer.json").exists()
    before = (tmp_path / "vggt" / "config.json").stat().st_mtime_ns
    (tmp_path / "umt5").rename(tmp_path / "elsewhere")  # as after an interruption: this network was not written yet
    capsys.readouterr()
    run("gen3r", "--source", official, "--output", tmp_path)
    report = capsys.readouterr().out
    assert "vggt is there already" in report and "text_encoder ->" in report
    assert (tmp_path / "vggt" / "config.json").stat().st_mtime_ns == before


def test_the_way_back_writes_the_official_folder_bit_for_bit(official, tmp_path):
    run("gen3r", "--source", official, "--output", tmp_path / "weights")
    run("gen3r", "--invert", "--source", tmp_path / "weights", "--output", tmp_path / "back")
    files, back = (
        {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (official, tmp_path / "back")
    )
    assert back.keys() == files.keys()
    assert [str(path) for path in files if files[path] != back[path]] == []
    shutil.rmtree(tmp_path / "weights" / "vggt")
    with pytest.raises(UserError, match="lacks vggt"):
        main(["gen3r", "--invert", "--source", str(tmp_path / "weights"), "--output", str(tmp_path / "other")])


def test_without_a_way_back_nothing_is_written(tmp_path, monkeypatch):
    """Nano's networks have layers of their own; its name is that of the one that is carried."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"wan_vae is a network that has no official form"):
        main(["gen3r", "--invert", "--source", "pretrained/nano", "--output", "back"])
    assert not list(tmp_path.rglob("*"))


def test_a_folder_is_converted_once_and_not_used_when_it_has_changed(official, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "checkpoints"
    shutil.copytree(official, folder)
    with pytest.raises(UserError, match="is not converted yet: gen3r convert gen3r"):
        find_weights(folder, convert=False)
    monkeypatch.setattr(pipeline_folder, "convert_pipeline", lambda source, output: [])
    assert find_weights(folder) == tmp_path / "checkpoints-gen3r_jax" and "once" in capsys.readouterr().err
    assert find_weights(folder, convert=False) == tmp_path / "checkpoints-gen3r_jax" and not capsys.readouterr().err
    os.utime(folder / "transformer" / "config.json", (0, 0))
    with pytest.raises(UserError, match="has changed since it was converted"):
        find_weights(folder)


def test_what_is_missing_is_named(official, tmp_path):
    for name in ("transformer", "vggt", "wan_vae"):
        (tmp_path / name).symlink_to(official / name)
    with pytest.raises(UserError, match=r"lacks geo_adapter, text_encoder, clip_image_encoder, tokenizer/tok"):
        main(["gen3r", "--source", str(tmp_path), "--output", str(tmp_path / "weights")])
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize(
    ("fields", "message"),
    [({}, "no number called shift"), ({"shift": 3.0, "use_dynamic_shifting": True}, "without dynamic shifting")],
)
def test_other_schedulers_are_refused(official, tmp_path, fields, message):
    for entry in official.iterdir():
        if entry.name != "scheduler":
            (tmp_path / entry.name).symlink_to(entry)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=message):
        main(["gen3r", "--source", str(tmp_path), "--output", str(tmp_path / "weights")])
    assert not (tmp_path / "weights").exists()


def test_upstream_transformer_gets_channels_for_the_mask(official, tmp_path, capsys):
    from safetensors.numpy import load_file, save_file

    for entry in official.iterdir():
        if entry.name != "transformer":
            (tmp_path / entry.name).symlink_to(entry)
    tensors = load_file(official / "transformer" / "diffusion_pytorch_model.safetensors")
    tensors["patch_embedding.weight"] = np.ascontiguousarray(tensors["patch_embedding.weight"][:, :32])
    (tmp_path / "transformer").mkdir()
    save_file(tensors, tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    fields = json.loads((official / "transformer" / "config.json").read_text()) | {"in_dim": 32}
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(fields))
    run("gen3r", "--source", tmp_path, "--output", tmp_path / "weights")
    assert "4 for the mask were added" in capsys.readouterr().out
    assert read_config(tmp_path / "weights" / "wan_dit", NETWORKS["wan_dit"].table.network).in_channels == 36
