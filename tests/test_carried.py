"""Names of the configs and the model that come with the package."""

from pathlib import Path

import pytest

from conversion.pipeline_folder import locate_weights
from gen3r_jax import carried
from gen3r_jax.command_line import _find_configs
from gen3r_jax.errors import UserError
from tests.helpers.paths import NANO, REPOSITORY

CONFIGS = REPOSITORY / "configs"


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("adapter:tiny", f"{CONFIGS}/adapter.py:tiny"),
        ("dit", f"{CONFIGS}/dit.py"),
        ("nano/dit:frames", f"{CONFIGS}/nano/dit.py:frames"),
        ("configs/eval.py:nano", f"{CONFIGS}/eval.py:nano"),
        (f"{CONFIGS}/dit.py:a:b", f"{CONFIGS}/dit.py:a:b"),
    ],
)
def test_names_of_configs(name, file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert carried.find_config(name) == file


def test_paths_that_exist_win(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert locate_weights("pretrained/nano") == NANO
    (tmp_path / "adapter").touch()
    (tmp_path / "dit").mkdir()  # a folder is no config file
    (tmp_path / "pretrained" / "nano").mkdir(parents=True)
    assert carried.find_config("adapter:tiny") == "adapter:tiny"
    assert carried.find_config("dit") == f"{CONFIGS}/dit.py"
    assert locate_weights("pretrained/nano").resolve() == tmp_path / "pretrained" / "nano"


def test_the_example_of_the_model_is_found_as_a_picture(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert carried.find_file("pretrained/nano/example.png", "images") == NANO / "example.png"
    assert carried.find_file("photo.png", "images") == Path("photo.png")
    (tmp_path / "pretrained" / "nano").mkdir(parents=True)
    (tmp_path / "pretrained" / "nano" / "example.png").touch()
    assert carried.find_file("pretrained/nano/example.png", "images") == Path("pretrained/nano/example.png")


def test_unknown_names_say_what_there_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"no config file adaptor; give a path, or one of adapter, .*nano/dit"):
        carried.find_config("adaptor:tiny")
    with pytest.raises(UserError, match=r"no weights at checkpoints: .*JaceyH919/Gen3R.*pretrained/nano"):
        locate_weights("checkpoints")
    for name, message in (
        (None, "must be a path, not NoneType"),
        ("", "is no path"),
        (str(NANO / "example.png"), "example.png is a file: give a folder"),
    ):
        with pytest.raises(UserError, match=message):
            locate_weights(name)


def test_the_home_folder_may_be_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    assert locate_weights("~/weights") == tmp_path / "weights"


def test_the_flag_in_all_its_spellings():
    rest = ["--config.data.source=adapter", "--workdir", "config", "adapter"]
    for flag in ("--config", "-config"):
        assert _find_configs(["x", flag, "eval:nano", *rest]) == ["x", flag, f"{CONFIGS}/eval.py:nano", *rest]
        assert _find_configs(["x", f"{flag}=eval:nano", *rest]) == ["x", f"{flag}={CONFIGS}/eval.py:nano", *rest]
