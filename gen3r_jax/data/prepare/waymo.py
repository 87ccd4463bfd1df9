"""Waymo Open, Perception: 20 seconds of driving each, ten frames a second, five cameras.

    training/segment-<segment>_with_camera_labels.tfrecord                    (releases 1.x)
    training/{camera_image,camera_calibration}/<segment>.parquet              (releases 2.x)

Both hold the same. The pose of a camera is made of that of the car when the picture was taken (not that of its frame,
which is another moment) and of where the camera is in the car, in metres. There, a camera's x axis points forward, y
left and z up. Lenses distort a little, with OpenCV's model. Principal points count from the corner, by the code that
comes with the set. The rolling shutter is ignored.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet
from jaxtyping import Float

from gen3r_jax.data.prepare.recording import DataSet, RawFrame, ReadOptions, Recording, Unit
from gen3r_jax.data.prepare.tfrecord import Message, map_records
from gen3r_jax.errors import UserError

CAMERAS = ("FRONT", "FRONT_LEFT", "FRONT_RIGHT", "SIDE_LEFT", "SIDE_RIGHT")
"""Camera i + 1 of the set."""

WAYMO_FROM_OPENCV = np.array([[0, 0, 1, 0], [-1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]], np.float64)

LONGEST_PAUSE = 0.35
"""Seconds: a scene ends where more than two frames are missing."""

CHUNK_FRAMES = 110
"""A segment has about 198 frames: two scenes of 99, each with room for two clips of 49, or for one of every second
frame. The limit is above the half of any segment, so that a frame more does not make three short scenes of it."""


class Lens(NamedTuple):
    """A camera's calibration. numbers: f_u, f_v, c_u, c_v, k1, k2, p1, p2, k3. c2car: in the set's axes."""

    numbers: tuple[float, ...]
    size: tuple[float, float]
    c2car: Float[np.ndarray, "4 4"]


class Shot(NamedTuple):
    """A picture: its frame's time, the JPEG file, and the pose of the car as the picture was taken."""

    microseconds: int
    jpeg: bytes | memoryview
    car2w: Float[np.ndarray, "4 4"]


def find(raw: Path) -> list[Unit]:
    """One unit for each segment: its record file, or its tables of pictures and of calibrations."""
    records = sorted(raw.rglob("segment-*.tfrecord"))
    units = [Unit(path.stem.removeprefix("segment-").removesuffix("_with_camera_labels"), (path,)) for path in records]
    for images in sorted(raw.rglob("camera_image/*.parquet")):
        units.append(Unit(images.stem, (images, images.parent.parent / "camera_calibration" / images.name)))
    return units


def read(unit: Unit, options: ReadOptions) -> Iterator[Recording]:
    for name in options.cameras:
        recording_id = f"{unit.key}_{name.lower()}"
        lens, shots, dropped = _read_camera(unit.paths, CAMERAS.index(name) + 1)
        if lens is None:
            yield Recording(recording_id, unit.key, (), dropped=dropped, unfit=f"no calibration of camera {name}")
            continue
        fx, fy, cx, cy, *distortion = lens.numbers
        frames = [
            RawFrame(
                str(shot.microseconds),
                shot.microseconds / 1e6,
                partial(bytes, shot.jpeg),
                shot.car2w @ lens.c2car @ WAYMO_FROM_OPENCV,
                (fx, fy),
                (cx, cy),
                lens.size,
                tuple(distortion),
            )
            for shot in shots
        ]
        ahead = name == "FRONT"
        yield Recording(recording_id, unit.key, frames, dropped=dropped, continues=_continues, looks_ahead=ahead)


def _continues(before: RawFrame, after: RawFrame) -> bool:
    return after.order - before.order < LONGEST_PAUSE


def _matrix(numbers: Sequence[float] | np.ndarray | None) -> Float[np.ndarray, "4 4"]:
    """Sixteen numbers row by row; not finite where there are more or fewer, which is found later."""
    return np.reshape(numbers, (4, 4)) if numbers is not None and len(numbers) == 16 else np.full((4, 4), np.nan)


def _read_camera(paths: Sequence[Path], camera: int) -> tuple[Lens | None, list[Shot], dict[str, int]]:
    if len(paths) == 1:
        return _read_records(paths[0], camera)
    images, calibrations = paths
    return _read_tables(images, calibrations, camera)


