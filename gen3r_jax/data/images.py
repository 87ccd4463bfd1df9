"""Pictures in, 8-bit RGB out: image files of any kind, and what a user names as frames."""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple
from warnings import filterwarnings

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from gen3r_jax.data.colour import Picture, to_srgb
from gen3r_jax.data.video import VIDEO_SUFFIXES, Video, is_video
from gen3r_jax.errors import UserError, notice, one_line
from gen3r_jax.geometry.camera_files.orientation import UPRIGHT, StoredPicture, stored_as
from gen3r_jax.storage.files import natural_key

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")

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


def read_image(source: Path | bytes | Image.Image, upright: bool = True) -> Picture:
    """Reads an image file (or its bytes, or a PIL image) as it should be seen, in 8-bit sRGB.

    Grey and palette images are expanded, 16 and 32 bits scaled to 8, embedded colour profiles converted, transparent
    pixels shown on white, and pictures of more than FULL_PIXELS shrunk. What changes the picture is told once.

    Args:
      upright: whether EXIF's orientation is followed. Poses that were found on the pixels as they are stored need them
        as they are stored.

    Raises UserError for anything that cannot be decoded whole, floating-point pixels and more than MOST_PIXELS.
    """
    return read_image_and_mask(source, upright)[0]


def read_posed_image(source: Path | bytes, camera_size: Sequence[float] | None = None) -> Picture:
    """Reads an image file (or its bytes) whose pose was found on the pixels as they are stored: EXIF does not turn it.

    Args:
      camera_size: height and width that its camera is for. A picture that fits them only as EXIF turns it is turned.
    """
    picture = read_orientation(source)
    as_shown = picture.as_shown(camera_size) if camera_size else False
    if as_shown is None and picture.tag != UPRIGHT:
        told = "EXIF turns it, and its size does not tell whether its pose is for the stored pixels, as is assumed"
        notice(f"{picture.name}: {told}", kind="EXIF of posed pictures")
    return read_image(source, upright=bool(as_shown))


def read_orientation(source: Path | bytes | Image.Image) -> StoredPicture:
    """The size of a picture, in any form as above, as it is stored, and how EXIF says that it is shown."""
    name = source if isinstance(source, Path) else "image"
    try:
        if isinstance(source, Image.Image):
            return _stored(source, name)
        with Image.open(_as_file(source)) as file:
            return _stored(file, name)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything, SyntaxError included
        raise UserError(f"cannot read {name}: {one_line(error)}") from None


def read_image_and_mask(source: Path | bytes | Image.Image, upright: bool = True) -> tuple[Picture, Mask | None]:
    """Reads an image like :func:`read_image`, and where it is at least half opaque; None where it is so everywhere."""
    name = source if isinstance(source, Path) else "image"
    try:
        if isinstance(source, Image.Image):
            return _decode(source, name, upright)
        with open_whole(source) as file:
            return _decode(file, name, upright)
    except FileNotFoundError:
        raise UserError(f"{name} does not exist") from None
    except Image.DecompressionBombError:
        raise UserError(f"{name} has over {MOST_PIXELS // 10**6} megapixels; shrink it and try again") from None
    except Exception as error:  # damaged files make Pillow raise nearly anything, SyntaxError included
        raise UserError(f"cannot read {name}: {one_line(error)}") from None


@contextmanager
def open_whole(source: Path | bytes) -> Iterator[Image.Image]:
    """Opens an image file or its bytes. Of a PNG all checksums are compared, which Pillow does not do by itself."""
    with Image.open(_as_file(source)) as file:
        if file.format == "PNG":
            file.verify()  # after which it cannot be read
    with Image.open(_as_file(source)) as file:
        yield file


def _as_file(source: Path | bytes) -> Path | io.BytesIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source


