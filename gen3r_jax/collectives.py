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
from dataclasses import dataclass, field, replace

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^ +(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][a-z0-9-]*)\((.*)$")
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


@dataclass
class _Computation:
    """Lines of the compiler's text that matter here: (collective), (called computation, its line), constants."""

    collectives: list[Collective] = field(default_factory=list)
    calls: list[tuple[str, str]] = field(default_factory=list)  # (opcode, rest of the line)
    bounds: list[int] = field(default_factory=list)
    compares: bool = False


def find_collectives(text: str) -> list[Collective]:
    """The collectives of a program, ``compiled.as_text()``."""
    partitions, replicas = (
        re.search(rf"\b{name}=(\d+)", text[:10_000]) for name in ("num_partitions", "replica_count")
    )
    devices = math.prod(int(match[1]) for match in (partitions, replicas) if match)
    computations, entry = _read(text, devices)
    found: list[Collective] = []

    def walk(name: str, times: int, loops: int, exact: bool, source: str) -> None:
        for collective in computations[name].collectives:
            source_here = collective.source or source
            found.append(replace(collective, times=times, loops=loops, exact=exact, source=source_here))
        for opcode, line in computations[name].calls:
            called = dict(_called(line))
            source_here = (_METADATA.search(line) or ("", source))[1]
            if opcode == "while":
                trips = _trips(line, called["condition"][0], computations)
                walk(called["body"][0], times * (trips or 1), loops + 1, exact and trips is not None, source_here)
            else:
                for inner in (one for names in called.values() for one in names):
                    walk(inner, times, loops, exact, source_here)

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


def _read(text: str, devices: int) -> tuple[dict[str, _Computation], str]:
    computations: dict[str, _Computation] = {}
    name = entry = ""
    for line in text.splitlines():
        if header := _COMPUTATION.match(line):
            name = header[2]
            computations[name] = _Computation()
            entry = name if header[1] else entry
        elif instruction := _INSTRUCTION.match(line):
            result, opcode, rest = instruction.groups()
            here = computations[name]
            if opcode == "constant" and re.fullmatch(r"[su]\d+\[\]", result.split("{")[0]):
                here.bounds.append(int(rest.split(")")[0]))
            here.compares |= opcode == "compare" and "direction=LT" in rest
            if opcode.removesuffix("-start") in KINDS:
                # The compiler for TPUs writes some reduce-scatters as an all-reduce that is sliced in the same kernel.
                fused = opcode == "all-reduce" and name.startswith("all-reduce-scatter")
                here.collectives.append(_collective("fused-reduce-scatter" if fused else opcode, result, rest, devices))
            elif not opcode.endswith(("-done", "-update")) and _CALLS.search(rest):
                here.calls.append((opcode, rest))
    return computations, entry


def _called(line: str) -> list[tuple[str, list[str]]]:
    return [(role, re.findall(r"%([\w.-]+)", names)) for role, names in _CALLS.findall(line)]


def _trips(line: str, condition: str, computations: dict[str, _Computation]) -> int | None:
    """How often a loop runs; None where neither a number is given nor its counter is compared with a constant."""
    if known := _TRIPS.search(line):
        return int(known[1])
    parts = [computations[condition]]
    for part in parts:
        parts += [computations[name] for _, inner in part.calls for _, names in _called(inner) for name in names]
    bounds = {bound for part in parts for bound in part.bounds}
    return bounds.pop() if len(bounds) == 1 and any(part.compares for part in parts) else None


def _collective(opcode: str, result: str, rest: str, devices: int) -> Collective:
    arrays = _ARRAY.findall(result)
    total = sum(_bytes(*array) for array in arrays)
    n = _group(rest, devices)
    kind, started = opcode.removesuffix("-start"), opcode.endswith("-start")
    if kind == "collective-permute":  # started, its result is (operand, result, context...)
        sent = total // 2 if started else total
    elif kind == "all-reduce":
        sent = 2 * total * (n - 1) // n
    elif started:  # its result is (operands, results), of which one is n times the other
        sent = total * (n - 1) // (n + 1) if kind != "all-to-all" else total // 2 * (n - 1) // n
    else:
        sent = total * (n - 1) if kind == "reduce-scatter" else total * (n - 1) // n
    kind = kind.removeprefix("fused-")
    shape = " ".join(f"{dtype}[{sizes}]" for dtype, sizes in arrays[:3]) + " ..." * (len(arrays) > 3)
    source = (_METADATA.search(rest) or ("", ""))[1]
    return Collective(kind, shape, n, sent, 1, 0, True, source)


def _bytes(dtype: str, sizes: str) -> int:
    bits = int((re.search(r"\d+", dtype) or "8")[0])
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
