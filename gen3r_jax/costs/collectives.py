"""What a compiled program sends between devices, read from the compiler's text.

Bytes are what one of n devices sends, with rings, where r is the size of the result on one device:

    all-gather, all-to-all   r (n - 1) / n
    reduce-scatter           r (n - 1)
    all-reduce               2 r (n - 1) / n
    collective-permute       r

A loop counts as often as it runs, as the compiler says or as its condition compares. Both branches of a condition
count.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(ROOT )?%?([\w.-]+) = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
_CALLS = re.compile(r"\b(calls|to_apply|body|condition|\w+_computations?)=\{?((?:%[\w.-]+(?:, )?)+)")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_METADATA = re.compile(r'op_name="([^"]*)"')
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


@dataclass(frozen=True)
class Collective:
    """One instruction that exchanges data.

    Attributes:
      shape: of its result on one device, such as ``bf16[1024,1024]``.
      group: the number of devices that exchange with each other.
      sent: bytes that a device sends each time.
      times: how often it runs.
      loops: how many loops it is in.
      exact: False when the number of runs of one of these is not known; that one then counts once.
      source: the operation that it came from, as JAX names it.
    """

    kind: str
    shape: str
    group: int
    sent: int
    times: int
    loops: int
    exact: bool
    source: str

    @property
    def total(self) -> int:
        """Bytes in all runs."""
        return self.sent * self.times


@dataclass(frozen=True)
class _Instruction:
    """``name = result opcode(rest``."""

    opcode: str
    result: str
    rest: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.-]+)", self.rest.split(")")[0])

    @property
    def called(self) -> dict[str, list[str]]:
        """Computations that it runs, by their role."""
        return {role: re.findall(r"%([\w.-]+)", names) for role, names in _CALLS.findall(self.rest)}

    @property
    def source(self) -> str:
        found = _METADATA.search(self.rest)
        return found[1] if found else ""


@dataclass
class _Computation:
    root: str
    instructions: dict[str, _Instruction]

    def constant(self, name: str) -> int | None:
        one = self.instructions[name]
        if one.opcode in ("copy", "convert", "bitcast"):
            return self.constant(one.operands[0])
        return int(one.rest.split(")")[0]) if one.opcode == "constant" and "[]" in one.result else None


def find_collectives(text: str) -> list[Collective]:
    """The collectives of a program, ``compiled.as_text()``."""
    sizes = (re.search(rf"\b{name}=(\d+)", text[:10_000]) for name in ("num_partitions", "replica_count"))
    devices = math.prod(int(size[1]) for size in sizes if size)
    computations, entry = _read(text)
    found: list[Collective] = []

    def walk(name: str, times: int, loops: int, exact: bool, source: str) -> None:
        for one in computations[name].instructions.values():
            origin = one.source or source
            if one.opcode.removesuffix("-start") in KINDS:
                kind, shape, group, sent = _exchange(one, name, devices)
                found.append(Collective(kind, shape, group, sent, times, loops, exact, origin))
            elif one.opcode == "while":
                trips = _trips(one, computations[name], computations)
                walk(one.called["body"][0], times * (trips or 1), loops + 1, exact and trips is not None, origin)
            elif not one.opcode.endswith(("-done", "-update")):
                for inner in (inner for names in one.called.values() for inner in names):
                    walk(inner, times, loops, exact, origin)

    walk(entry, 1, 0, True, "")
    return found


def by_kind(collectives: Iterable[Collective]) -> dict[str, tuple[int, int]]:
    """kind -> (how often it runs, bytes that a device sends in all)."""
    sums: dict[str, tuple[int, int]] = {}
    for one in collectives:
        times, sent = sums.get(one.kind, (0, 0))
        sums[one.kind] = times + one.times, sent + one.total
    return sums


def largest(collectives: Iterable[Collective], count: int) -> list[Collective]:
    """Those that send the most in all their runs."""
    return sorted(collectives, key=lambda one: one.total, reverse=True)[:count]


def _read(text: str) -> tuple[dict[str, _Computation], str]:
    """All computations by name, and the name of the one that is entered."""
    computations: dict[str, _Computation] = {}
    here, entry = _Computation("", {}), ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            here = computations[header[2]] = _Computation("", {})
            entry = header[2] if header[1] else entry
        elif found := _INSTRUCTION.match(line):
            root, name, result, opcode, rest = found.groups()
            here.instructions[name] = _Instruction(opcode, result, rest)
            here.root = name if root else here.root
    return computations, entry


def _trips(loop: _Instruction, caller: _Computation, computations: dict[str, _Computation]) -> int | None:
    """How often a loop runs; None where it is not written and its counter does not run between constants."""
    if known := _TRIPS.search(loop.rest):
        return int(known[1])
    condition, body = (computations[loop.called[role][0]] for role in ("condition", "body"))
    compare = condition.instructions[condition.root]
    if compare.opcode != "compare" or "direction=LT" not in compare.rest:
        return None
    counter = condition.instructions[compare.operands[0]]
    index = re.search(r"index=(\d+)", counter.rest) if counter.opcode == "get-tuple-element" else None
    end = condition.constant(compare.operands[1])
    if index is None or end is None:
        return None
    # Compilers unroll loops: the counter may then step by two, and start late.
    step, name = 0, body.instructions[body.root].operands[int(index[1])]
    while (one := body.instructions[name]).opcode in ("add", "copy"):
        numbers = [body.constant(operand) for operand in one.operands]
        step += next((number for number in numbers if number is not None), 0)
        name = one.operands[1 if numbers[0] is not None else 0]
    initial = caller.instructions[loop.operands[0]]
    start = caller.constant(initial.operands[int(index[1])]) if initial.opcode == "tuple" else 0
    return math.ceil((end - (start or 0)) / step) if step else None


def _exchange(one: _Instruction, computation: str, devices: int) -> tuple[str, str, int, int]:
    """Kind, shape of the result, number of devices, and bytes that each sends."""
    kind, started = one.opcode.removesuffix("-start"), one.opcode.endswith("-start")
    arrays = [f"{dtype}[{sizes}]" for dtype, sizes in _ARRAY.findall(one.result)]
    n = _group(one.rest, devices)
    if started and kind != "all-reduce":  # the result is (operands, results), and for some a context of scalars
        arrays = [array for array in arrays if not array.endswith("[]")]
        arrays = arrays[len(arrays) // 2 :]
    size = sum(map(_bytes, arrays))
    # The compiler for TPUs writes some reduce-scatters as an all-reduce of which the same kernel keeps a slice.
    fused = kind == "all-reduce" and computation.startswith("all-reduce-scatter")
    if kind == "collective-permute":
        sent = size
    elif kind == "reduce-scatter":
        sent = size * (n - 1)
    else:
        sent = (2 if kind == "all-reduce" and not fused else 1) * size * (n - 1) // n
    shape = " ".join(arrays[:3]) + " ..." * (len(arrays) > 3)
    return "reduce-scatter" if fused else kind, shape, n, sent


def _bytes(array: str) -> int:
    dtype, sizes = array[:-1].split("[")
    bits = int((re.search(r"\d+", dtype) or "8")[0])  # pred has none
    return math.prod(int(size) for size in sizes.split(",") if size) * bits // 8


def _group(rest: str, devices: int) -> int:
    """How many devices exchange with each other, in one of the ways in which the compiler writes the groups."""
    if mesh := re.search(r"replica_groups=mesh\[(.*?)\] *\{(.*?)\}", rest):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    if listed := re.search(r"replica_groups=\[\d+,(\d+)\]", rest):
        return int(listed[1])
    if groups := re.search(r"replica_groups=\{\{([\d,]+)\}", rest):
        return groups[1].count(",") + 1
    return devices
