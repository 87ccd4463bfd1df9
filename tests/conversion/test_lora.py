"""LoRA files: every trainer's names mean the same change, and what is written is what is read."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conversion import lora
from conversion.rules import official_slots
from conversion.tables.wan_dit import TABLE
from gen3r_jax import module
from gen3r_jax.errors import UserError
from gen3r_jax.models.wan_dit import WanDiT, WanDiTConfig
from tests.helpers.paths import REPOSITORY

RECORDED = REPOSITORY / "tests/recorded/lora"  # PEFT 0.21 wrote the adapter, and merged it by torch 2.14
SHAPES = module.abstract(lambda rngs: WanDiT(WanDiTConfig.tiny(), rngs=rngs))[1]
SLOTS = official_slots(TABLE, module.flatten(SHAPES))
LAYERS = ("patch_embedding", "blocks.0.cross_attn.k_img", "blocks.1.self_attn.q")


def official(params):
    """Official tensors of the layers that the recorded adapter changes."""
    leaves, weights = module.flatten(params), {}
    for layer in LAYERS:
        slot = SLOTS[f"{layer}.weight"]
        leaf = np.asarray(leaves[slot.path])
        weights[layer] = slot.op.inverse(leaf if slot.row is None else leaf[slot.row])
    return weights


@pytest.fixture(scope="module")
def base():
    """Zeros but for the three layers, whose numbers are those that PEFT was given."""
    leaves = {name: np.zeros(leaf.shape, np.float32) for name, leaf in module.flatten(SHAPES).items()}
    rng = np.random.default_rng(0)
    for layer in LAYERS:
        slot = SLOTS[f"{layer}.weight"]
        weight = rng.normal(0, 0.1, slot.source_shape(leaves)).astype(np.float32)
        leaves[slot.path][... if slot.row is None else slot.row] = slot.op.forward(weight)
    return jax.tree.map(jnp.asarray, module.nest(leaves))


def kohya(name, tensor):
    layer, part = re.fullmatch(r"base_model\.model\.(.+)\.(lora_[AB])\.weight", name).groups()
    return f"lora_unet_{layer.replace('.', '_')}.{ {'lora_A': 'lora_down', 'lora_B': 'lora_up'}[part] }.weight", tensor


def comfyui(name, tensor):
    return name.replace("base_model.model.", "diffusion_model."), tensor


def diffusers(name, tensor):
    for ours, theirs in (("base_model.model", "transformer"), ("self_attn.q", "attn1.to_q"),
                         ("cross_attn.k_img", "attn2.add_k_proj")):  # fmt: skip
        name = name.replace(ours, theirs)
    return name, tensor


def named_adapter(name, tensor):
    return name.replace(".weight", ".default.weight").replace("base_model.model.", ""), tensor


@pytest.fixture(params=[None, kohya, comfyui, diffusers, named_adapter])
def adapter(request, tmp_path):
    """The recorded adapter, as PEFT left it and under the names of others, which keep alpha beside the factors."""
    if request.param is None:
        return RECORDED
    tensors = dict(request.param(*item) for item in load_file(RECORDED / "adapter_model.safetensors").items())
    for name in [name for name in tensors if "lora_A" in name or "lora_down" in name]:
        alpha = 5.0 if "k_img" in name or "add_k_proj" in name else 3.0
        tensors[re.sub(r"\.lora_.*", ".alpha", name)] = np.float32(alpha)
    save_file({name: np.asarray(tensor) for name, tensor in tensors.items()}, tmp_path / "lora.safetensors")
    return tmp_path / "lora.safetensors"


def test_merging_is_that_of_torch(adapter, base):
    merged = official(lora.merge(base, [lora.read_lora(adapter, SHAPES)], jnp.float32))
    wanted = load_file(RECORDED / "merged.safetensors")
    for layer in LAYERS:
        error = np.abs(merged[layer] - wanted[f"{layer}.weight"]).max() / np.abs(wanted[f"{layer}.weight"]).max()
        assert error < 1e-6, (layer, error)


def test_several_are_added_before_the_cast(base):
    whole, half, away = (lora.read_lora(RECORDED, SHAPES, scale) for scale in (1.0, 0.5, -0.5))
    once = lora.merge(base, [half, whole, away], jnp.bfloat16)
    exact = lora.merge(base, [whole], jnp.float32)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(once))
    for layer, weight in official(exact).items():
        np.testing.assert_allclose(official(once)[layer].astype(np.float32), weight, rtol=2**-8, atol=1e-6)


def test_changes_that_are_no_products(base, tmp_path):
    """As lightx2v's files have them: biases, scales of norms and modulation as they differ."""
    rng = np.random.default_rng(1)
    changed = {"blocks.1.ffn.0.diff_b": 96, "blocks.0.self_attn.norm_q.diff": 48, "blocks.1.diff_m": (1, 6, 48)}
    tensors = {f"diffusion_model.{name}": rng.normal(size=size).astype(np.float32) for name, size in changed.items()}
    save_file(tensors, tmp_path / "lora.safetensors")
    merged = lora.merge(base, [lora.read_lora(tmp_path / "lora.safetensors", SHAPES)], jnp.float32)
    bias, scale, modulation = tensors.values()
    blocks = merged["blocks"]
    np.testing.assert_array_equal(blocks["mlp"]["up"]["bias"], np.stack([0 * bias, bias]))
    np.testing.assert_array_equal(blocks["self_attn"]["q_norm"]["scale"], np.stack([scale, 0 * scale]))
    np.testing.assert_array_equal(blocks["modulation"][1], modulation[0])


