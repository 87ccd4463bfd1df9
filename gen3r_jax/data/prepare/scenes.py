"""From the frames of a recording to scene folders: which frames are good, where scenes end, what is written.

A scene folder holds ``images/``, ``transforms.json``, ``captions.txt`` (empty until there are captions), ``depth/``
where the set has it, and ``scene.json``, which says where it comes from and what was done to it. It appears under its
name only when it is whole.
"""

import hashlib
import itertools
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from gen3r_jax.data.depth import encode_depth
from gen3r_jax.data.prepare.frames import DevelopedFrame, Developing, develop
from gen3r_jax.data.prepare.places import require_own, scene_place
from gen3r_jax.data.prepare.recording import DataSet, RawFrame, Recording, Split
from gen3r_jax.errors import UserError
from gen3r_jax.geometry.camera_files.transforms import write_transforms
from gen3r_jax.geometry.cameras import Cameras, nearest_rotation, pose, pose_fault
from gen3r_jax.storage.files import write_json, writing

TEST_ONE_IN = 10
"""Scenes without an official split: one group in so many is for tests."""

NEARLY_RIGID = 1e-2
"""Rotations this near to one (as `pose_fault` measures it) are made exact."""

GUARD_FRAMES = 20
"""Frames left out of the training part beside a test part of the same recording."""


@dataclass
class Outcome:
    """What became of a unit's recordings.

    scenes: ``{"id", "split", "group", "frames"}`` each. skipped: scenes that were not kept, with the reason.
    bad: how many of the skipped should not have been: what is damaged or has no place to go to.
    dropped: frames of kept recordings that were left out, by reason. examples: the first such frame of each reason.
    longest: frames of the longest scene that was too short.
    """

    scenes: list[dict] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    bad: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    longest: int = 0

    def drop(self, reason: str, example: str) -> None:
        self.dropped[reason] += 1
        self.examples.setdefault(reason, example)

    def refuse(self, scene: str, error: Exception | str) -> None:
        self.skipped.append((scene, str(error)))
        self.bad += 1

    def add(self, other: "Outcome") -> None:
        self.scenes += other.scenes
        self.skipped += other.skipped
        self.bad += other.bad
        self.dropped.update(other.dropped)
        self.examples = other.examples | self.examples
        self.longest = max(self.longest, other.longest)


@dataclass(frozen=True)
class _Kept:
    """A frame whose picture is written to the scratch folder."""

    raw: RawFrame
    image: Path
    depth: Path | None
    size: tuple[int, int]
    intrinsics: np.ndarray


def write_recording(
    recording: Recording, data_set: DataSet, how: Developing, split: str, folder: Path, scratch: Path
) -> Outcome:
    """Writes the scenes of a recording below `folder`.

    Args:
      split: "train", "test" or "all": which scenes are wanted; the others are passed over.
      scratch: a folder on the same disk that may be filled; it is empty afterwards.
    """
    outcome = Outcome()
    for reason, count in recording.dropped.items():
        outcome.dropped[reason] += count
        outcome.examples.setdefault(reason, recording.id)
    if not data_set.split_by_chunk and split not in ("all", _split(data_set, recording, "")):
        return Outcome()
    try:
        scene_place(folder, recording.id)
    except UserError as error:
        outcome.refuse(recording.id, error)
        return outcome
    if recording.damaged:
        outcome.refuse(recording.id, recording.damaged)
        return outcome
    if recording.unfit:
        outcome.skipped.append((recording.id, recording.unfit))
        return outcome
    frames = list(_good_frames(recording, outcome))
    if len(frames) < data_set.min_frames:
        outcome.skipped.append((recording.id, _too_short(len(frames), data_set, outcome)))
        return outcome
    scratch.mkdir(parents=True, exist_ok=True)
    kept = _same_size(
        [kept for number, raw in enumerate(frames) if (kept := _keep(raw, number, how, scratch, outcome))]
    )
    for raw in kept.others:
        outcome.drop("another size than most", f"{recording.id}: {raw.raw.name}")
    pieces = list(_pieces(kept.frames, recording, data_set))
    number_them = data_set.chunk_frames > 0 or len(pieces) > 1
    if not pieces:
        outcome.skipped.append((recording.id, _too_short(0, data_set, outcome)))
    for number, stretch, piece in pieces:
        scene_id = f"{recording.id}_c{number:03d}" if number_them else recording.id
        scene_id += f"_{stretch}" if stretch else ""
        part = f"c{number}" if data_set.split_by_chunk else ""
        scene_split = _split(data_set, recording, part)
        if split not in ("all", scene_split):
            continue
        if problem := _unfit(piece, data_set, outcome):
            outcome.skipped.append((scene_id, problem))
            continue
        group = "/".join(filter(None, (recording.group, part)))
        description = {
            "dataset": data_set.name,
            "source_id": recording.id,
            "group": group,
            "split": scene_split,
            "scale": data_set.scale,
            "licence": data_set.licence,
            "looks_ahead": recording.looks_ahead,
            "cameras_found_by": recording.found_by,
        }
        try:
            place = scene_place(folder, scene_id)
            require_own(place)
        except UserError as error:
            outcome.refuse(scene_id, error)
            continue
        _write_scene(piece, description, how, place, scratch / "scene")
        outcome.scenes.append({"id": scene_id, "split": scene_split, "group": group, "frames": len(piece)})
    shutil.rmtree(scratch, ignore_errors=True)
    return outcome


