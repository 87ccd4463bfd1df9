"""Faults on purpose: ``make faults``, or ``python -m tests.faults [KIND ...] [--seed N] [--count TIMES]``.

    fuzz   damaged and odd input for every reader: refused in one line, or read as what it says
    flips  a flipped bit in what the project wrote: found, or every value as before
    kills  SIGKILL at a random moment, and the same command again: the result of a run that nobody disturbed
    pairs  two commands at once on one output: one works, the other says who does

Seeds are printed; the same seed makes the same faults. The exit status is 1 where one was not survived.
"""

import argparse
import secrets
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.faults import flips, fuzz, kills, pairs

KINDS = {"fuzz": (fuzz, 2000), "flips": (flips, 500), "kills": (kills, 200), "pairs": (pairs, 100)}
"""How many of each are tried by default."""


def main() -> int:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__, formatter_class=raw)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help="some of fuzz, flips, kills and pairs (default: all)")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1 << 31), help="default: another each time")
    parser.add_argument("--count", type=float, default=1.0, help="times as many as the default, such as 0.1")
    parser.add_argument("--only", nargs="+", help="names of commands (kills, pairs) or of readers (fuzz, flips)")
    parser.add_argument("--scratch", type=Path, help="folder for what is tried; what failed stays there")
    options = parser.parse_args()
    if unknown := set(options.kinds) - KINDS.keys():
        parser.error(f"no kind {sorted(unknown)[0]!r}; there are {', '.join(KINDS)}")
    scratch = options.scratch or Path(tempfile.mkdtemp(prefix="gen3r-faults-"))
    failed = 0
    for kind in options.kinds or KINDS:
        module, default = KINDS[kind]
        count = max(1, round(options.count * default))
        print(f"{kind}: {count} with seed {options.seed}, in {scratch / kind}", flush=True)
        start, done, bad = time.monotonic(), 0, 0
        only = {"names": tuple(options.only)} if options.only else {}
        for done, (name, problems) in enumerate(module.run(scratch / kind, options.seed, count, **only), 1):
            if problems:
                bad += 1
                print(f"  {name}: {'; '.join(problems)}", flush=True)
            elif sys.stdout.isatty() or done % max(1, count // 20) == 0:
                print(f"  {done} of {count}", flush=True)
        print(f"{kind}: {bad} of {done} not survived, {time.monotonic() - start:.0f} s", flush=True)
        failed += bad
        if not bad:
            shutil.rmtree(scratch / kind, ignore_errors=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
