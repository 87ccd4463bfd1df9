"""The training loader: scenes of one or several sources, cut to clips, batched, with a position that can be saved.

Clip number n is a function of (config, seed, n) alone: neither the worker processes nor the hosts change the data or
its order. Process p of P gets the clips p, p + P, p + 2 P, ...
"""

import atexit
import logging
import math
import multiprocessing
import operator
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import grain
import numpy as np
from absl import flags

from gen3r_jax.data.clip_maker import ClipMaker, Place, scene_of
from gen3r_jax.data.images import require_frames
from gen3r_jax.data.procedural import KINDS, Difficulty
from gen3r_jax.data.sources import Source, open_source
from gen3r_jax.data.workers import end_with_parent, unsignalled, within
from gen3r_jax.errors import UserError
from gen3r_jax.models.sizes import require_clip_length, require_side
from gen3r_jax.options import Count, Natural, Positive, read_options
from gen3r_jax.storage.remote import local_copy

log = logging.getLogger(__name__)

ENDLESS = 1 << 40
"""Clips: more than anyone trains on, few enough for Grain's arithmetic."""


@dataclass(frozen=True)
class DataOptions:
    """The config group ``data``.

    source: "procedural", a video, a folder (images, videos, data set root, shards), or several of them as
      ((source, weight), ...), drawn in proportion to the weights.
    sets: ((folder, weight, max_stride, min_frames), ...): where `source` is a folder with such sub-folders, clips are
      drawn from them in proportion to the weights, with strides and from scenes of their own. Sets that are not there
      are left out with a notice. Empty: the folder is one source, its scenes are equal.
    max_stride: clips take every frame, every second, ... up to this, drawn uniformly.
    official_crop: whether principal points are rounded as the released loader does (by up to a pixel wrong).
    depth: whether batches have depth; scenes without it then count as damaged.
    normalize: whether the unit of cameras and depth is VGGT's, the mean distance of the clip's points from its first
      camera, instead of the data's own; scenes without depth then count as damaged.
    cameras: whether the cameras of image folders (``transforms.json``) are wanted; then its frame order holds too.
    num_scenes: number of procedural scenes.
    difficulty: "easy", "full" or "shifted" procedural scenes.
    kinds: kinds of procedural scenes, any of "rooms", "outdoors", "objects" and "drives".
    changed: goes on from a checkpoint though the sources have more or fewer scenes now; from there on clips are drawn
      in another order, so that some come again and others do not before the epoch ends.
    skip: names of samples, as messages tell them, whose scenes are replaced by the next ones; may change on resuming.
    workers: processes that prepare training batches; 0 prepares them in threads of this one.
    prefetch: batches that are kept ready (by each worker).
    worker_timeout: seconds after which a worker that gives no batch counts as hung, and the run ends.
    """

    source: str | tuple = "procedural"
    sets: tuple = ()
    max_stride: Count = 2
    official_crop: bool = False
    cameras: bool = False
    depth: bool = False
    normalize: bool = False
    num_scenes: Count = 10_000
    difficulty: Difficulty = "easy"
    kinds: tuple = KINDS
    changed: bool = False
    skip: tuple[str, ...] = ()
    workers: Natural = 0
    prefetch: Count = 2
    worker_timeout: Positive = 600.0