def _good_frames(recording: Recording, outcome: Outcome) -> Iterator[RawFrame]:
    """The frames with usable cameras in the order of time, rotations made exact where they are nearly so."""
    last = -np.inf
    for frame in sorted(recording.frames, key=lambda frame: frame.order):
        where = f"{recording.id}: {frame.name}"
        c2w = rigid(frame.c2w)
        if c2w is None:
            outcome.drop("pose is not a rotation with a translation", where)
        elif not _sound_intrinsics(frame):
            outcome.drop("focal length or size is not a number above 0", where)
        elif frame.order == last:
            outcome.drop("a second frame of the same time", where)
        else:
            last = frame.order
            yield frame if c2w is frame.c2w else _with_pose(frame, c2w)


def rigid(c2w: np.ndarray) -> np.ndarray | None:
    """The pose itself if its rotation is one; the nearest rotation's if it is nearly one; else None."""
    if not pose_fault(c2w):
        return c2w
    if pose_fault(c2w, NEARLY_RIGID):
        return None
    return pose(nearest_rotation(c2w[:3, :3]), c2w[:3, 3])


def _with_pose(frame: RawFrame, c2w: np.ndarray) -> RawFrame:
    return RawFrame(**{**vars(frame), "c2w": c2w})


def _sound_intrinsics(frame: RawFrame) -> bool:
    above_0 = (*frame.focal, *(frame.size or ()))
    return bool(np.isfinite((*above_0, *frame.centre, *frame.distortion)).all() and min(above_0) > 0)


def _keep(raw: RawFrame, number: int, how: Developing, scratch: Path, outcome: Outcome) -> _Kept | None:
    try:
        developed = develop(raw, how)
    except (UserError, OSError) as error:
        outcome.drop("picture or depth cannot be used", f"{raw.name}: {error}")
        return None
    return _store(raw, developed, scratch / f"{number:06d}")


def _store(raw: RawFrame, developed: DevelopedFrame, stem: Path) -> _Kept:
    image, depth = stem.with_suffix(developed.suffix), None
    with writing(stem.parent):
        image.write_bytes(developed.encoded)
        if developed.depth is not None:
            depth = stem.with_name(f"{stem.name}_depth.png")
            depth.write_bytes(encode_depth(developed.depth))
    return _Kept(raw, image, depth, developed.size, developed.intrinsics)


@dataclass(frozen=True)
class _Sorted:
    frames: list[_Kept]
    others: list[_Kept]


def _same_size(kept: Sequence[_Kept]) -> _Sorted:
    """The frames of the most frequent size, and the others."""
    size = Counter(frame.size for frame in kept).most_common(1)[0][0] if kept else None
    return _Sorted([frame for frame in kept if frame.size == size], [frame for frame in kept if frame.size != size])


