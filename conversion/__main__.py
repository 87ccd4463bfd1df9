"""Converts official checkpoints to the weights folders of gen3r_jax, and back.

gen3r convert gen3r --source checkpoints --output weights       everything in the official folder
gen3r convert gen3r --invert --source weights --output checkpoints      and the way back
gen3r convert vggt --source vggt/model.safetensors --output weights/vggt
gen3r convert wan_vae --source Wan2.1_VAE.pth --output weights/wan_vae --dtype bfloat16
gen3r convert geometry_adapter --source checkpoints/geo_adapter --output weights/geometry_adapter
gen3r convert geometry_adapter --invert --source weights/geometry_adapter --output geo_adapter
gen3r convert lpips --source DIR --output weights/lpips        DIR: vgg16-397923af.pth and LPIPS 0.1's vgg.pth
gen3r convert random vggt --output vggt-random     random numbers under the official names, full size
gen3r convert random gen3r --tiny --output tiny    a whole tiny folder to try the commands with
gen3r convert prove vggt                           make, convert, load, run once, convert back; with costs
"""

import argparse
from pathlib import Path

import ml_dtypes
import numpy as np

from gen3r_jax.errors import main_guard
from gen3r_jax.storage.locks import lock_beside, locked

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}
# Keys and titles of conversion.networks.CONVERTIBLE, which takes seconds to import: --help should not.
TITLES = {
    "vggt": "VGGT",
    "wan_vae": "the Wan 2.1 VAE",
    "geometry_adapter": "the Gen3R geometry adapter",
    "wan_dit": "the Wan DiT with camera adapter",
    "umt5": "the umT5 text encoder",
    "clip_vision": "the CLIP image encoder",
    "lpips": "LPIPS from a folder with torchvision's file and that of LPIPS 0.1",
}
OPTIONAL = ("lpips",)  # no part of a pipeline
SHARD_GB = 5.0


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.command == "prove":
        from conversion.prove import prove

        report = prove(options.network, options.directory, options.dtype)
    else:
        with locked(lock_beside(options.output), str(options.output)):
            report = _convert(options)
    print("\n".join(report))
    return 0


def _convert(options: argparse.Namespace) -> list[str]:
    # What takes seconds to import waits until the flags are read: --help needs none of it.
    from conversion.commands import convert_checkpoint, invert_weights, random_checkpoint
    from conversion.networks import CONVERTIBLE
    from conversion.pipeline_folder import convert_pipeline, invert_pipeline, random_pipeline

    dtype = DTYPES.get(options.dtype)
    if options.command == "gen3r" and options.invert:
        shards = {"shard_bytes": int(options.shard_gb * 1e9)}
        return invert_pipeline(options.source, options.output, dtype=dtype, **shards, force=options.force)
    if options.command == "gen3r":
        return convert_pipeline(options.source, options.output, dtype=dtype, force=options.force)
    if options.command == "random":
        settings = {"dtype": dtype, "seed": options.seed, "force": options.force}
        if options.network == "gen3r":
            return random_pipeline(options.output, tiny=options.tiny, **settings)
        config = CONVERTIBLE[options.network].table.network.Config.tiny() if options.tiny else None
        return random_checkpoint(options.network, options.output, config=config, **settings)
    if options.invert:
        shard_bytes = int(options.shard_gb * 1e9)
        return invert_weights(
            options.command, options.source, options.output, dtype=dtype, shard_bytes=shard_bytes, force=options.force
        )
    return convert_checkpoint(
        options.command,
        options.source,
        options.output,
        dtype=dtype,
        point_head=not getattr(options, "no_point_head", False),
        force=options.force,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="gen3r convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    command = commands.add_parser("gen3r", help="convert the whole official folder; goes on after an interruption")
    command.add_argument("--source", type=Path, required=True, metavar="DIR", help="transformer/, vggt/, and so on")
    command.add_argument("--output", type=Path, required=True, metavar="DIR", help="folder of weights folders")
    _add_way_back(command, "--source is a folder of weights folders, --output becomes the official folder")
    _add_common(command)
    for name, title in TITLES.items():
        command = commands.add_parser(name, help=f"convert {title}")
        command.add_argument(
            "--source",
            type=Path,
            required=True,
            metavar="FILE_OR_DIR",
            help="official weights: .safetensors (whole or shards with an index), .pth, .pt or .ckpt; "
            "a folder with one of them, or a whole pipeline folder",
        )
        command.add_argument("--output", type=Path, required=True, metavar="DIR", help="weights folder to write")
        _add_way_back(command, "--source is a weights folder, --output gets safetensors")
        if name == "vggt":
            command.add_argument("--no_point_head", action="store_true", help="leave the point head out")
        _add_common(command)
    command = commands.add_parser("random", help="write random numbers under the official names and shapes")
    command.add_argument("network", choices=("gen3r", *TITLES), help="gen3r: its whole folder")
    command.add_argument("--output", type=Path, required=True, metavar="FILE_OR_DIR")
    command.add_argument("--tiny", action="store_true", help="a few thousand parameters instead of full size")
    command.add_argument("--seed", type=int, default=0)
    _add_common(command, dtype="float32")
    command = commands.add_parser("prove", help="random weights at full size: convert, load, run, convert back")
    command.add_argument("network", choices=[name for name in TITLES if name not in OPTIONAL])
    command.add_argument("--directory", type=Path, help="where to put some gigabytes for a while (default: temporary)")
    command.add_argument("--dtype", choices=DTYPES, default="float32")
    return parser


def _add_way_back(command: argparse.ArgumentParser, folders: str) -> None:
    command.add_argument("--invert", action="store_true", help=f"the way back: {folders}")
    command.add_argument(
        "--shard_gb", type=float, default=SHARD_GB, help="with --invert: largest file (default %(default)s)"
    )


def _add_common(command: argparse.ArgumentParser, dtype: str | None = None) -> None:
    kept = "default: as in the source" if dtype is None else f"default: {dtype}"
    command.add_argument("--dtype", choices=DTYPES, default=dtype, help=f"type of the numbers written ({kept})")
    command.add_argument("--force", action="store_true", help="replace what is at --output")


if __name__ == "__main__":
    main_guard(main)
