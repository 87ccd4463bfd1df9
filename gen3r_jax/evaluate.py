"""Judges weights by the paper's protocol.

    gen3r evaluate --config configs/eval.py[:nano] --weights DIR --data ROOT|procedural --output DIR

Every scene is generated from one view, from two and from all, with its cameras and without, and compared with the
truth: frames (PSNR, SSIM, LPIPS), points (accuracy, completeness, Chamfer distance), depth and cameras. Rows of the
autoencoders alone, of VGGT alone and of baselines that know nothing say what the numbers mean. What the data cannot
tell is n/a, with the reason.

DIR gets scenes/*.json, one a scene, and from them report.md, report.csv, report.json and sheet.jpg. The same command
goes on where it was stopped. To share the work among machines, give each its --part (0/4, 1/4, ...) and the same DIR.
"""

import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import app, flags, logging

from gen3r_jax import command_line
from gen3r_jax.command_line import COMPILE_CACHE, CONFIG, parse_flags, read_part, shared_work_flags
from gen3r_jax.errors import MOST_BAD, UserError, bad_share_status, main_guard, read_share

OUTPUT, PART = shared_work_flags()
flags.adopt_module_key_flags(command_line)
WEIGHTS = flags.DEFINE_string("weights", None, "Folder of weights, or a name as `gen3r generate` takes it.")
LEFT_OUT = flags.DEFINE_string("most_bad", str(MOST_BAD), "Exit status 1 if a larger share of the scenes is bad.")
DATA = flags.DEFINE_string("data", None, "A prepared root or set, shards, or `procedural`.")


def main(arguments: Sequence[str]) -> None:
    if len(arguments) > 1:
        raise UserError(f"unexpected argument {arguments[1]!r}; try --help")
    needed = {"config": CONFIG, "weights": WEIGHTS, "data": DATA, "output": OUTPUT}
    if missing := [name for name, flag in needed.items() if not flag.value]:
        raise UserError(f"--{missing[0]} is needed; try --help")
    # What takes seconds to import waits until the flags are read.
    from conversion.pipeline_folder import find_weights
    from gen3r_jax.evaluation.appearance import load_lpips
    from gen3r_jax.evaluation.options import read_evaluation
    from gen3r_jax.evaluation.report import write_report
    from gen3r_jax.evaluation.run import claim, count_skipped, evaluate, fingerprint, load_rgb_head, open_data
    from gen3r_jax.generation.pipeline import Gen3RPipeline
    from gen3r_jax.generation.settings import read_settings
    from gen3r_jax.generation.weights import default_dtype
    from gen3r_jax.progress import COMPILER
    from gen3r_jax.storage.compile_cache import use_compile_cache
    from gen3r_jax.storage.remote import is_remote

    weights, data, output = (str(flag.value) for flag in (WEIGHTS, DATA, OUTPUT))
    for name, place in {"weights": weights, "output": output}.items():
        if is_remote(place):
            raise UserError(f"--{name} {place}: a folder on a disk is needed; mount the bucket or copy it")
    logging.set_verbosity(logging.WARNING)
    use_compile_cache(COMPILE_CACHE.value)
    folder = find_weights(weights)
    options = read_evaluation(CONFIG.value.to_dict(), read_settings(folder))
    part, most_bad = read_part(PART.value), read_share(LEFT_OUT.value)
    source, split = open_data(data, options.data)
    pipeline = Gen3RPipeline.from_pretrained(folder, dtype=options.output.dtype or None)
    lpips = load_lpips(options.metrics.lpips) if options.metrics.lpips else None
    place = {
        "weights": weights,
        "weights_are": fingerprint(folder),
        "weights_dtype": default_dtype(options.output.dtype).name,
        "lpips_backbone": lpips.backbone if lpips else "",
        "data_source": data,
        "split": split,
        "scenes": len(source),
    }
    with claim(Path(output), dataclasses.asdict(options) | place, part):
        evaluate(pipeline, source, options, Path(output), part, lpips, load_rgb_head(folder))
    if part[0] >= min(len(source), options.data.num_scenes) and not any((Path(output) / "scenes").glob("*.json")):
        print(f"part {PART.value}: there are fewer scenes than parts, and none for this one")
        return
    print(write_report(Path(output)), flush=True)
    status = bad_share_status(*count_skipped(Path(output)), most_bad, "scenes")
    print(COMPILER.programs(), file=sys.stderr)
    print(f"open {output}/report.md", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main_guard(
        lambda: app.run(main, flags_parser=functools.partial(parse_flags, options_in="gen3r_jax.evaluation.options"))
    )
