"""TFRecord files and the proto2 messages in them, as far as they have to be understood to find a few fields.

A file is a sequence of records: the length of the content (8 bytes, little endian), a checksum of these 8 bytes (4),
the content, a checksum of the content (4). Files are mapped into memory and messages are cut, not copied: of a segment
of Waymo Open, which is nearly all lidar, only what is asked for is ever read from disk. That is also why the checksum
of the content is not checked; the one of the length is, as all that follows would be misread.
"""

import mmap
import struct
from collections import defaultdict
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from gen3r_jax.errors import UserError

_HEADER = struct.Struct("<QI")
_FOOTER_BYTES = 4
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


_CRC_OF_BYTE = [_crc_of_byte(value) for value in range(256)]


def masked_crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli), turned and shifted as TFRecord wants it. Byte by byte: for a few bytes only."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC_OF_BYTE[(crc ^ byte) & 0xFF] ^ crc >> 8
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def map_records(path: Path) -> tuple[list[memoryview], bool]:
    """The contents of a file's whole records, and whether they are all of the file.

    The rest of a file that was cut short, or whose lengths are damaged, is left out. Raises UserError for a file
    without one whole record.
    """
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty")
    with path.open("rb") as file:
        data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    records, at = [], 0
    while at + _HEADER.size <= len(data):
        length, checksum = _HEADER.unpack_from(data, at)
        if checksum != masked_crc32c(bytes(data[at : at + 8])):
            if not records:
                raise UserError(f"{path} is not a TFRecord file (or it is compressed, or damaged at its start)")
            break
        start, end = at + _HEADER.size, at + _HEADER.size + length
        if end + _FOOTER_BYTES > len(data):
            break
        records.append(data[start:end])
        at = end + _FOOTER_BYTES
    if not records:
        raise UserError(f"{path} ends inside its first record: it was cut short")
    return records, at == len(data)


Kind = TypeVar("Kind", int, memoryview)


class Message:
    """The fields of an encoded proto2 message by their numbers; those nobody asks for are stepped over.

    Every method raises UserError where the message does not hold what it is asked for, the constructor where the bytes
    are not a message.
    """

    def __init__(self, data: memoryview):
        self._fields: dict[int, list[int | memoryview]] = defaultdict(list)
        at = 0
        while at < len(data):
            key, at = _varint(data, at)
            kind = key & 7
            if kind == _VARINT:
                value, at = _varint(data, at)
            else:
                if kind == _BYTES:
                    size, at = _varint(data, at)
                elif kind in (_FIXED64, _FIXED32):
                    size = 8 if kind == _FIXED64 else 4
                else:
                    raise UserError("the bytes are not a proto2 message")
                if at + size > len(data):
                    raise UserError("a proto2 message is cut short")
                value, at = data[at : at + size], at + size
            self._fields[key >> 3].append(value)

    def integer(self, field: int) -> int:
        return self._last(field, int)

    def content(self, field: int) -> memoryview:
        return self._last(field, memoryview)

    def message(self, field: int) -> "Message":
        return Message(self.content(field))

    def messages(self, field: int) -> list["Message"]:
        """The values of a repeated field; none where there are none."""
        return [Message(value) for value in self._all(field)]

    def doubles(self, field: int) -> Float[np.ndarray, "count"]:
        """The values of a repeated double, each for itself or packed: both are a row of 8 bytes each."""
        data = b"".join(self._all(field))
        if len(data) % 8:
            raise UserError(f"field {field} of a proto2 message is not made of doubles")
        return np.frombuffer(data, "<f8")

    def _all(self, field: int) -> list[memoryview]:
        values = self._fields.get(field, [])
        contents = [value for value in values if not isinstance(value, int)]
        if len(contents) < len(values):
            raise UserError(f"field {field} of a proto2 message is a number")
        return contents

    def _last(self, field: int, kind: type[Kind]) -> Kind:
        """What readers of proto2 take where a field that is not repeated comes several times: the last."""
        values = self._fields.get(field)
        if not values or not isinstance(values[-1], kind):
            raise UserError(f"a proto2 message has no field {field}, or one of another type")
        return values[-1]


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """An integer in groups of 7 bits, lowest first, and where it ends."""
    value = 0
    for shift, byte in enumerate(data[at : at + 10]):
        value |= (byte & 0x7F) << 7 * shift
        if byte < 0x80:
            return value, at + shift + 1
    raise UserError("a proto2 message is cut short")
