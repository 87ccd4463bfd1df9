"""Planning for accelerators that are not here: topologies, what devices exchange, the costs of compiled programs."""

import importlib.util
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from gen3r_jax.costs import topology
from gen3r_jax.costs.collectives import by_kind, find_collectives, largest
from gen3r_jax.errors import UserError
from gen3r_jax.planning.program_cost import ProgramCost, kept_by_others

MISSING = [name for name in ("libtpu", "jax_cuda12_plugin") if importlib.util.find_spec(name) is None]

# Five layers whose weights are in slices, three times; then what a program of each kind of exchange gives.
ON_EIGHT_DEVICES = """
import jax, jax.numpy as jnp, json, sys
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from gen3r_jax.costs.collectives import find_collectives

mesh = jax.make_mesh((4, 2), ("fsdp", "other"), (AxisType.Auto,) * 2)
jax.set_mesh(mesh)

def array(shape, *axes):
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*axes)))

def layers(w, x):
    def layer(x, w):
        return jnp.tanh(x @ jax.lax.with_sharding_constraint(w, P())), None
    return jax.lax.scan(lambda x, _: (jax.lax.scan(layer, x, w)[0], None), x, None, length=3)[0]

def on_parts(f, out):
    return jax.shard_map(f, in_specs=P("fsdp"), out_specs=out, check_vma=False)

programs = {
    "layers": (layers, array((5, 16, 16), None, "fsdp"), array((2, 16))),
    "sum": (on_parts(lambda x: jax.lax.psum(x, "fsdp"), P()), array((8, 16), "fsdp")),
    "scatter": (on_parts(lambda x: jax.lax.psum_scatter(x, "fsdp", scatter_dimension=1, tiled=True), P("fsdp")),
                array((8, 16), "fsdp")),
    "exchange": (on_parts(lambda x: jax.lax.all_to_all(x, "fsdp", 1, 0, tiled=True), P("fsdp")),
                 array((8, 16), "fsdp")),
    "shift": (on_parts(lambda x: jax.lax.ppermute(x, "fsdp", [(i, (i + 1) % 4) for i in range(4)]), P("fsdp")),
              array((8, 16), "fsdp")),
}
found = {}
for name, (function, *arguments) in programs.items():
    text = jax.jit(function).lower(*arguments).compile().as_text()
    found[name] = [(c.kind, c.group, c.sent, c.times, c.loops, c.exact) for c in find_collectives(text)]
json.dump(found, sys.stdout)
"""


