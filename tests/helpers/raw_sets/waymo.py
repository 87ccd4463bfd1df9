"""Waymo Open as its two kinds of releases hold it: a segment with two cameras, its frames in a shuffled order."""

import io
import random
import struct
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image

from tests.helpers.raw_sets import shared

SEGMENT = "10017090168044687777_6380_000_6400_000"
START = 1_550_083_467_346_370
"""Microseconds; frames follow each other in a tenth of a second."""

INTRINSIC = (50.0, 50.0, 33.0, 23.5, 0.0, 0.0, 0.0, 0.0, 0.0)
NAMES = ("f_u", "f_v", "c_u", "c_v", "k1", "k2", "p1", "p2", "k3")


def car2w(index: float, yaw_degrees: float = 0.0) -> np.ndarray:
    """The car drives along x; a positive yaw turns it to the left where it is."""
    sine, cosine = np.sin(np.radians(yaw_degrees)), np.cos(np.radians(yaw_degrees))
    turn = [[cosine, -sine, 0, 10 + 0.5 * index], [sine, cosine, 0, 20], [0, 0, 1, 0], [0, 0, 0, 1]]
    return np.array(turn, np.float64)


def c2car(camera: int) -> np.ndarray:
    """Camera 1 looks ahead; camera 2 sits beside it and looks to the left."""
    result = np.eye(4) if camera == 1 else car2w(0, 90.0)
    result[:3, 3] = (1.5, 0.2 * (camera - 1), 2)
    return result


def c2w(index: float) -> np.ndarray:
    """Camera 1 in OpenCV axes, as it has to come out."""
    return np.array([[0, 0, 1, 11.5 + 0.5 * index], [-1, 0, 0, 20], [0, -1, 0, 2], [0, 0, 0, 1]], np.float64)


def write(
    raw: Path,
    *,
    frames: int = shared.FRAMES,
    container: str = "tfrecord",
    segment: str = SEGMENT,
    intrinsic: tuple[float, ...] = INTRINSIC,
    step: float = 1.0,
    yaw_degrees: float = 0.0,
    times: tuple[float, ...] | None = None,
    packed: bool = False,
) -> Path:
    """container: "tfrecord" or "parquet". step: how far the car gets from frame to frame (1: half a metre).
    times: of the frames, in seconds. packed: how doubles are stored in messages."""
    seconds = times or [i / 10 for i in range(frames)]
    shots = [
        (START + round(1e6 * seconds[i]), camera, _jpeg(i), car2w(i * step, yaw_degrees))
        for i in range(frames)
        for camera in (1, 2)
    ]
    random.Random(0).shuffle(shots)
    (_write_tfrecord if container == "tfrecord" else _write_parquet)(
        raw / "training", segment, shots, intrinsic, packed
    )
    return raw


def _jpeg(index: float) -> bytes:
    file = io.BytesIO()
    Image.fromarray(shared.picture(index)).save(file, "JPEG", quality=95)
    return file.getvalue()


