"""Pixels of an opened picture as they should be seen: upright, in 8-bit sRGB, on white where they are transparent."""

from functools import lru_cache
from warnings import filterwarnings

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from gen3r_jax.data.colour import Picture, to_srgb
from gen3r_jax.errors import notice, one_line

Mask = Bool[np.ndarray, "h w"]

MOST_PIXELS = 300_000_000
"""Larger pictures are refused."""
FULL_PIXELS = 64_000_000
"""Larger pictures are halved, once or more often, while they are decoded."""

Image.MAX_IMAGE_PIXELS = MOST_PIXELS // 2  # Pillow warns above it and refuses above twice as many
filterwarnings("ignore", category=Image.DecompressionBombWarning)

TURNS = {  # by the value of EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
INVERSE = {6: 8, 8: 6}  # the other turns undo themselves


def decode(file: Image.Image, name: object, upright: bool) -> tuple[Picture, Mask | None]:
    """The pixels of a picture, and where it is at least half opaque; None where it is so everywhere.

    Raises nearly anything for damaged files; `name` is what notices call the picture.
    """
    full_size = file.size
    shrink = 1
    while full_size[0] * full_size[1] > FULL_PIXELS * shrink**2:
        shrink *= 2
    if shrink > 1:
        file.draft(None, (full_size[0] // shrink, full_size[1] // shrink))  # JPEG decodes fewer pixels, others all
    stored = orientation(file, name)
    file.load()
    left = orientation(file, name)  # Pillow turns TIFFs itself
    image = _in_eight_bits(file, name)
    if shrink > 1:
        if image.size == full_size:
            image = image.reduce(shrink)
        kept = f"{image.width} x {image.height}"
        notice(f"{name}: its {full_size[0]} x {full_size[1]} pixels are shrunk to {kept}", kind="huge picture")
    turn = left if upright else INVERSE.get(stored, stored) if left != stored else 1
    if turn in TURNS:
        image = image.transpose(TURNS[turn])
    if not image.has_transparency_data:
        return np.array(_opaque(image, name)), None
    alpha = image.convert("RGBA").getchannel("A")
    picture = _opaque(image.convert("L" if image.mode in ("L", "LA") else "RGB"), name)
    if alpha.getextrema() == (255, 255):
        return np.array(picture), None
    mask = np.array(alpha) >= 128
    notice(f"{name}: transparent pixels ({1 - mask.mean():.0%} of the picture) are shown on white", kind="alpha")
    return np.array(Image.composite(picture, Image.new("RGB", picture.size, "white"), alpha)), mask


def orientation(file: Image.Image, name: object) -> int:
    """EXIF's tag of how a picture is to be turned, 1 where it says nothing."""
    try:
        return file.getexif().get(0x0112, 1)
    except Exception as error:  # of all that may stand in a tag
        notice(f"{name}: its EXIF tags are ignored: {one_line(error)}", kind="bad EXIF")
        return 1


def _in_eight_bits(file: Image.Image, name: object) -> Image.Image:
    """The picture with 8 bits a channel, and without a palette."""
    if file.mode == "F":
        raise ValueError("its pixels are floating-point numbers; convert it to 8 or 16 bits")
    if file.mode in ("P", "PA"):
        return file.convert("RGBA" if file.has_transparency_data else "RGB")
    if file.mode == "1":
        return file.convert("L")
    if not file.mode.startswith("I"):
        return file
    values = np.asarray(file)
    if values.dtype.itemsize == 4:
        values = _in_sixteen_bits(values, file, name)
    image = Image.fromarray(_sixteen_to_eight_bits()[values])
    image.info = {key: value for key, value in file.info.items() if key != "transparency"}
    return image


def _in_sixteen_bits(values: np.ndarray, file: Image.Image, name: object) -> UInt8[np.ndarray, "h w"]:
    """32-bit numbers as 16-bit ones. No rule says what of their range a picture uses: its largest value has to tell."""
    unsigned = getattr(file, "tag_v2", {}).get(339, (1,))[0] == 1  # TIFF's SampleFormat
    values = values.astype(np.uint32 if unsigned else np.int64)
    bits = next(bits for bits in (8, 16, 32 if unsigned else 31) if values.max() < 1 << bits)
    notice(f"{name}: its 32-bit pixels need no more than {bits} bits and are taken as such", kind="32-bit picture")
    return np.rint(np.clip(values, 0, None) * (65535 / ((1 << bits) - 1))).astype(np.uint16)


@lru_cache(maxsize=1)
def _sixteen_to_eight_bits() -> UInt8[np.ndarray, "65536"]:
    return np.rint(np.arange(65536) / 257).astype(np.uint8)


def _opaque(image: Image.Image, name: object) -> Image.Image:
    """A picture without alpha as sRGB."""
    if image.mode == "CMYK" and not image.info.get("icc_profile"):
        notice(f"{name}: it has CMYK colours without a profile; they are only roughly converted", kind="CMYK")
    image = to_srgb(image, name)
    return image if image.mode == "RGB" else image.convert("RGB")
