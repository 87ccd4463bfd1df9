"""How fast clips are read: clips per second and worker, where the time goes, memory.

    python -m benchmarks.loader                                    # shards of rendered scenes, made first
    python -m benchmarks.loader --source SHARDS --frames 49 --side 560 --workers 1 2 4

Batches that the workers prepare while they start are not counted.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from gen3r_jax.data.clips import quantize, resize_crop, sample_indices
from gen3r_jax.data.images import read_image
from gen3r_jax.data.loader import make_loader
from gen3r_jax.data.pack import pack
from gen3r_jax.data.sources import Source, open_source
from gen3r_jax.errors import main_guard


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", help="shards, a root, a folder (default: four rendered scenes of --image_size)")
    parser.add_argument("--image_size", type=int, nargs=2, default=(540, 960), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--frames", type=int, default=49)
    parser.add_argument("--side", type=int, default=560)
    parser.add_argument("--workers", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--clips", type=int, default=12, help="that are timed")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        name = arguments.source or make_shards(Path(folder), arguments.frames + 11, tuple(arguments.image_size))
        source = open_source(name, cameras=True)
        shares(source, arguments.frames, arguments.side)
        rates = {}
        for workers in arguments.workers:
            rates[workers] = measure(str(name), arguments, workers)
            ratio = rates[workers] / rates[arguments.workers[0]]
            print(f"{workers} workers: {rates[workers]:.3f} clips/s, {ratio:.2f} x that of {arguments.workers[0]}")
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
        print(f"peak memory: {worker:.2f} GB in the largest worker, {own:.2f} GB in the reading process")


def make_shards(folder: Path, frames: int, size: tuple[int, int]) -> Path:
    """Four scenes, as JPEG of quality 95."""
    source = open_source("procedural", num_scenes=4, num_frames=frames, size=size)
    pack(source, folder, {"split": "train", "scenes_per_shard": 2, "num_frames": 0, "format": "jpg"})
    return folder


def shares(source: Source, frames: int, side: int) -> None:
    """One clip read step by step in this process."""
    capture = source.scene(0)
    if capture.encoded is None:
        return  # frames of a video: nothing can be read apart from decoding
    indices = sample_indices(capture.length, frames, 1)
    started = time.perf_counter()
    files = [capture.encoded(index) for index in indices]
    read = time.perf_counter()
    pictures = [read_image(file) for file in files]
    decoded = time.perf_counter()
    for picture in pictures:
        quantize(resize_crop(picture, (side, side)))
    done = time.perf_counter()
    parts = {"read": read - started, "decode": decoded - read, "resize and crop": done - decoded}
    height, width = pictures[0].shape[:2]
    size = np.mean([len(file) for file in files]) / 1e3
    text = ", ".join(f"{name} {seconds:.2f} s ({seconds / (done - started):.0%})" for name, seconds in parts.items())
    print(f"a clip of {frames} frames of {width} x {height} ({size:.0f} kB each) to {side} x {side}: {text}")


def measure(name: str, arguments: argparse.Namespace, workers: int) -> float:
    """Clips per second of a loader with so many worker processes."""
    loader = make_loader(
        {"source": name, "cameras": True, "max_stride": 1, "workers": workers, "prefetch": 1},
        batch_size=1,
        num_frames=arguments.frames,
        side=arguments.side,
        seed=0,
    )
    for _ in range(2 * workers):  # what the workers have prepared ahead when the clock starts
        next(loader)
    started = time.perf_counter()
    for _ in range(arguments.clips):
        next(loader)
    seconds = time.perf_counter() - started
    loader.close()
    for process in multiprocessing.active_children():
        process.join(10)
    return arguments.clips / seconds


if __name__ == "__main__":
    main_guard(main)
