"""Reads or runs many printed commands, each in a child of one process that has imported what they need.

``python -m tests.helpers.run_printed read|run`` takes a JSON list of [language, text] and answers with a list of
[what was wrong, "" where nothing was; seconds of the processor]. "read" lets a command's own parser read its words, and
reads its config, but runs nothing.
"""

import argparse
import json
import os
import re
import runpy
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable

LONGEST = 200  # seconds for a command


def _read(text: str) -> None:
    """Lets a command read its words, and ends where it would begin to work."""
    from absl import app

    def parse_args(parser, arguments=None, namespace=None):
        real(parser, arguments, namespace)
        raise SystemExit(0)

    def run(main, flags_parser, **_):
        flags_parser(sys.argv)
        _read_config()
        raise SystemExit(0)

    real, argparse.ArgumentParser.parse_args = argparse.ArgumentParser.parse_args, parse_args
    app.run = run
    _start(shlex.split(text))
    raise SystemExit("the command did not read its words")


def _read_config() -> None:
    """Reads the config's keys as training and evaluation do, whatever data there are."""
    from gen3r_jax.command_line import CONFIG
    from gen3r_jax.evaluation.options import read_evaluation
    from gen3r_jax.generation.settings import GenerationSettings
    from gen3r_jax.stages.config import read_config

    if CONFIG.value is None:
        raise SystemExit("the following arguments are required: --config")
    values = CONFIG.value.to_dict()
    if "stage" in values:
        values["data"]["source"] = values["data"]["source"] or "procedural"
        read_config(values)
    else:
        read_evaluation(values, GenerationSettings())


def _run(language: str, text: str) -> None:
    if language == "python":
        exec(compile(text, "block", "exec"), {"__name__": "__main__"})
    elif re.match(r"gen3r |python -m ", text) and "\n" not in text:
        _start(shlex.split(text))
    else:
        os.execvp("bash", ["bash", "-e", "-c", text])


def _start(words: list[str]) -> None:
    if words[0] == "gen3r":
        module, sys.argv = "gen3r_jax", words
    else:
        module, sys.argv = words[2], words[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _wrong_with(action: Callable[[], None]) -> tuple[str, float]:
    """Does something in a child; what it said if its status is not 0, and its seconds of the processor."""
    with tempfile.TemporaryFile() as said:
        if not (child := os.fork()):
            for stream in (1, 2):
                os.dup2(said.fileno(), stream)
            signal.alarm(LONGEST)
            status = 1
            try:
                action()
                status = 0
            except SystemExit as end:
                status = int(end.code or 0) if isinstance(end.code, int | None) else 1
                print(end)
            except BaseException as error:
                print(repr(error))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        _, status, used = os.wait4(child, 0)
        said.seek(0)
        wrong = "" if status == 0 else f"{said.read().decode()[-1500:]} (status {os.waitstatus_to_exitcode(status)})"
    return wrong, round(used.ru_utime + used.ru_stime, 1)


def main() -> None:
    import gen3r_jax.evaluation.options
    import gen3r_jax.stages.config  # noqa: F401

    answers = []
    for language, text in json.load(sys.stdin):
        action = (lambda: _read(text)) if sys.argv[1] == "read" else (lambda: _run(language, text))  # noqa: B023
        answers.append(_wrong_with(action))
        if sys.argv[1] == "run":
            print(*answers[-1][::-1], text, file=sys.stderr, flush=True)
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
