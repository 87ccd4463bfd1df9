"""Official checkpoints inside of what trainers and compilers put around them: it comes off, and that is said."""

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from conversion.rules import some
from conversion.torch_files import open_checkpoint, strip_wrapper, unwrap
from gen3r_jax.errors import UserError

NAMES = ("blocks.0.ffn.0.weight", "blocks.1.ffn.0.weight", "head.weight")


@pytest.mark.parametrize(
    "prefix",
    [
        *("module.", "_orig_mod.", "module._orig_mod.", "model.diffusion_model.", "diffusion_model.", "transformer."),
        *("_fsdp_wrapped_module.", "ema_model.", "ema.", "ema.shadow.", "model.", "network.", "module.model."),
        "_forward_module.model._fsdp_wrapped_module.",
    ],
)
def test_prefixes_that_all_names_have_come_off(prefix, tmp_path):
    save_file({prefix + name: np.full(1, i) for i, name in enumerate(NAMES)}, tmp_path / "x.safetensors")
    opened = open_checkpoint(tmp_path)
    assert {name: int(np.asarray(x)[0]) for name, x in opened.tensors.items()} == {n: i for i, n in enumerate(NAMES)}
    if prefix != "model.":  # how official files are
        assert opened.notes == (f"names come without what was put around the network, as in {prefix}{NAMES[0]}",)


def test_layers_of_wrapped_blocks_come_off():
    wrapped = {
        "_fsdp_wrapped_module.blocks.0._checkpoint_wrapped_module.ffn.0.weight": 0,
        "_fsdp_wrapped_module.blocks.1._fsdp_wrapped_module._checkpoint_wrapped_module.ffn.0.weight": 1,
        "_fsdp_wrapped_module.head._orig_mod.weight": 2,
    }
    assert strip_wrapper(wrapped) == {name: i for i, name in enumerate(NAMES)}


def test_counters_beside_an_average_are_left_out():
    assert strip_wrapper({"n_averaged": 3, **{f"module.{name}": 0 for name in NAMES}}) == dict.fromkeys(NAMES, 0)


@pytest.mark.parametrize(
    ("content", "around", "others"),
    [
        ({"a": 1}, [], []),
        ({"model": {"a": 1}, "optimizer": {"state": {}}, "step": 3}, ["model"], ["optimizer", "step"]),
        ({"state_dict": {"state_dict": {"a": 1}}, "epoch": 2}, ["state_dict", "state_dict"], ["epoch"]),
        ({"module": {"a": 1}, "ds_config": {}}, ["module"], ["ds_config"]),
        ({"ema": {"a": 1}}, ["ema"], []),
        ({"model": {"a": 1}, "ema": {"a": 2}}, ["model"], ["ema"]),
    ],
)
def test_dictionaries_of_trainers(content, around, others):
    assert unwrap(content) == ({"a": 1}, around, others)


def test_files_of_trainers_beside_the_weights_are_passed_over(tmp_path):
    save_file({"a": np.zeros(1)}, tmp_path / "model.safetensors")
    for name in ("training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state_0.pth", "optimizer.safetensors"):
        (tmp_path / name).write_bytes(b"not to be read")
    opened = open_checkpoint(tmp_path)
    assert opened.tensors.keys() == {"a"}
    assert opened.notes[0].startswith("not read: optimizer.pt, optimizer.safetensors")


@pytest.mark.parametrize(
    ("file", "advice"),
    [
        ("__0_0.distcp", "torch.distributed.checkpoint.format_utils dcp_to_torch"),
        ("bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "zero_to_fp32.py"),
        ("notes.txt", "needed is a file ending in .safetensors"),
    ],
)
def test_folders_in_other_forms_say_what_to_do(tmp_path, file, advice):
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(UserError, match=advice) as caught:
        open_checkpoint(tmp_path)
    assert str(tmp_path) in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["zero.pth", "zero.safetensors"])
def test_empty_files_are_named(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=name):
        open_checkpoint(tmp_path / name)


def test_long_lists_are_cut_with_a_count():
    assert some(["a", "b"]) == "a, b"
    assert some([f"blocks.{i}.attention.weight" for i in range(30)]) == (
        "blocks.0.attention.weight, blocks.1.attention.weight and 28 more"
    )
    assert some(["x" * 100, "y"]) == "x" * 100 + " and 1 more"


def test_pickles(tmp_path):
    """Parameters that need gradients, in a trainer's dictionaries; and damage, however it breaks the reader."""
    torch = pytest.importorskip("torch")
    values = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    content = {"model": {f"module.{name}": torch.nn.Parameter(values.clone()) for name in NAMES}, "epoch": 3}
    torch.save(content, tmp_path / "x.pth")
    opened = open_checkpoint(tmp_path / "x.pth")
    assert opened.tensors.keys() == set(NAMES) and opened.notes[0] == "of x.pth, what model holds was read"
    np.testing.assert_array_equal(opened.tensors[NAMES[0]], values.float().numpy().astype(ml_dtypes.bfloat16))
    whole = (tmp_path / "x.pth").read_bytes()
    for length in (0, 1, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth"):
            open_checkpoint(tmp_path / "cut.pth")
    torch.save({"a": values, "b": "text"}, tmp_path / "y.pth")
    with pytest.raises(UserError, match=r"is not a state dict: .*; b is none"):
        open_checkpoint(tmp_path / "y.pth")
    torch.save([1, 2], tmp_path / "y.pth")
    with pytest.raises(UserError, match=r"is not a state dict: .* is needed$"):
        open_checkpoint(tmp_path / "y.pth")
