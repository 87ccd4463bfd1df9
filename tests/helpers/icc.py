"""ICC profiles of a few hundred bytes, enough for any reader."""

import struct

import numpy as np

D65, D50 = (0.3127, 0.3290), (0.3457, 0.3585)
PRIMARIES = {
    "Display P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    "Adobe RGB": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
    "ProPhoto": ((0.7347, 0.2653), (0.1596, 0.8404), (0.0366, 0.0001)),
}
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _xyz(x, y):
    return np.array([x / y, 1, (1 - x - y) / y])


def matrix_to_d50(primaries, white):
    """RGB in linear light to XYZ under D50, adapted as ICC wants it."""
    columns = np.stack([_xyz(*primary) for primary in primaries], 1)
    matrix = columns * np.linalg.solve(columns, _xyz(*white))
    scale = BRADFORD @ _xyz(*D50) / (BRADFORD @ _xyz(*white))
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ matrix


def _fixed(*values):
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


def _profile(space, connection, tags):
    tags = {b"desc": b"desc" + bytes(4) + struct.pack(">I", 5) + b"made\0" + bytes(78), **tags}
    offset, table, body = 132 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    header = struct.pack(">I4sI4s4s4s", offset + len(body), bytes(4), 0x02400000, b"mntr", space, connection)
    header += bytes(12) + b"acsp" + bytes(28) + _fixed(0.9642, 1, 0.8249)
    return header.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def _gamma(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def rgb_profile(primaries, white=D65, gamma=2.2):
    columns = matrix_to_d50(primaries, white).T
    tags = {
        name: b"XYZ " + bytes(4) + _fixed(*column)
        for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)
    }
    return _profile(b"RGB ", b"XYZ ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _gamma(gamma)))


def grey_profile(gamma):
    return _profile(b"GRAY", b"XYZ ", {b"kTRC": _gamma(gamma)})


def cmyk_profile(labs):
    """Of the colours of the 16 corners of the cube, black (K) turning fastest: `[16, 3]` of Lab, 8 bits each."""
    ramp = bytes(range(256))
    head = b"mft1" + bytes(4) + bytes((4, 3, 2, 0)) + _fixed(1, 0, 0, 0, 1, 0, 0, 0, 1)
    lut = head + ramp * 4 + np.asarray(labs, np.uint8).tobytes() + ramp * 3
    return _profile(b"CMYK", b"Lab ", {b"A2B0": lut})