def make_loader(
    config: DataOptions | Mapping[str, Any],
    *,
    batch_size: int,
    num_frames: int,
    side: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    split: str = "train",
) -> "Loader":
    """Opens the sources and gives an endless iterator of batches.

    Args:
      config: see :class:`DataOptions`.
      batch_size: clips a batch of this process.
      num_frames: 4 k + 1 frames a clip. side: of the square frames, a multiple of 112.
      split: "train", shuffled anew every epoch with random strides and starts; or "test", in order, from frame 0.

    Returns:
      Batches, dicts of numpy arrays: `frames` uint8 [b t h w 3]; `intrinsics` float32 [b t 3 3] in pixels of the crop;
      `c2w` float32 [b t 4 4], OpenCV axes, relative to the clip's first frame; `has_cameras` bool [b];
      with ``data.depth`` `depth` float16 [b t h w], along the optical axis in the unit of `c2w`, 0 where not known;
      `caption` and `sample_id` [b] strings; `num_replaced` int32 [b], how many damaged frames and scenes were replaced.
      Sources without cameras give identity poses and a 60 degree field of view.

    Raises UserError on sizes that do not fit the networks, and where a source has nothing to read.
    """
    options = config if isinstance(config, DataOptions) else read_options(DataOptions, config, "config.data")
    require_side(side)
    require_clip_length(num_frames)
    if batch_size < 1:
        raise UserError(f"batch_size must be at least 1, not {batch_size}")
    entries = _entries(options)
    sources = tuple(_open(entry, options, num_frames, side, split) for entry in entries)
    if len(sources) == len(sources[0]) == 1:  # of many scenes, short ones are filled up with their first and last frame
        require_frames(entries[0].name, sources[0].scene(0).length, num_frames)
    training = split == "train"
    places = []
    for number, source in enumerate(sources):
        scenes = grain.MapDataset.range(len(source)).seed(seed + number)
        scenes = (scenes.shuffle() if training else scenes).repeat(ENDLESS // len(source))
        places.append(scenes.map(_Tag(number)))
    mixed = grain.MapDataset.mix(places, [entry.weight for entry in entries]) if len(places) > 1 else places[0]
    strides = tuple(entry.max_stride for entry in entries)
    kept = {name: getattr(options, name) for name in ("official_crop", "depth", "normalize")}
    skip = frozenset(map(scene_of, options.skip))
    maker = ClipMaker(sources, strides, num_frames, (side, side), training, skip=skip, **kept)
    clips = mixed.seed(seed).random_map(maker)
    batches = clips[process_index::process_count].batch(batch_size)
    return Loader(batches, tuple(map(len, sources)), options, options.workers if training else 0)


class Loader(grain.DatasetIterator):
    """Iterates over a dataset of batches, prepared ahead in threads or worker processes.

    The position is one number, whatever the workers: ``get_state()`` gives ``{"next_index": n, "scenes": [...]}``. It
    belongs to sources with as many scenes each: ``set_state`` raises UserError for others, unless `options` allow that.
    """

    def __init__(self, batches: grain.MapDataset, scenes: Sequence[int], options: DataOptions, workers: int):
        super().__init__()
        self._batches, self._workers, self._prefetch = batches, workers, options.prefetch
        self._scenes, self._changed = list(scenes), options.changed
        self._worker_timeout = options.worker_timeout
        self._next_index = self._first_index = 0
        self._running: grain.DatasetIterator | None = None
        # Worker processes must end before the interpreter takes their queues down.
        atexit.register(_close, weakref.ref(self))

    def __next__(self) -> dict[str, np.ndarray]:
        self._assert_not_closed()
        self.start_prefetch()
        assert self._running is not None
        batch = self._from_worker(self._running) if self._workers else next(self._running)
        self._next_index += 1
        return batch

    def _from_worker(self, running: grain.DatasetIterator) -> dict[str, np.ndarray]:
        """The next batch. Raises UserError where the worker whose turn it is was killed, or hangs."""
        number = (self._next_index - self._first_index) % self._workers
        worker, again = f"worker {number} of {self._workers}", "the same command goes on from the last checkpoint"
        try:
            batch = within(self._worker_timeout, lambda: next(running))
        except TimeoutError:
            for child in multiprocessing.active_children():
                child.kill()  # Grain would wait for it when it closes
            self._stop()
            raise UserError(
                f"{worker} has given nothing for {self._worker_timeout:g} s, on its way to batch {self._next_index} "
                f"(does a file system hang?); {again}; where scenes take that long, raise data.worker_timeout"
            ) from None
        except RuntimeError as error:
            if "terminated unexpectedly" not in str(error):
                raise
            raise UserError(
                f"{worker} was killed on its way to batch {self._next_index} (out of memory?); {again}, with fewer "
                "data.workers if need be"
            ) from None
        # Arrays from workers live in shared memory that is freed behind them; these are ours.
        return {key: np.array(value) for key, value in batch.items()}

    def start_prefetch(self) -> None:
        """Begins to prepare batches; the first batch is waited for otherwise."""
        if self._running is not None:
            return
        batches = self._batches[self._next_index :]
        self._first_index = self._next_index
        if not self._workers:
            threads = grain.ReadOptions(num_threads=min(self._prefetch, 2), prefetch_buffer_size=self._prefetch)
            self._running = iter(batches.to_iter_dataset(threads))
            self._running.start_prefetch()
            return
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()  # Grain reads its flags when it starts processes
        here = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
        processes = grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=self._prefetch)
        self._running = iter(batches.to_iter_dataset(here).mp_prefetch(processes, _start_worker))
        with unsignalled():
            self._running.get_state()  # has Grain make the workers' iterators now, not at the first batch
            self._running.start_prefetch()

    def get_state(self) -> dict[str, Any]:
        return {"next_index": self._next_index, "scenes": self._scenes}

    def set_state(self, state: dict[str, Any]) -> None:
        before = state.get("scenes", self._scenes)
        if before != self._scenes and not self._changed:
            raise UserError(
                f"the sources have {self._scenes} scenes, and had {before} when the checkpoint was written: clips "
                "would come in another order; bring the old ones back, or go on in the new order with data.changed=True"
            )
        if state["next_index"] != self._next_index:  # else the workers are where they should be
            self._stop()
            self._next_index = state["next_index"]

    def close(self) -> None:
        super().close()
        self._stop()

    def _stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None


