"""Checks prepared scenes: ``gen3r check ROOT``."""

import argparse
from pathlib import Path

from gen3r_jax.errors import UserError, main_guard


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="gen3r check",
        description="Looks for what is wrong with scenes before they are trained on: files, cameras, lists, scenes "
        "that are both in train and in test, and, where there is depth, poses that are inverted or have other axes. "
        "Writes a report with pictures and camera paths. Exit status 1 if there are errors.",
    )
    parser.add_argument(
        "root", type=Path, help="what gen3r prepare wrote, any root in Gen3R's layout, or one of its sets"
    )
    parser.add_argument(
        "--sample",
        type=int,
        default=20,
        help="scenes of each set to decode and to test with depth (0: all; default: 20)",
    )
    parser.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    parser.add_argument("--report", type=Path, help="HTML file to write (default: ROOT/check.html)")
    arguments = parser.parse_args()
    for key, least in (("sample", 0), ("workers", 1)):
        if getattr(arguments, key) < least:
            raise UserError(f"--{key} must be at least {least}, not {getattr(arguments, key)}")
    from gen3r_jax.data.check.report import require_report, summary, total, write_report
    from gen3r_jax.data.check.sets import check_sets, find_sets
    from gen3r_jax.storage.files import real_path
    from gen3r_jax.storage.locks import lock_beside, locked

    report = arguments.report or arguments.root / "check.html"
    require_report(report)
    sets = find_sets(arguments.root)
    with locked(lock_beside(report), str(report)):
        results = check_sets(arguments.root, sets, sample=arguments.sample, workers=arguments.workers)
        write_report(report, real_path(arguments.root), results)
    print(summary(results))
    print(f"{total(results)}; report: {report}")
    return int(any(result.count("error") for result in results))


if __name__ == "__main__":
    main_guard(main)