def _decode(file: Image.Image, name: object, upright: bool) -> tuple[Picture, Mask | None]:
    full_size = file.size
    shrink = 1
    while full_size[0] * full_size[1] > FULL_PIXELS * shrink**2:
        shrink *= 2
    if shrink > 1:
        file.draft(None, (full_size[0] // shrink, full_size[1] // shrink))  # JPEG decodes fewer pixels, others all
    stored = _orientation(file, name)
    file.load()
    left = _orientation(file, name)  # Pillow turns TIFFs itself
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


def _stored(file: Image.Image, name: object) -> StoredPicture:
    tag = _orientation(file, name)
    return StoredPicture(str(name), (file.height, file.width), tag if tag in TURNS else UPRIGHT)


def _orientation(file: Image.Image, name: object) -> int:
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


def encode_image(image: Picture, suffix: str = ".jpg", quality: int = 95) -> bytes:
    """Encodes an 8-bit RGB image as ``.jpg`` or ``.png``."""
    buffer = io.BytesIO()
    if suffix == ".png":
        Image.fromarray(image).save(buffer, "PNG")
    else:
        Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


def list_images(folder: Path) -> list[Path]:
    """The images of a folder in the order of their names, numbers counted as numbers (`2.png` before `10.png`)."""
    return sorted((path for path in folder.iterdir() if is_image(path)), key=natural_key)


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


class Clip(NamedTuple):
    """Frames that a user named.

    masks: where a picture is known, None where it is known everywhere.
    fps: how many of these frames a video shows in a second; None where they are not a row of a video's frames.
    stored: the first of them as its file stores it; None where no file is known.
    """

    frames: list[Picture]
    masks: list[Mask | None]
    fps: float | None
    stored: StoredPicture | None


def read_frames(
    inputs: Sequence[Path],
    num_frames: int | None = None,
    *,
    stride: int | None = None,
    first: int | None = None,
    at_most: int | None = None,
    at: Sequence[int] | None = None,
) -> list[Picture]:
    """The frames of :func:`read_clip` alone."""
    return read_clip(inputs, num_frames, stride=stride, first=first, at_most=at_most, at=at).frames


def read_clip(
    inputs: Sequence[Path],
    num_frames: int | None = None,
    *,
    stride: int | None = None,
    first: int | None = None,
    at_most: int | None = None,
    at: Sequence[int] | None = None,
) -> Clip:
    """Reads what a user names as frames: one video, one folder of images, or images in the given order.

    Where not all frames are read, a line on standard error tells which.

    Args:
      num_frames: how many to read; by default all there are, up to `at_most`.
      stride, first: read every `stride`-th from number `first` on. Without both the frames are spread evenly, from the
        first there is to the last.
      at: the numbers of those to read instead; -1 is the last. All are read where there are just as many.

    Returns:
      RGB images, whose sizes may differ. Raises UserError when there are fewer than asked for or one is unreadable.
    """
    inputs = [Path(path) for path in inputs]
    name = str(inputs[0]) if len(inputs) == 1 else f"{len(inputs)} images"

    def choose(available: int) -> Sequence[int]:
        chosen, how = _choose(name, available, num_frames, stride, first, at_most, at)
        if len(chosen) < available:
            notice(f"{name}: {len(chosen)} of {available} frames are used, {how}")
        return chosen

    if len(inputs) == 1 and not inputs[0].exists():
        raise UserError(f"{name} does not exist")
    if len(inputs) == 1 and is_video(inputs[0]):
        video = Video(inputs[0])
        chosen = choose(len(video))
        frames = video.read(chosen)
        whole = [frame for frame in frames if frame is not None]
        if len(whole) < len(frames):
            damaged = next(index for index, frame in zip(chosen, frames, strict=True) if frame is None)
            raise UserError(f"{name}: frame {damaged} is damaged; re-encode the video")
        shown = video.times[list(chosen)]
        fps = float((len(shown) - 1) / (shown[-1] - shown[0])) if at is None and len(shown) > 1 else None
        return Clip(whole, [None] * len(whole), fps, stored_as(name, whole[0].shape[:2], video.tag))
    files = inputs
    if len(inputs) == 1 and inputs[0].is_dir():
        files = list_images(inputs[0])
        if not files:
            raise UserError(f"{name} holds no images ({' '.join(IMAGE_SUFFIXES)})")
    for path in files:
        if path.exists() and not is_image(path):
            kinds = " ".join(IMAGE_SUFFIXES if len(files) > 1 else VIDEO_SUFFIXES + IMAGE_SUFFIXES)
            raise UserError(f"{path} is of a kind that cannot be read; known are {kinds}")
    chosen = choose(len(files))
    frames, masks = zip(*(read_image_and_mask(files[index]) for index in chosen), strict=True)
    return Clip(list(frames), list(masks), None, read_orientation(files[chosen[0]]))


def _choose(
    name: str,
    available: int,
    num_frames: int | None,
    stride: int | None,
    first: int | None,
    at_most: int | None,
    at: Sequence[int] | None,
) -> tuple[Sequence[int], str]:
    """The numbers of the frames that :func:`read_clip` reads, and which they are in words."""
    if at is not None and len(at) < available:
        require_frames(name, available, max(at) + 1)
        chosen = [index % available for index in at]
        return chosen, f"those with the numbers {' '.join(map(str, chosen[:9]))}{' ...' * (len(chosen) > 9)}"
    if at is None and (stride, first) != (None, None):
        stride, first = stride or 1, first or 0
        chosen = range(first, available, stride)
        how = f"{stride} apart from number {first} on"
        require_frames(name if len(chosen) == available else f"{name}, {how},", len(chosen), num_frames or 1)
        return chosen[: num_frames or at_most], how
    count = num_frames or min(available, at_most or available)
    require_frames(name, available, count)
    spread = [round(i * (available - 1) / max(count - 1, 1)) for i in range(count)]
    return spread, "spread evenly from the first to the last; --stride and --first choose others"


def require_choice(stride: int | None, first: int | None) -> None:
    """Raises UserError for numbers that no frames can be chosen by."""
    if stride is not None and stride < 1:
        raise UserError(f"--stride {stride} is not a positive number")
    if first is not None and first < 0:
        raise UserError(f"--first {first} is negative; frames are numbered from 0")


def require_frames(name: object, available: int, needed: int | None) -> None:
    if needed is not None and available < needed:
        raise UserError(f"{name} has {available} frames, {needed} are needed: ask for fewer or give more")
