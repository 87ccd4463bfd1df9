"""Replays recorded tensors and compares: ``gen3r replay PATH...``

Each file is computed again from its own inputs, weights and config, in float32 on the default device, and every
recorded output is compared. Exit status 1 if anything differs by more than its tolerance, if a file cannot be read or
if its kind is unknown. ``docs/parity.md`` describes the files.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from gen3r_jax.errors import main_guard


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gen3r replay", description="Computes recorded tensors again and compares.")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="a recorded file, or a folder of them")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    options = parser.parse_args(arguments)
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    import jax

    from conversion.comparison import as_text, files_in, for_json, summary, verify

    reports = []
    for path in files_in(options.paths):
        reports.append(verify(path))
        if not options.json:
            print("\n".join(as_text(reports[-1])), flush=True)
    passed = all(report.status != "fail" for report in reports)
    if options.json:
        software = {"jax": jax.__version__, "device": str(jax.devices()[0])}
        document = {**software, "passed": passed, "files": [asdict(report) for report in reports]}
        print(json.dumps(for_json(document), indent=1))
    else:
        print(summary(reports))
    return 0 if passed else 1


if __name__ == "__main__":
    main_guard(main)