@pytest.mark.parametrize("scale", [0.1, 0.5])
def test_what_is_written_is_what_is_read(scale, tmp_path):
    leaves, rng = module.flatten(SHAPES), np.random.default_rng(2)
    factors = {}
    for path in ("blocks.mlp.up.kernel", "blocks.cross_attn.q.kernel", "patch_embed.kernel"):
        *layers, inputs, outputs = leaves[path].shape
        sizes = {"down": (*layers, inputs, 3), "up": (*layers, 3, outputs)}
        factors[path] = {part: rng.normal(size=size).astype(np.float32) for part, size in sizes.items()}
    lora.write_lora(tmp_path, factors, scale)
    for place in ("lora.safetensors", "lora"):
        changes = lora.read_lora(tmp_path / place, SHAPES)
        assert changes.keys() == factors.keys()
        for path, pair in factors.items():
            for change in sorted(changes[path], key=lambda change: change.row or 0):
                row = ... if change.row is None else change.row
                np.testing.assert_array_equal(change.down, pair["down"][row])
                np.testing.assert_array_equal(change.up, pair["up"][row])
                assert np.float32(change.scale) == np.float32(scale)
    settings = json.loads((tmp_path / "lora/adapter_config.json").read_text())
    assert settings["r"] == 3 and settings["lora_alpha"] == 3 * scale
    assert {"blocks.1.ffn.0", "patch_embedding"} <= set(settings["target_modules"])


def test_files_of_earlier_versions(base, tmp_path):
    kernel = base["blocks"]["mlp"]["up"]["kernel"]
    down, up = np.ones((2, 48, 1), np.float32), np.full((2, 1, 96), 3, np.float32)
    tensors = {"blocks.mlp.up.kernel.down": down, "blocks.mlp.up.kernel.up": up}
    save_file(tensors, tmp_path / "old.safetensors", metadata={"rank": "1", "scale": "0.5"})
    merged = lora.merge(base, [lora.read_lora(tmp_path / "old.safetensors", SHAPES, 2.0)], jnp.float32)
    np.testing.assert_array_equal(merged["blocks"]["mlp"]["up"]["kernel"], kernel + 3)


def test_every_name_without_a_place_is_told(tmp_path, capsys):
    tensors = load_file(RECORDED / "adapter_model.safetensors")
    strange = ["lora_te_text_model.lora_down.weight", "blocks.0.norm9.diff", "blocks.1.norm9.diff", "head.alpha",
               "blocks.1.ffn.2.lora_A.weight", "blocks.0.self_attn.v.strange"]  # fmt: skip
    save_file(tensors | {name: np.ones(1, np.float32) for name in strange}, tmp_path / "lora.safetensors")
    assert len(lora.read_lora(tmp_path / "lora.safetensors", SHAPES)) == 3
    told = capsys.readouterr().err
    assert all(name in told.replace("{0,1}", "0") + told.replace("{0,1}", "1") for name in strange), told


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.0.ffn.0.lora_A.weight": (2, 40), "blocks.0.ffn.0.lora_B.weight": (96, 2)}, r"2 missh.*\[2, 40\] for"),
        ({"blocks.0.ffn.0.lora_A.weight": (2, 48), "blocks.0.ffn.0.lora_B.weight": (96, 3)}, "2 misshapen"),
        ({"blocks.0.ffn.0.diff_b": (97,)}, r"1 misshapen.*\[97\] for \[96\]"),
        ({"text_model.lora_A.weight": (1, 1)}, "changes no layer of the transformer"),
        ({"blocks.mlp.up.kernel.down": (2, 48, 1), "blocks.mlp.up.kernel.up": (2, 1, 95)}, r"\[2, 1, 95\]"),
    ],
)  # fmt: skip
def test_files_for_other_networks(tensors, message, tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file({name: np.ones(shape, np.float32) for name, shape in tensors.items()}, file)
    with pytest.raises(UserError, match=message):
        lora.read_lora(file, SHAPES)


def test_what_is_no_plain_lora_is_refused(tmp_path):
    save_file(load_file(RECORDED / "adapter_model.safetensors"), tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true}')
    with pytest.raises(UserError, match="no plain LoRA"):
        lora.read_lora(tmp_path, SHAPES)
    magnitude = {"blocks.0.ffn.0.dora_scale": np.ones((96, 1), np.float32)}
    save_file(load_file(RECORDED / "adapter_model.safetensors") | magnitude, tmp_path / "kohya.safetensors")
    with pytest.raises(UserError, match=r"no plain LoRA .*blocks\.0\.ffn\.0\.dora_scale"):
        lora.read_lora(tmp_path / "kohya.safetensors", SHAPES)
    with pytest.raises(UserError, match="0 safetensors files"):
        lora.read_lora(REPOSITORY / "tests", SHAPES)


def test_what_is_damaged_is_named(tmp_path):
    file = tmp_path / "lora.safetensors"
    save_file({}, file)
    with pytest.raises(UserError, match="holds no tensors"):
        lora.read_lora(file, SHAPES)
    tensors = load_file(RECORDED / "adapter_model.safetensors")
    save_file({name: np.full_like(tensor, np.nan) for name, tensor in tensors.items()}, file)
    with pytest.raises(UserError, match=r"is damaged: .*lora_.* holds numbers that are not finite"):
        lora.read_lora(file, SHAPES)


def test_the_scale_stands_behind_the_file(tmp_path):
    (tmp_path / "a:2").touch()
    given = {"a.safetensors": 1.0, "a.safetensors:0.5": 0.5, "a.safetensors:-1": -1.0, "b:a": 1.0}
    assert [lora.split_scale(text)[1] for text in given] == list(given.values())
    assert lora.split_scale(f"{tmp_path}/a:2") == (tmp_path / "a:2", 1.0)
    assert lora.split_scale("b:a")[0].name == "b:a"
