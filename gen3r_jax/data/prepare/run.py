"""Prepares all recordings of a data set, several at once, so that it can be stopped and go on.

What became of each recording is kept in ``ROOT/<set>/.prepared/``; those that gave scenes are done, and a unit is read
again until all of its recordings are: what was missing or could not be read may be there the next time. The list files
and ``scenes.jsonl`` are made from these records at the end, so only whole scenes are ever listed.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import as_completed
from dataclasses import asdict, dataclass
from pathlib import Path

from etils import epath
from tqdm import tqdm

from gen3r_jax.data.format import CATALOGUE
from gen3r_jax.data.prepare.frames import Developing
from gen3r_jax.data.prepare.places import require_apart
from gen3r_jax.data.prepare.recording import DataSet, ReadOptions, Unit
from gen3r_jax.data.prepare.records import (
    UNIT,
    RecordWriter,
    fruitful,
    is_complete,
    read_record,
    total,
)
from gen3r_jax.data.prepare.registry import NAMES, data_set
from gen3r_jax.data.prepare.scenes import Outcome, write_recording
from gen3r_jax.data.workers import worker_pool
from gen3r_jax.errors import UserError
from gen3r_jax.storage.files import CannotWrite, read_text, write_text, writing
from gen3r_jax.storage.folders import claimed, mark, require_ours
from gen3r_jax.storage.locks import locked

LISTS = {"videos_dirs": "images", "cameras_paths": "transforms.json", "captions_paths": "captions.txt"}
LIST_FILES = tuple(f"{split}_{kind}.txt" for split in ("train", "test", "eval") for kind in LISTS)
EVALUATION_FRAMES = 49

SET, ROOT = "a prepared set", "a root of prepared sets"
"""The kinds of the two folders, as their markers name them."""


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is written."""

    reading: ReadOptions
    developing: Developing
    split: str = "all"


def prepare(
    chosen: DataSet, raw: Path, root: Path, settings: Settings, *, workers: int = 1, limit: int = 0, quiet: bool = False
) -> Outcome:
    """Prepares what `raw` holds of a data set below ``root / chosen.name``, and lists it.

    Args:
      limit: so many units at most (0: all). workers: processes.

    Returns:
      The outcome of all units, those of earlier runs included. Raises UserError where `raw` is not this set's, where
      `root` was made with other settings, where it cannot be written to, and while another process prepares this set.
    """
    folder = root / chosen.name
    require_apart(folder, [raw])
    units = _find(chosen, raw)
    units = units[:limit] if limit else units
    require_apart(folder, [path for unit in units for path in unit.paths])
    records = folder / ".prepared"
    require_ours(root, ROOT, is_prepared_root, among=LIST_FILES)
    with claimed(folder, SET, is_prepared_set):
        with writing(folder):
            records.mkdir(exist_ok=True)
        _require_settings(folder, settings, chosen)
        outcome, todo = Outcome(), []
        for unit in units:
            record = records / _record_name(unit, settings)
            if is_complete(made := read_record(record)):
                outcome.add(total(made))
            else:
                todo.append((chosen, unit, settings, folder, record))
        with tqdm(
            total=len(units), initial=len(units) - len(todo), unit="unit", disable=True if quiet else None
        ) as progress:
            for made in _run(todo, workers):
                outcome.add(made)
                progress.update()
                progress.set_postfix(scenes=len(outcome.scenes), skipped=len(outcome.skipped))
        shutil.rmtree(folder / ".partial", ignore_errors=True)
    with locked(root / ".lists.lock", f"the lists of {root}", wait=True):
        require_ours(root, ROOT, is_prepared_root, among=LIST_FILES)
        mark(root, ROOT)
        write_lists(root)
    return outcome


def is_prepared_set(folder: epath.Path) -> bool:
    return (folder / ".prepared").is_dir()


def is_prepared_root(root: epath.Path) -> bool:
    return any(is_prepared_set(root / name) for name in NAMES)


def _find(chosen: DataSet, raw: Path) -> list[Unit]:
    if not raw.is_dir():
        raise UserError(f"{raw} is not a folder; --source is the folder of {chosen.title} as it was downloaded")
    units = chosen.find(raw)
    if not units:
        raise UserError(f"{raw} does not look like {chosen.title}: looked for {chosen.layout}")
    keys = Counter(unit.key for unit in units)
    if twice := [key for key, count in keys.items() if count > 1]:
        raise UserError(f"{raw} holds {twice[0]} more than once; give one copy of {chosen.title}")
    return units


