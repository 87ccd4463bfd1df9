"""Deprecated name of :mod:`gen3r_jax.encode`, for one release."""

import runpy
import sys

if __name__ == "__main__":
    print("python -m gen3r_jax.training.encode is now: gen3r encode", file=sys.stderr)
    runpy.run_module("gen3r_jax.encode", run_name="__main__", alter_sys=True)