@pytest.fixture(scope="module")
def exchanges():
    flags = "--xla_force_host_platform_device_count=8"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags, "NPROC": "16"}
    done = subprocess.run(
        [sys.executable, "-c", ON_EIGHT_DEVICES], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_exchanges_in_loops_count_as_often_as_they_run(exchanges):
    """Of a layer's 16 x 16 floats every device lacks three quarters; the loop of 5 is in a loop of 3."""
    assert exchanges["layers"] == [["all-gather", 4, 16 * 16 * 4 * 3 // 4, 15, 2, True]]


@pytest.mark.parametrize(
    ("name", "kind", "sent"),
    [
        ("sum", "all-reduce", 2 * 2 * 16 * 4 * 3 // 4),
        ("scatter", "reduce-scatter", 2 * 16 * 4 * 3 // 4),
        ("exchange", "all-to-all", 2 * 16 * 4 * 3 // 4),
        ("shift", "collective-permute", 2 * 16 * 4),
    ],
)
def test_a_device_sends_as_much_as_rings_take(exchanges, name, kind, sent):
    if kind == "collective-permute":  # only the pairs are written, of all 8 devices
        assert [one[:1] + one[2:4] for one in exchanges[name]] == [[kind, sent, 1]]
    else:
        assert [one[:4] for one in exchanges[name]] == [[kind, 4, sent, 1]]


# As the compilers for TPUs and GPUs write it: exchanges that are started and ended apart, an all-reduce of which a
# kernel keeps a slice, and a loop whose counter is compared, unrolled by two.
WRITTEN = """
HloModule jit_step, num_partitions=8

%add (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[]{:T(256)} parameter(0)
  %y = bf16[]{:T(256)} parameter(1)
  ROOT %sum = bf16[]{:T(256)} add(%x, %y)
}

%all-reduce-scatter.1 (input: bf16[64,8]) -> bf16[8,8] {
  %input = bf16[64,8]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %all-reduce.4 = bf16[64,8]{1,0:T(8,128)(2,1)} all-reduce(%input), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %zero = u32[] constant(0)
  ROOT %slice = bf16[8,8]{1,0} dynamic-slice(%all-reduce.4, %zero, %zero), dynamic_slice_sizes={8,8}
}

%body (state: (s32[]{:T(128)}, bf16[64,8])) -> (s32[], bf16[64,8]) {
  %state = (s32[]{:T(128)}, bf16[64,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %one = s32[]{:T(128)} constant(1)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = bf16[64,8]{1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %j = s32[]{:T(128)S(6)} add(%i, %one)
  %next = s32[]{:T(128)} add(%j, %one), backend_config={"flag_configs":[]}
  %start = (bf16[64,8]{1,0}, bf16[64,8]{1,0}, u32[]{:S(2)}, u32[]{:S(2)}) collective-permute-start(%x)
  %done = bf16[64,8]{1,0} collective-permute-done(%start)
  %part = bf16[8,8]{1,0} fusion(%done), kind=kCustom, calls=%all-reduce-scatter.1, metadata={op_name="jit(step)/sum"}
  %gather = (bf16[8,8]{1,0}, bf16[64,8]{1,0}) all-gather-start(%part), replica_groups=[1,8]<=[8], dimensions={0}
  %whole = bf16[64,8]{1,0} all-gather-done(%gather)
  ROOT %out = (s32[]{:T(128)}, bf16[64,8]{1,0}) tuple(%next, %whole)
}

%condition (state: (s32[], bf16[64,8])) -> pred[] {
  %end = s32[]{:T(128)} constant(6)
  %state.1 = (s32[]{:T(128)}, bf16[64,8]{1,0}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i.1, %end), direction=LT
}

ENTRY %main (x: bf16[64,8]) -> (s32[], bf16[64,8]) {
  %x.1 = bf16[64,8]{1,0:T(8,128)(2,1)} parameter(0)
  %none = s32[]{:T(128)} constant(0)
  %first = s32[]{:T(128)} copy(%none)
  %tuple = (s32[]{:T(128)}, bf16[64,8]{1,0}) tuple(%first, %x.1)
  ROOT %while = (s32[]{:T(128)}, bf16[64,8]{1,0}) while(%tuple), condition=%condition, body=%body
}
"""


def test_what_the_compilers_for_accelerators_write():
    found = find_collectives(WRITTEN)
    assert by_kind(found) == {
        "collective-permute": (3, 3 * 1024),
        "reduce-scatter": (3, 3 * 896),
        "all-gather": (3, 3 * 896),
    }
    assert largest(found, 1)[0].shape == "bf16[64,8]"
    assert [one.source for one in found if one.kind == "reduce-scatter"] == ["jit(step)/sum"]
    unknown = find_collectives(WRITTEN.replace("%end = s32[]{:T(128)} constant(6)", "%end = s32[] parameter(1)"))
    assert [(one.times, one.exact) for one in unknown] == [(1, False)] * 3


@pytest.mark.parametrize(
    ("name", "shape", "full"),
    [
        ("v5e:4x4", (4, 4), "v5e:4x4"),
        ("v5e:64", (8, 8), "v5e:8x8"),
        ("v6e:256", (16, 16), "v6e:16x16"),
        ("v5p:256", (4, 8, 8), "v5p:4x8x8"),
        ("v5p:8", (2, 2, 2), "v5p:2x2x2"),
        ("h100:4", (1, 4), "h100:4"),
        ("h100:24", (3, 8), "h100:24"),
    ],
)
def test_names_of_topologies(name, shape, full):
    got = topology.parse(name)
    assert (got.shape, got.name) == (shape, full)


@pytest.mark.parametrize(
    ("name", "says"),
    [("v9:4", "v5e:4x4"), ("v5e:3x3", "8x8, 8x16"), ("v5p", "2x2x2"), ("h100:12", "multiple"), ("", "h100:8")],
)
def test_unknown_topologies(name, says):
    with pytest.raises(UserError, match=says) as error:
        topology.parse(name)
    assert "\n" not in str(error.value) and repr(name) in str(error.value)


def test_a_slow_network_between_nodes():
    assert topology.parse("h100:16").links < topology.parse("h100:8").links == topology.parse("h100:8").chip.links


def test_chips_by_the_name_that_jax_gives():
    assert topology.find_chip("TPU v5 lite") is topology.parse("v5e:4").chip
    assert topology.find_chip("cpu") is None


@pytest.mark.parametrize(
    ("name", "module", "extra"), [("v5e:4", "libtpu", "tpu"), ("h100:8", "jax_cuda12_plugin", "cuda")]
)
def test_a_compiler_that_is_missing(monkeypatch, name, module, extra):
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda wanted: wanted != module or None)
    with pytest.raises(UserError, match=rf"pip install gen3r-jax\[{extra}\]"):
        topology.parse(name).devices()


def test_the_longest_of_three_times_counts():
    eight = topology.parse("v5e:8")
    cost = ProgramCost("p", 1, int(819e9), 0, 0, 0, 0, int(0.4 * 8 * 197e12 * 3), 0, (), 0, 0)
    assert cost.times(eight) == pytest.approx({"compute": 3, "links": 0, "memory": 1})
    assert cost.seconds(eight) == pytest.approx(3)


def test_what_other_programs_keep():
    """The frozen weights of an encoder; weights that the update reads once stay twice while gradients are summed."""

    def array(size):
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return jax.ShapeDtypeStruct((size,), jnp.float32, sharding=sharding)

    params, frozen, moments = array(10), array(100), array(1000)
    programs = [SimpleNamespace(arguments=a) for a in ((frozen,), (params, params), ({"m": moments}, params))]
    assert kept_by_others(programs) == [4 * 1020, 4 * 1100, 4 * 110]


# Compiled in a process of its own: JAX must not have looked for accelerators before.
COMPILE = """
import sys, jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from gen3r_jax.planning.report import compile_all, describe
from gen3r_jax.sharding import MeshOptions, make_mesh
from gen3r_jax.costs.topology import parse
from gen3r_jax.training.program import Program
from gen3r_jax.training.step import Phase

slice = parse(sys.argv[1])
mesh = make_mesh(MeshOptions(), devices=slice.devices())
w = jax.ShapeDtypeStruct((6, 1024, 1024), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp")))
x = jax.ShapeDtypeStruct((64, 1024), jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp")))

def layers(w, x):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w.astype(jnp.bfloat16)), None), x, w)[0]

def refused(x):
    return jax.lax.fori_loop(0, x[0, 0].astype(int), lambda i, y: jnp.sin(y).T, jnp.zeros((2**22, 2**22)) + x[0, 0])

programs = [Program("layers", jax.jit(layers), (w, x), 2)]
if slice.chip.name != "h100":  # its compiler plans more memory than there is
    programs.append(Program("huge", jax.jit(refused), (x,), 1))
costs = compile_all(programs, [], mesh, slice)
print("\\n".join(describe([cost for cost in costs if cost], Phase(0, 0, 5, 100, 1), slice, None not in costs)))
"""


@pytest.mark.parametrize("name", ["v5e:2x4", "h100:8"])
def test_compiles_for_chips_that_are_not_here(name):
    module = "jax_cuda12_plugin" if name.startswith("h100") else "libtpu"
    if module in MISSING:
        pytest.skip(f"{module} is not installed")
    done = subprocess.run([sys.executable, "-c", COMPILE, name], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "12 all-gather" in done.stdout and "6 x 1.8 MB all-gather over 8 of bf16" in done.stdout
    if name == "v5e:2x4":
        assert "huge does not compile" in done.stderr and "a step, estimated:" not in done.stdout
