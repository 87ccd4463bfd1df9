"""Depth maps as other programs write them, for the frames of a clip that are used."""

import numpy as np
import pytest
from PIL import Image

from gen3r_jax.data.depth_maps import read_depth_maps
from gen3r_jax.errors import UserError

DEPTH = np.arange(1, 1 + 3 * 8 * 12, dtype=np.float32).reshape(3, 8, 12) / 8


def _write(folder, form):
    """Three maps; what names them."""
    if form in ("npz", "npy of all"):
        path = folder / f"depth.{form[:3]}"
        np.savez(path, depth=DEPTH) if form == "npz" else np.save(path, DEPTH)
        return [path]
    for number, one in enumerate(DEPTH):
        if form == "npy":
            np.save(folder / f"{number}.npy", one)
        else:
            one = np.uint16(1000 * one) if form == "png" else one
            Image.fromarray(one).save(folder / f"{number}.{form}")
    return [folder]


@pytest.mark.parametrize("form", ["npz", "npy of all", "npy", "tif", "png"])
def test_every_form_gives_the_same(tmp_path, form):
    """For the first and the last of three frames, cropped to a square."""
    found = read_depth_maps(_write(tmp_path, form), [0, 2], 3, [(8, 12)] * 2, (8, 8), 1000)
    np.testing.assert_array_equal(found, DEPTH[[0, 2], :, 2:10])


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"no map", "cannot read .*0.npy"), (np.ones((8, 8)), "its picture is 12 x 8")],
)
def test_maps_that_are_no_maps(tmp_path, content, message):
    path = tmp_path / "0.npy"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        np.save(path, content)
    with pytest.raises(UserError, match=message):
        read_depth_maps([path], [0], 1, [(8, 12)], (8, 8), 1000)
