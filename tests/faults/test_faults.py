"""The short form of ``make faults``, of each kind a few; and of every fault that it found, the kind."""

from functools import partial

import numpy as np
import pytest

from tests.faults import flips, fuzz, kills, mutations, pairs
from tests.faults.doors import CAMERAS, DOORS, PICTURES, SEALED, TEXTS

QUICK = (*CAMERAS, *TEXTS, *PICTURES, "shards", "latents", "scene for training", "official safetensors")
"""Readers that start in no time."""


def _problems(run):
    return [(name, problems) for name, problems in run if problems]


def test_what_is_damaged_is_refused_in_one_line_or_read_as_it_stands(tmp_path):
    cases = fuzz.cases(tmp_path, seed=0, first=0, last=250, names=QUICK)
    assert not [case for case in cases if case.problem]


@pytest.mark.parametrize(
    "door, way",
    [
        ("png", "a flipped bit"),  # Pillow compares no checksum of pixels
        ("png with a palette", "bytes taken out"),
        ("png of 16 bits", "zeros"),
        ("depth", "a flipped bit"),
        ("latents", "a flipped bit"),  # the header with the texts
        ("official safetensors", "bytes that repeat"),  # what no header tells of
        ("scene folder", "a flipped bit"),  # zlib's errors
        ("tokenizer", "text for a value"),  # messages with the whole value
        ("config", "a huge number"),  # an integer that is no float
        ("config", "another odd value"),  # infinity in a tuple
        ("nerfstudio", "another odd value"),  # pictures without a name
        ("mkv", "32 flipped bits"),  # a stream of an unknown codec
        ("npz of VGGT", "an array of another shape"),
        ("matrices of NumPy", "an array of another type"),
        ("header of official safetensors", "another odd value"),  # a dictionary for a type
        ("LoRA of PEFT", "a flipped bit"),  # a number near the end of what float32 holds
        ("settings of a LoRA's header", "another odd value"),  # factors that are infinite, or none
        ("vkitti", "a link to itself"),
    ],
)
def test_the_kind_of_what_was_found(tmp_path, door, way):
    kinds = mutations.BYTES, mutations.TEXT, mutations.JSON, mutations.ARRAYS, mutations.MEANINGLESS
    ways = {name: change for kind in kinds for name, change in kind.items()}

    def change(path, rng):
        if way in mutations.FILES:
            mutations.FILES[way](path)
        else:
            path.write_bytes(ways[way](path.read_bytes(), rng))
        return way

    wanted = fuzz.write(DOORS[door], tmp_path / "valid")
    for number in range(3 if door == "vkitti" else 20):
        rng = np.random.default_rng(number)
        case = fuzz.try_case(door, tmp_path / "valid", wanted, tmp_path / "case", rng, change)
        assert not case.problem, case


def test_every_flipped_bit_of_data_is_found(tmp_path):
    """Those of weights and checkpoints: ``tests/storage``."""
    assert not _problems(flips.run(tmp_path, seed=0, count=60, names=("shards", "latents")))


def test_a_killed_command_goes_on(tmp_path):
    assert not _problems(kills.run(tmp_path, seed=0, count=1, names=("prepare",)))


def test_of_two_at_once_one_works(tmp_path):
    assert not _problems(pairs.run(tmp_path, seed=0, count=1, names=("pack",)))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_more_cases(tmp_path, seed):
    assert not [case for case in fuzz.cases(tmp_path, seed=seed, first=0, last=400, names=tuple(DOORS)) if case.problem]


@pytest.mark.slow
@pytest.mark.parametrize(
    "run",
    [
        partial(flips.run, count=100, names=SEALED),
        partial(kills.run, count=8, names=("train toy", "convert", "pack")),
        partial(pairs.run, count=4, names=("prepare", "convert")),
    ],
    ids=["flips", "kills", "pairs"],
)
def test_more_of_each(tmp_path, run):
    assert not _problems(run(tmp_path, seed=1))