def _run(todo: Sequence[tuple], workers: int) -> Iterator[Outcome]:
    if workers <= 1:
        for arguments in todo:
            yield _prepare_unit(*arguments)
        return
    with worker_pool(workers) as pool:
        for future in as_completed([pool.submit(_prepare_unit, *arguments) for arguments in todo]):
            yield future.result()


def _prepare_unit(chosen: DataSet, unit: Unit, settings: Settings, folder: Path, record: Path) -> Outcome:
    """Writes the scenes of those recordings of a unit that have given none yet. Damaged input is a skipped scene, not
    an error."""
    scratch = folder / ".partial" / record.stem
    shutil.rmtree(scratch, ignore_errors=True)
    done, itself = fruitful(read_record(record)), Outcome()
    with RecordWriter(record, dict(done)) as writer:
        try:
            for recording in chosen.read(unit, settings.reading):
                if recording.id not in done:
                    made = write_recording(recording, chosen, settings.developing, settings.split, folder, scratch)
                    writer.add(recording.id, made)
        except CannotWrite:
            raise
        except (UserError, OSError, ValueError, RecursionError) as error:  # ValueError: what should be a number is none
            itself.refuse(unit.key, error)
        writer.add(UNIT, itself)
        return total(writer.outcomes)


def _record_name(unit: Unit, settings: Settings) -> str:
    readable = "".join(letter if letter.isalnum() or letter in "-_" else "_" for letter in unit.key)[-80:]
    return f"{readable}.{hashlib.sha1(unit.key.encode()).hexdigest()[:8]}.{settings.split}.jsonl"


def _require_settings(folder: Path, settings: Settings, chosen: DataSet) -> None:
    """The first run writes down how it prepares; later ones must do the same, or scenes of two kinds would mix."""
    salt = {"split_salt": chosen.split_salt} if chosen.split_salt else {}
    wanted = json.dumps(asdict(settings) | {"split": None} | salt, indent=1)
    file = folder / ".prepared" / "settings"
    if not file.exists():
        write_text(file, wanted)
    elif read_text(file) != wanted:
        raise UserError(
            f"{folder} was prepared with other settings ({file}); use the same, or another --output, or delete it"
        )


def write_lists(root: Path) -> None:
    """Writes ``scenes.jsonl`` and the list files of every prepared set of `root`, and those of all sets together.

    Entries are relative to the list's folder. ``eval_*`` are the paper's evaluation subsets: of the test scenes with 49
    frames or more, those with the smallest hash of their name, which is the same choice everywhere.
    """
    everything: dict[tuple[str, str], list[str]] = {}
    for name in NAMES:
        folder = root / name
        if not (folder / ".prepared").is_dir():
            continue
        records = [total(read_record(path)) for path in sorted((folder / ".prepared").glob("*.jsonl"))]
        scenes = {scene["id"]: scene for record in records for scene in record.scenes}
        ordered = [scenes[scene_id] for scene_id in sorted(scenes)]
        write_text(folder / CATALOGUE, "".join(json.dumps(scene) + "\n" for scene in ordered))
        splits = {split: [scene["id"] for scene in ordered if scene["split"] == split] for split in ("train", "test")}
        splits["eval"] = _evaluation_subset(name, [scene for scene in ordered if scene["split"] == "test"])
        for split, ids in splits.items():
            for kind, part in LISTS.items():
                lines = [f"{scene_id}/{part}" for scene_id in ids]
                write_text(folder / f"{split}_{kind}.txt", "".join(f"{line}\n" for line in lines))
                everything.setdefault((split, kind), []).extend(f"{name}/{line}" for line in lines)
    for (split, kind), lines in everything.items():
        write_text(root / f"{split}_{kind}.txt", "".join(f"{line}\n" for line in lines))


def _evaluation_subset(name: str, scenes: Sequence[dict]) -> list[str]:
    long_enough = [scene["id"] for scene in scenes if scene["frames"] >= EVALUATION_FRAMES]
    ranked = sorted(long_enough, key=lambda scene_id: hashlib.sha1(f"eval/{name}/{scene_id}".encode()).hexdigest())
    return sorted(ranked[: data_set(name).evaluation_scenes])
