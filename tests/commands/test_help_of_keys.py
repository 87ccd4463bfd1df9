"""Every key of a config says in ``--help`` what it is."""

import dataclasses
import typing

import pytest

from gen3r_jax.evaluation.options import EvaluationOptions
from gen3r_jax.options import field_docs
from gen3r_jax.stages.config import STAGES, RunOptions

CLASSES = [*STAGES.values(), RunOptions, EvaluationOptions]


@pytest.mark.parametrize("options", CLASSES, ids=lambda kind: kind.__name__)
def test_every_key_is_described(options):
    hints = typing.get_type_hints(options)
    groups = {name: kind for name, kind in hints.items() if dataclasses.is_dataclass(kind)}
    assert groups
    lacking = {
        f"{group}.{field.name}"
        for group, kind in groups.items()
        for field in dataclasses.fields(kind)
        if not field_docs(kind).get(field.name)
    }
    assert not lacking
