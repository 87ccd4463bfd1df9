"""What a log is told of a long work, by a clock that stands still unless it is moved."""

import pytest

from gen3r_jax import progress
from gen3r_jax.progress import Progress


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    monkeypatch.setattr(progress, "COMPILER", progress.Compiler())
    return clock


def test_a_log_gets_a_line_now_and_then(clock, capsys):
    told = []
    with Progress("training", 200, "step", done=100) as training:
        for step in range(101, 201):
            clock.now += 1.0
            training.advance(loss=f"{1 / step:.3f}")
            if err := capsys.readouterr().err:
                told.append((step, err))
    assert told[0][1] == (
        "training: 100 of 200 steps; the next line is due after one more step\n"
        "training: 101 of 200 steps, 1 s a step, loss 0.010; about 99 s left, the next line is due in 30 s\n"
    )
    assert [step for step, _ in told] == [101, 131, 161, 191, 200]
    assert told[-1][1] == "training: 200 of 200 steps, 1 s a step, loss 0.005\n"


def test_items_that_take_long_get_a_line_each_and_compilation_is_told_apart(clock, capsys):
    with Progress("evaluation", 3, "scene") as evaluation:
        clock.now += 100.0
        progress.COMPILER.on_duration("/jax/core/compile/backend_compile_duration", 60.0)
        evaluation.advance()
        clock.now += 40.0
        evaluation.advance()
    assert capsys.readouterr().err.splitlines()[1:] == [
        "evaluation: 1 of 3 scenes, 40 s a scene, 60.0 s of compiling beside that; about 80 s left, the next line is "
        "due in 40 s",
        "evaluation: 2 of 3 scenes, 40 s a scene; about 40 s left, the next line is due in 40 s",
    ]


def test_a_terminal_gets_a_bar_unless_others_print_there(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("jobs", 2, "scene") as bar:
        bar.advance()
    assert "jobs:" in (told := capsys.readouterr().err) and "\r" in told and "is due" not in told
    Progress("jobs", 2, "scene", bar=False)
    assert capsys.readouterr().err == "jobs: 0 of 2 scenes; the next line is due after one more scene\n"


@pytest.mark.parametrize("options", [{"quiet": True}, {"done": 2}])
def test_nothing_is_told_where_nothing_is_to_be_told(clock, capsys, options):
    with Progress("jobs", 2, "scene", **options):
        pass
    assert not capsys.readouterr().err


def test_work_within_a_line_is_told_only_when_it_is_long(clock, capsys):
    sampling = Progress("sampling", 4, "step", within="Sampling ...")
    for seconds in (1.0, 1.0, 40.0, 1.0):
        clock.now += seconds
        sampling.advance()
    sampling.close()
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["sampling: 3 of 4 steps"]
