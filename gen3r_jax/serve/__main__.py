"""Scenes in a browser and by HTTP: ``gen3r serve --weights DIR --output STORE``"""

import argparse
import os
from importlib.util import find_spec
from pathlib import Path

from gen3r_jax.command_line import add_compile_cache
from gen3r_jax.errors import UserError, main_guard

TOKEN = "GEN3R_TOKEN"


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if missing := [name for name in ("fastapi", "uvicorn", "python_multipart") if find_spec(name) is None]:
        raise UserError(f"the server needs {', '.join(missing)}: pip install 'gen3r-jax[serve]'")
    from conversion.pipeline_folder import find_weights
    from gen3r_jax.serve.options import Keep, ServeOptions
    from gen3r_jax.serve.supervisor import serve
    from gen3r_jax.storage.files import read_text

    token = read_text(options.token_file).strip() if options.token_file else options.token or os.environ.pop(TOKEN, "")
    told = ServeOptions(
        weights=str(find_weights(options.weights)),
        store=str(options.output.absolute()),
        host=options.host,
        port=options.port,
        token=token,
        names=tuple(options.name),
        dtype=options.dtype,
        memory_mode=options.memory_mode,
        compile_cache=options.compile_cache,
        keep=Keep.parse(options.keep),
    )
    return serve(told, options.devices)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gen3r serve",
        description="Serves a page on which scenes are made and looked at, and the same by HTTP. Prints its address.",
        epilog="docs/serving.md describes the page, the interface, proxies and several devices. Ctrl+C ends the "
        "server; jobs that wait are kept.",
    )
    add = parser.add_argument
    add("--weights", type=Path, default=Path("checkpoints"), metavar="DIR", help="weights as `gen3r generate` takes "
        "them (default: checkpoints)")  # fmt: skip
    add("--output", type=Path, default=Path("scenes"), metavar="STORE", help="folder of the queue and the scenes, new "
        "or of an earlier server; not on a network file system (default: scenes)")  # fmt: skip
    add("--host", default="127.0.0.1", help="address to listen at; others than this machine's own need a token "
        "(default: 127.0.0.1)")  # fmt: skip
    add("--port", type=int, default=8000, help="0 takes a free one (default: 8000)")
    add("--token", metavar="TEXT", help="what clients must send; others on this machine can see it in the list of "
        f"processes, unlike the variable {TOKEN} and --token_file")  # fmt: skip
    add("--token_file", type=Path, metavar="FILE", help="the same, from a file")
    add("--name", action="append", default=[], metavar="HOST", help="a name that the server may be called by, such as "
        "that of a proxy; may be given several times")  # fmt: skip
    add("--keep", nargs="+", default=[], metavar="BOUND", help="how much is kept: 100 scenes, 30d, 20GB; the oldest "
        "are removed (default: all)")  # fmt: skip
    add("--devices", nargs="+", default=[], metavar="N", help="numbers of GPUs or TPU chips; one worker each (default: "
        "one worker with all)")  # fmt: skip
    add("--dtype", choices=("float32", "bfloat16"), help="dtype of the weights (default: bfloat16, on CPUs float32)")
    add("--memory_mode", choices=("resident", "staged"), default="resident",
        help="staged: load each network, use it, free it")  # fmt: skip
    add_compile_cache(parser)
    return parser


if __name__ == "__main__":
    main_guard(main)
