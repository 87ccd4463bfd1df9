"""What a folder holds: a scene, weights, a training run: ``gen3r info DIR``"""

import argparse
import math
from pathlib import Path

import numpy as np

from gen3r_jax.carried import find_folder
from gen3r_jax.errors import UserError, main_guard
from gen3r_jax.geometry.camera_files.official import read_cameras
from gen3r_jax.storage.files import read_json, read_text


def describe(folder: Path) -> list[str]:
    """Lines of text about a folder made by this project. Raises UserError for any other."""
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    from gen3r_jax.generation.settings import read_shift
    from gen3r_jax.storage.checkpoint import holds_weights
    from gen3r_jax.storage.hub import read_licence

    folder = find_folder(folder) or folder
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder")
    if holds_weights(folder):
        return [_weights(folder)]
    if networks := sorted(path for path in folder.iterdir() if holds_weights(path)):
        lines = [_weights(network) for network in networks]
        if (folder / "scheduler.json").exists():
            lines.append(f"noise schedule: shift {read_shift(folder)}")
        if licence := read_licence(folder):
            lines.append(f"licence: {licence}")
        return [f"weights of {len(networks)} networks", *lines]
    if (folder / "metrics.jsonl").exists():
        return _run(folder)
    if (folder / "cameras.json").exists():
        return _scene(folder)
    raise UserError(f"{folder} holds neither weights (params/) nor a scene (cameras.json) nor a training run")


def _weights(folder: Path) -> str:
    from gen3r_jax.storage.checkpoint import read_description, stored_leaves

    network, _ = read_description(folder)
    leaves = stored_leaves(folder).values()
    count = sum(math.prod(leaf.shape) for leaf in leaves)
    size = sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in leaves)
    dtypes = ", ".join(sorted({str(np.dtype(leaf.dtype)) for leaf in leaves}))
    return f"{folder.name}: {network}, {count:,} parameters, {_bytes(size)} ({dtypes})"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count > 1e8 else f"{count / 1e6:.2f} MB"


def _run(folder: Path) -> list[str]:
    from gen3r_jax.training.metrics import read_metrics

    losses = [line for line in read_metrics(folder / "metrics.jsonl") if "loss" in line]
    lines = [f"training run of stage {read_json(folder / 'config.json', nan=True).get('stage', '?')}"]
    if losses:
        lines.append(f"step {losses[-1]['step']}, loss {losses[-1]['loss']:.4g} (first {losses[0]['loss']:.4g})")
    checkpoints = sorted(int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit())
    lines.append(f"checkpoints after steps {', '.join(map(str, checkpoints))}" if checkpoints else "no checkpoint yet")
    return lines


def _scene(folder: Path) -> list[str]:
    cameras = read_cameras(folder / "cameras.json")
    size = cameras.image_size
    lines = [f"scene of {len(cameras.w2c)} frames" + (f" of {size[1]:g} x {size[0]:g} pixels" if size else "")]
    if (folder / "prompts.txt").exists():
        lines.append(f"prompt: {read_text(folder / 'prompts.txt').strip()}")
    if (folder / "run.json").exists():
        from gen3r_jax.export.run_report import read_report

        run = read_report(folder / "run.json")
        try:
            seconds = sum(stage["seconds"] for stage in run["stages"])
            lines.append(f"made in {seconds:.1f} s on {run['device']}")
        except (KeyError, TypeError):
            raise UserError(f"{folder / 'run.json'} is damaged: it tells no stages and device") from None
    else:
        lines.append("without run.json: it was not written to the end")
    return [*lines, f"files: {', '.join(sorted(path.name for path in folder.iterdir() if path.name[0] != '.'))}"]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gen3r info", description="Says what a folder made by gen3r holds.")
    parser.add_argument("folder", type=Path, metavar="DIR", help="a scene, weights, or the workdir of a training run")
    print("\n".join(describe(parser.parse_args(arguments).folder)))
    return 0


if __name__ == "__main__":
    main_guard(main)
