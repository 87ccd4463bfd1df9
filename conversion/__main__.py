"""Converts official checkpoints to the weights folders of gen3r_jax, and back.

python -m conversion gen3r --source checkpoints --output weights       everything in the official folder
python -m conversion vggt --source vggt/model.safetensors --output weights/vggt
python -m conversion wan_vae --source Wan2.1_VAE.pth --output weights/wan_vae --dtype bfloat16
python -m conversion geometry_adapter --source checkpoints/geo_adapter --output weights/geometry_adapter
python -m conversion geometry_adapter --invert --source weights/geometry_adapter --output geo_adapter
python -m conversion lpips --source DIR --output weights/lpips        DIR: vgg16-397923af.pth and LPIPS 0.1's vgg.pth
python -m conversion random vggt --output vggt-random     random numbers under the official names, full size
python -m conversion random gen3r --tiny --output tiny    a whole tiny folder to try the commands with
python -m conversion prove vggt                           make, convert, load, run once, convert back; with costs
"""

import argparse
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from conversion.checkpoints import SHARD_BYTES, convert_checkpoint, invert_weights, random_checkpoint
from conversion.networks import CONVERTIBLE, NETWORKS
from conversion.pipeline_folder import convert_pipeline, random_pipeline
from conversion.prove import prove
from gen3r_jax.errors import main_guard

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16), "float16": np.dtype(np.float16)}


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    dtype = DTYPES.get(options.dtype)
    if options.command == "prove":
        report = prove(options.network, options.directory, options.dtype)
    elif options.command == "gen3r":
        report = convert_pipeline(options.source, options.output, dtype=dtype, force=options.force)
    elif options.command == "random":
        settings = {"dtype": dtype, "seed": options.seed, "force": options.force}
        if options.network == "gen3r":
            report = random_pipeline(options.output, tiny=options.tiny, **settings)
        else:
            config = CONVERTIBLE[options.network].table.network.Config.tiny() if options.tiny else None
            report = random_checkpoint(options.network, options.output, config=config, **settings)
    elif options.invert:
        shard_bytes = int(options.shard_gb * 1e9)
        report = invert_weights(
            options.command, options.source, options.output, dtype=dtype, shard_bytes=shard_bytes, force=options.force
        )
    else:
        report = convert_checkpoint(
            options.command,
            options.source,
            options.output,
            dtype=dtype,
            point_head=not getattr(options, "no_point_head", False),
            force=options.force,
        )
    print("\n".join(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m conversion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("gen3r", help="convert the whole official folder; goes on after an interruption")
    command.add_argument("--source", type=Path, required=True, metavar="DIR", help="transformer/, vggt/, and so on")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of weights folders")
    _add_common(command)
    for name, network in CONVERTIBLE.items():
        command = commands.add_parser(name, help=f"convert {network.title}")
        command.add_argument(
            "--source",
            type=Path,
            required=True,
            metavar="FILE_OR_DIR",
            help="official weights: .safetensors (whole or shards with an index), .pth, .pt or .ckpt; "
            "a folder with one of them, or a whole pipeline folder",
        )
        command.add_argument("--output", type=Path, required=True, metavar="DIR", help="weights folder to write")
        command.add_argument(
            "--invert",
            action="store_true",
            help="the way back: --source is a weights folder, --output gets safetensors",
        )
        command.add_argument(
            "--shard_gb",
            type=float,
            default=SHARD_BYTES / 1e9,
            help="with --invert: largest file (default %(default)s)",
        )
        if name == "vggt":
            command.add_argument("--no_point_head", action="store_true", help="leave the point head out")
        _add_common(command)
    command = commands.add_parser("random", help="write random numbers under the official names and shapes")
    command.add_argument("network", choices=("gen3r", *CONVERTIBLE), help="gen3r: its whole folder")
    command.add_argument("--output", type=Path, required=True, metavar="FILE_OR_DIR")
    command.add_argument("--tiny", action="store_true", help="a few thousand parameters instead of full size")
    command.add_argument("--seed", type=int, default=0)
    _add_common(command, dtype="float32")
    command = commands.add_parser("prove", help="random weights at full size: convert, load, run, convert back")
    command.add_argument("network", choices=NETWORKS)
    command.add_argument("--directory", type=Path, help="where to put some gigabytes for a while (default: temporary)")
    command.add_argument("--dtype", choices=DTYPES, default="float32")
    return parser


def _add_common(command: argparse.ArgumentParser, dtype: str | None = None) -> None:
    kept = "default: as in the source" if dtype is None else f"default: {dtype}"
    command.add_argument("--dtype", choices=DTYPES, default=dtype, help=f"type of the numbers written ({kept})")
    command.add_argument("--force", action="store_true", help="replace what is at --output")


if __name__ == "__main__":
    main_guard(main)