def _write_parquet(folder: Path, segment: str, shots: list, intrinsic: tuple[float, ...], packed: bool) -> None:
    """The last row of the calibrations is of another segment."""
    transform = pyarrow.list_(pyarrow.float64(), 16)
    times, cameras, jpegs, poses = zip(*shots, strict=True)
    _write_table(
        folder / "camera_image" / f"{segment}.parquet",
        {
            "index": pyarrow.array([f"{segment};{t};{c}" for t, c in zip(times, cameras, strict=True)]),
            "key.segment_context_name": pyarrow.array([segment] * len(shots)),
            "key.frame_timestamp_micros": pyarrow.array(times, pyarrow.int64()),
            "key.camera_name": pyarrow.array(cameras, pyarrow.int8()),
            "[CameraImageComponent].image": pyarrow.array(jpegs, pyarrow.binary()),
            "[CameraImageComponent].pose.transform": pyarrow.array([p.ravel().tolist() for p in poses], transform),
            "[CameraImageComponent].pose_timestamp": pyarrow.array([t / 1e6 for t in times]),
        },
    )
    lenses = [(segment, 2, 99.0), (segment, 1, intrinsic[0]), ("another", 1, 99.0)]
    prefix = "[CameraCalibrationComponent]"
    _write_table(
        folder / "camera_calibration" / f"{segment}.parquet",
        {
            "key.segment_context_name": pyarrow.array([name for name, _, _ in lenses]),
            "key.camera_name": pyarrow.array([camera for _, camera, _ in lenses], pyarrow.int8()),
            f"{prefix}.intrinsic.f_u": pyarrow.array([focal for _, _, focal in lenses]),
            **{
                f"{prefix}.intrinsic.{name}": pyarrow.array([value] * len(lenses))
                for name, value in zip(NAMES[1:], intrinsic[1:], strict=True)
            },
            f"{prefix}.extrinsic.transform": pyarrow.array(
                [c2car(camera).ravel().tolist() for _, camera, _ in lenses], transform
            ),
            f"{prefix}.width": pyarrow.array([64] * len(lenses), pyarrow.int32()),
            f"{prefix}.height": pyarrow.array([48] * len(lenses), pyarrow.int32()),
        },
    )


def _write_table(path: Path, columns: dict[str, pyarrow.Array]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=4)


def _write_tfrecord(folder: Path, segment: str, shots: list, intrinsic: tuple[float, ...], packed: bool) -> None:
    """One record for each time, in the order in which `shots` have them first."""
    folder.mkdir(parents=True, exist_ok=True)
    calibrations = [
        _field(1, camera)
        + _doubles(2, (intrinsic[0] if camera == 1 else 99.0, *intrinsic[1:]), packed)
        + _field(3, _doubles(1, c2car(camera).ravel(), packed))
        + _field(4, 64)
        + _field(5, 48)
        for camera in (2, 1)
    ]
    context = _field(1, segment.encode()) + b"".join(_field(2, calibration) for calibration in calibrations)
    records = []
    for time in dict.fromkeys(time for time, *_ in shots):
        images = b"".join(
            _field(4, _image(time, camera, jpeg, pose, packed)) for at, camera, jpeg, pose in shots if at == time
        )
        frame_pose = _doubles(1, car2w(1000.0).ravel(), packed)
        lasers = _field(5, _field(1, 1) + _field(2, bytes(range(256)) * 4))
        records.append(_field(1, context) + _field(2, time) + _field(3, frame_pose) + lasers + images)
    path = folder / f"segment-{segment}_with_camera_labels.tfrecord"
    path.write_bytes(b"".join(map(record, records)))


def _image(time: int, camera: int, jpeg: bytes, pose: np.ndarray, packed: bool) -> bytes:
    pose_timestamp = b"\x29" + struct.pack("<d", time / 1e6)  # field 5, a double
    velocity = _field(4, b"\x0d" + struct.pack("<f", 5.0))  # a float inside
    return (
        _field(1, camera) + _field(2, jpeg) + _field(3, _doubles(1, pose.ravel(), packed)) + velocity + pose_timestamp
    )


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _doubles(number: int, values, packed: bool) -> bytes:
    encoded = [struct.pack("<d", value) for value in values]
    return _field(number, b"".join(encoded)) if packed else b"".join(_varint(number << 3 | 1) + v for v in encoded)


def _varint(value: int) -> bytes:
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    return bytes([*result, value])


def record(content: bytes) -> bytes:
    """A record of a TFRecord file."""
    length = struct.pack("<Q", len(content))
    return length + struct.pack("<I", _masked(length)) + content + struct.pack("<I", _masked(content))


def _masked(data: bytes) -> int:
    return ((_crc32c(data) >> 15 | _crc32c(data) << 17) + 0xA282EAD8) % 2**32


def _crc32c(data: bytes) -> int:
    """Bit by bit, by the definition."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF
