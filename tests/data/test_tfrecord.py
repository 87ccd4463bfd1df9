"""Reading TFRecord files and proto2 messages."""

import pytest

from gen3r_jax.data.prepare.tfrecord import Message, map_records, masked_crc32c
from gen3r_jax.errors import UserError
from tests.helpers.raw_sets import waymo


def test_checksums_of_the_standard():
    """RFC 3720, appendix B.4, and the check value of CRC-32C, masked."""
    for data, crc in ((b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43)):
        assert masked_crc32c(data) == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


def test_a_damaged_length_ends_a_record_file(tmp_path):
    good = waymo.record(b"one") + waymo.record(b"two")
    file = tmp_path / "x.tfrecord"
    file.write_bytes(good + b"\x07" + waymo.record(b"three")[1:])
    records, whole = map_records(file)
    assert [bytes(content) for content in records] == [b"one", b"two"] and not whole
    file.write_bytes(good)
    assert map_records(file)[1]


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # a length is announced, but does not follow
        b"\x0a\x05abc",  # shorter than announced
        b"\x08\xff\xff",  # an integer that does not end
        b"\x08" + b"\xff" * 11,  # or is longer than any
        b"\x0b\x01",  # a group, which proto2 has no more
    ],
)
def test_damaged_messages(data):
    with pytest.raises(UserError, match="proto2 message"):
        Message(memoryview(data))


def test_fields_of_another_type():
    message = Message(memoryview(b"\x08\x05\x12\x03abc"))
    assert message.integer(1) == 5 and bytes(message.content(2)) == b"abc"
    for ask in (
        lambda: message.content(1), lambda: message.integer(2), lambda: message.integer(3),
        lambda: message.doubles(1), lambda: message.doubles(2),
    ):  # fmt: skip
        with pytest.raises(UserError, match="proto2 message"):
            ask()
    assert message.doubles(3).size == 0 and message.messages(3) == []
