"""A worker's maker that needs no networks: it writes a small folder, and does what a prompt tells it."""

import json
import os
import time

from gen3r_jax.errors import UserError
from gen3r_jax.export.folder import scene_folder


def start(options):
    return Stub()


class Stub:
    """Prompts: "wait SECONDS", "fail", "crash", "die"; anything else is made at once."""

    device = "stub"

    def __call__(self, job, inputs, output, tell):
        word, _, rest = job.request["fields"].get("prompt", "").partition(" ")
        with scene_folder(output) as folder:
            steps = round(float(rest) / 0.02) if word == "wait" else 2
            for step in range(steps):
                tell(step / steps, "Sampling", 0.02 * (steps - step))
                time.sleep(0.02)
            if word == "fail":
                raise UserError(f"{inputs}/images/photo.png is not to be had")
            if word == "crash":
                raise RuntimeError("a bug")
            if word == "die":
                os._exit(9)
            (folder / "prompts.txt").write_text(job.request["fields"].get("prompt", "") + "\n")
            (folder / "images").mkdir()
            (folder / "images" / "0000.png").write_bytes((inputs / job.request["files"]["images"][0]).read_bytes())
            (folder / "viewer.html").write_text("<!doctype html><title>viewer</title><script>1</script>")
            (folder / "preview.json" if job.kind == "preview" else folder / "run.json").write_text(
                json.dumps({"options": {}})
            )