def _pieces(kept: Sequence[_Kept], recording: Recording, data_set: DataSet) -> Iterator[tuple[int, int, list[_Kept]]]:
    """Cuts at gaps and at the set's longest scene.

    Each piece comes with the number of its part, and with which stretch of a fixed part between gaps it is.
    """
    longest = data_set.chunk_frames
    if data_set.split_by_chunk:
        by_chunk = itertools.groupby(kept, key=lambda frame: int(frame.raw.order) // longest)
        for number, chunk in by_chunk:
            inner = [frame for frame in chunk if not _guards(frame, number, data_set, recording)]
            for stretch, run in enumerate(_runs(inner, recording)):
                yield number, stretch, run
        return
    number = 0
    for run in _runs(kept, recording):
        parts = -(-len(run) // longest) if longest else 1
        for part in range(parts):
            yield number, 0, run[part * len(run) // parts : (part + 1) * len(run) // parts]
            number += 1


def _runs(kept: Sequence[_Kept], recording: Recording) -> list[list[_Kept]]:
    runs: list[list[_Kept]] = []
    for frame in kept:
        if runs and recording.continues(runs[-1][-1].raw, frame.raw):
            runs[-1].append(frame)
        else:
            runs.append([frame])
    return runs


def _guards(frame: _Kept, number: int, data_set: DataSet, recording: Recording) -> bool:
    """Whether a training frame is so near to a test part that it shows the same."""
    if _split(data_set, recording, f"c{number}") == "test":
        return False
    within = frame.raw.order - number * data_set.chunk_frames
    before = number > 0 and within < GUARD_FRAMES and _split(data_set, recording, f"c{number - 1}") == "test"
    after = within >= data_set.chunk_frames - GUARD_FRAMES and _split(data_set, recording, f"c{number + 1}") == "test"
    return before or after


def _split(data_set: DataSet, recording: Recording, part: str) -> Split:
    name = (data_set.name, data_set.split_salt, recording.group, part)
    return recording.split or hashed_split("/".join(filter(None, name)))


def hashed_split(group: str) -> Split:
    """The same for a name on every machine; "test" for about one in ten."""
    return "test" if int(hashlib.sha1(group.encode()).hexdigest(), 16) % TEST_ONE_IN == 0 else "train"


def _unfit(piece: Sequence[_Kept], data_set: DataSet, outcome: Outcome) -> str:
    """Why a piece makes no scene; empty if it does."""
    if len(piece) < data_set.min_frames:
        return _too_short(len(piece), data_set, outcome)
    positions = np.stack([frame.raw.c2w[:3, 3] for frame in piece])
    path = float(np.linalg.norm(np.diff(positions, axis=0), axis=1).sum())
    if path < data_set.min_path:
        return f"the camera moves less than {data_set.min_path:g}"
    return ""


def _too_short(frames: int, data_set: DataSet, outcome: Outcome) -> str:
    outcome.longest = max(outcome.longest, frames)
    reasons = f" ({', '.join(outcome.dropped)})" if outcome.dropped else ""
    return f"fewer than {data_set.min_frames} good frames{reasons}" if frames else f"no good frame{reasons}"


def _write_scene(piece: Sequence[_Kept], description: dict, how: Developing, place: Path, scratch: Path) -> None:
    with writing(place.parent):
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "images").mkdir(parents=True)
        has_depth = any(frame.depth for frame in piece)
        if has_depth:
            (scratch / "depth").mkdir()
        names = []
        for number, frame in enumerate(piece):
            name = f"frame_{number:05d}"
            names.append(f"{name}{frame.image.suffix}")
            os.replace(frame.image, scratch / "images" / names[-1])
            if frame.depth:
                os.replace(frame.depth, scratch / "depth" / f"{name}.png")
            elif has_depth:  # of this frame nothing is known
                (scratch / "depth" / f"{name}.png").write_bytes(encode_depth(np.zeros(frame.size, np.float32)))
        cameras = Cameras(
            np.stack([frame.raw.c2w for frame in piece]),
            np.stack([frame.intrinsics for frame in piece]),
            np.array([frame.size for frame in piece]),
        )
        write_transforms(scratch / "transforms.json", names, cameras)
        captions = place / "captions.txt"  # of an earlier run, and since then perhaps filled
        (scratch / captions.name).write_bytes(captions.read_bytes() if captions.is_file() else b"")
        first = piece[0].raw
        description |= {
            "steps": asdict(how),
            "depth": has_depth,
            "first_camera": {key: getattr(first, key) for key in ("focal", "centre", "size", "distortion")},
            "source_frames": [frame.raw.name for frame in piece],
            "order": [frame.raw.order for frame in piece],
        }
        write_json(scratch / "scene.json", description)
        if place.exists():  # ours, of a run of another split, or of one that was stopped before it could say so
            shutil.rmtree(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(scratch, place)