def _read_records(path: Path, camera: int) -> tuple[Lens | None, list[Shot], dict[str, int]]:
    """A camera's calibration, pictures and the number of damaged frames, of a file of releases 1.x."""
    records, whole = map_records(path)
    lens, shots, dropped = None, [], Counter()
    if not whole:
        dropped["the file ends inside a record, or is damaged there"] += 1
    for record in records:
        try:
            frame = Message(record)
            lens = lens or _lens_of(frame, camera)
            shots += _shots_of(frame, camera)
        except UserError:
            dropped["its record is damaged"] += 1
    return lens, shots, dict(dropped)


def _lens_of(frame: Message, camera: int) -> Lens | None:
    for calibration in frame.message(1).messages(2):
        if calibration.integer(1) == camera:
            numbers = calibration.doubles(2)
            size = (float(calibration.integer(5)), float(calibration.integer(4)))
            if len(numbers) == 9:
                return Lens(tuple(numbers.tolist()), size, _matrix(calibration.message(3).doubles(1)))
    return None


def _shots_of(frame: Message, camera: int) -> list[Shot]:
    images = [image for image in frame.messages(4) if image.integer(1) == camera]
    return [Shot(frame.integer(2), image.content(2), _matrix(image.message(3).doubles(1))) for image in images]


_TIME, _CAMERA, _SEGMENT = "key.frame_timestamp_micros", "key.camera_name", "key.segment_context_name"
_JPEG, _POSE = "[CameraImageComponent].image", "[CameraImageComponent].pose.transform"
_INTRINSIC = [
    f"[CameraCalibrationComponent].intrinsic.{name}"
    for name in ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")
]
_EXTRINSIC = "[CameraCalibrationComponent].extrinsic.transform"
_SIZE = ["[CameraCalibrationComponent].height", "[CameraCalibrationComponent].width"]

_PIECEMEAL = {"buffer_size": 1 << 20, "pre_buffer": False}
"""Without these pyarrow reads all the wanted columns of a row group before it gives the first row."""


def _read_tables(images: Path, calibrations: Path, camera: int) -> tuple[Lens | None, list[Shot], dict[str, int]]:
    """The same of a segment's tables of releases 2.x. Holds all JPEG files of the camera, not those of the others."""
    lens, shots, missing = None, [], 0
    for row in _rows(calibrations, images.stem, camera, [*_INTRINSIC, _EXTRINSIC, *_SIZE]):
        numbers = [np.nan if row[name] is None else float(row[name]) for name in (*_INTRINSIC, *_SIZE)]
        lens = Lens(tuple(numbers[:9]), (numbers[9], numbers[10]), _matrix(row[_EXTRINSIC]))
    for row in _rows(images, images.stem, camera, [_TIME, _JPEG, _POSE]):
        if row[_TIME] is None or row[_JPEG] is None:
            missing += 1
        else:
            shots.append(Shot(row[_TIME], row[_JPEG], _matrix(row[_POSE])))
    return lens, shots, {"no picture": missing} if missing else {}


def _rows(path: Path, segment: str, camera: int, columns: list[str]) -> Iterator[dict]:
    """The rows of a segment's camera. In memory are the page they are in, as the writer made it, and few rows."""
    try:
        with path.open("rb") as opened, pyarrow.parquet.ParquetFile(opened, **_PIECEMEAL) as file:
            columns = [_SEGMENT, _CAMERA, *columns]
            if absent := [name for name in columns if name not in file.schema_arrow.names]:
                raise UserError(f"{path} has no column {absent[0]}")
            for batch in file.iter_batches(16, columns=columns, use_threads=False):
                wanted = batch.filter(pyarrow.compute.field(_CAMERA) == camera)
                yield from (row for row in wanted.to_pylist() if row[_SEGMENT] == segment)
    except UserError:
        raise
    except (OSError, ValueError, pyarrow.ArrowException) as error:  # Unicode errors in the names of columns, too
        reason = getattr(error, "strerror", None) or "it is no Parquet file, or it is damaged or cut short"
        raise UserError(f"cannot read {path}: {reason}") from None


DATA_SET = DataSet(
    name="waymo",
    title="Waymo Open",
    site="https://waymo.com/open/",
    licence="Waymo Dataset License Agreement for Non-Commercial Use",
    scale="metric",
    layout="segment-*.tfrecord, or camera_image/*.parquet beside camera_calibration/, here or deeper",
    find=find,
    read=read,
    cameras=CAMERAS,
    chunk_frames=CHUNK_FRAMES,
    min_path=2.0,
)