@dataclass(frozen=True)
class _Tag(grain.transforms.Map):
    source: int

    def map(self, scene: int) -> Place:
        return Place(self.source, int(scene))


def _close(loader: "weakref.ref[Loader]") -> None:
    if (alive := loader()) is not None:
        alive.close()


def _start_worker(worker: int, workers: int) -> None:
    end_with_parent()


class _Entry(NamedTuple):
    """A source of a mixture."""

    name: str
    weight: float
    max_stride: int
    min_frames: int = 0


def _open(entry: _Entry, options: DataOptions, num_frames: int, side: int, split: str) -> Source:
    return open_source(
        entry.name,
        split=split,
        cameras=options.cameras,
        num_scenes=options.num_scenes,
        num_frames=num_frames * entry.max_stride,
        min_frames=entry.min_frames,
        size=(side, side),
        difficulty=options.difficulty,
        kinds=options.kinds,
    )


def _entries(options: DataOptions) -> list[_Entry]:
    """The sources of a mixture; a single name is a mixture of one."""
    if options.sets and isinstance(options.source, str) and (found := _sets(options)):
        return found
    entries = [(options.source, 1.0)] if isinstance(options.source, str) else options.source
    try:
        weights = {str(name): float(weight) for name, weight in entries}
    except (TypeError, ValueError):
        weights = {}
    if not weights or len(weights) < len(entries) or not all(0 < weight < math.inf for weight in weights.values()):
        raise UserError(f"data.source is a name or ((name, weight), ...) with weights above 0, not {options.source!r}")
    return [_Entry(name, weight, options.max_stride) for name, weight in weights.items()]


def _sets(options: DataOptions) -> list[_Entry]:
    """The sets that the folder `options.source` has of `options.sets`."""
    try:
        sets = [_Entry(str(n), float(w), operator.index(s), operator.index(m)) for n, w, s, m in options.sets]
    except (TypeError, ValueError):
        sets = []
    if not sets or not all(0 < each.weight < math.inf and each.max_stride > 0 for each in sets):
        raise UserError(
            "data.sets is ((folder, weight, max_stride, min_frames), ...) with weights and strides above 0, "
            f"not {options.sets!r}"
        )
    root = local_copy(str(options.source))
    found = [each._replace(name=str(root / each.name)) for each in sets if (root / each.name).is_dir()]
    if found and (missing := [each.name for each in sets if not (root / each.name).is_dir()]):
        log.warning("%s has no %s: the mixture goes without", options.source, ", ".join(missing))
    return found
