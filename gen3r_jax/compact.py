"""Makes trained weights small enough to hand around: ``gen3r compact WEIGHTS OUTPUT``

OUTPUT gets one ``params.safetensors`` and one ``config.json`` a network, the tokenizer and the noise schedule; every
command takes it like the folder that it was made from. All numbers are rounded, those of VGGT's heads, too.
"""

import argparse
import shutil
from pathlib import Path

from gen3r_jax.command_line import add_folders, require_folders
from gen3r_jax.errors import UserError, main_guard


def compact(weights: Path, output: Path, dtype: str) -> list[str]:
    """Returns a line a network. Raises UserError where `weights` holds none, and where `output` is not free."""
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    import jax
    import jax.numpy as jnp

    from gen3r_jax.models.registry import NETWORKS
    from gen3r_jax.models.rgb_head import RGBHead
    from gen3r_jax.storage.checkpoint import holds_networks, holds_weights, load_network, read_config, save_compact
    from gen3r_jax.storage.files import real_path
    from gen3r_jax.storage.folders import claimed
    from gen3r_jax.storage.hashes import has_hashes, write_hashes
    from gen3r_jax.storage.hub import LICENCE

    if real_path(output) == real_path(weights):
        raise UserError(f"{output} cannot be made small in its place; give another folder")
    networks = NETWORKS | {"rgb_head": RGBHead}  # of an ablation, where there is one
    found = [name for name in networks if holds_weights(weights / name)]
    if not found:
        raise UserError(f"{weights} holds no weights; give a folder with some of {', '.join(networks)}")
    if taken := [name for name in networks if (output / name / "params").exists()]:
        raise UserError(f"{output} holds weights of another kind ({', '.join(taken)}); give another folder")
    lines, total = [], 0
    with claimed(output, "weights", holds_networks):
        for name in found:
            config = read_config(weights / name, networks[name])
            _, params = load_network(weights / name, networks[name], dtype=jnp.dtype(dtype))
            save_compact(output / name, networks[name], config, params)
            size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
            total += size
            lines.append(f"{output / name}: {size / 1e6:.2f} MB")
        for other in ("tokenizer", "scheduler.json", "generation.json", LICENCE):
            if (weights / other).is_dir():
                shutil.copytree(weights / other, output / other, dirs_exist_ok=True)
            elif (weights / other).exists():
                shutil.copy(weights / other, output / other)
        if has_hashes(output):
            write_hashes(output)
    return [*lines, f"together {total / 1e6:.1f} MB"]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="gen3r compact", description="Makes trained weights small enough to hand around."
    )
    add_folders(parser, weights="folder with trained or converted networks", output="folder of the small weights")
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16", help="dtype of the weights"
    )
    arguments = parser.parse_args()
    require_folders(parser, arguments, "weights", "output")
    print("\n".join(compact(arguments.weights, arguments.output, arguments.dtype)))


if __name__ == "__main__":
    main_guard(main)
