"""Colours in, sRGB out: ICC profiles of pictures, matrices, transfer curves and gamuts of videos."""

import io
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter
from jaxtyping import Float32, UInt8
from PIL import Image, ImageCms

from gen3r_jax.errors import notice

Picture = UInt8[np.ndarray, "h w 3"]

# Code points of ITU-T H.273.
BT709, UNSPECIFIED, BT601, BT2020, PQ, HLG, DISPLAY_P3 = 1, 2, 5, 9, 16, 18, 12

SDR_WHITE = 203.0
"""Nits of diffuse white in HDR video (ITU-R BT.2408)."""
HDR_PEAK = 1000.0
"""Nits that become the brightest white: the nominal peak of HLG and of most PQ masters."""
KNEE = 0.75
"""Linear light, where white is 1, above which highlights are compressed."""

TO_BT709 = {  # of linear light; the white is D65 in all of them
    BT2020: ((1.66049, -0.58764, -0.07285), (-0.12455, 1.13290, -0.00835), (-0.01815, -0.10058, 1.11873)),
    DISPLAY_P3: ((1.22494, -0.22494, 0.0), (-0.04206, 1.04206, 0.0), (-0.01964, -0.07864, 1.09827)),
}

EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
"""Without the last two swscale's results are up to three levels off the formula, and darker on average."""


def to_srgb(image: Image.Image, name: object) -> Image.Image:
    """Converts a picture without alpha to sRGB as its embedded ICC profile says.

    A picture without a profile, and one whose profile is sRGB, is returned as it is. A profile that is damaged or of
    other channels than the picture's is told and ignored.
    """
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    try:
        mode, transform = _icc_transform(profile)
        if mode not in (image.mode, "RGB") or (image.mode, mode) == ("CMYK", "RGB"):
            raise ValueError(f"it is for {mode}, the picture is {image.mode}")
    except (ImageCms.PyCMSError, ValueError, OSError) as error:
        notice(f"{name}: its ICC colour profile is ignored: {error}", kind="bad ICC profile")
        return image
    if transform is None:
        return image
    described = " ".join(ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(profile))).split())
    notice(f"{name}: colours are converted from {described or 'its ICC profile'} to sRGB", kind="ICC profile")
    return transform.apply(image.convert(mode))


@lru_cache(maxsize=32)
def _icc_transform(profile: bytes) -> tuple[str, ImageCms.ImageCmsTransform | None]:
    """The mode that a profile is for, and its conversion to sRGB; None where that changes no colour by over a level."""
    source: Any = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    if space not in ("RGB", "GRAY", "CMYK"):
        raise ValueError(f"profiles of {space} pictures are not known")
    mode = {"GRAY": "L"}.get(space, space)
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return mode, transform
    levels = np.arange(256, dtype=np.uint8)
    probe = levels[None] if mode == "L" else np.stack(np.meshgrid(*[levels[::17]] * 3), -1).reshape(64, 64, 3)
    expected = np.asarray(Image.fromarray(probe).convert("RGB"), int)
    changed = np.abs(np.asarray(transform.apply(Image.fromarray(probe)), int) - expected).max() > 1
    return mode, transform if changed else None


class FrameColours:
    """Turns the decoded frames of one video into sRGB pictures of the shown shape; `name` stands in notices."""

    def __init__(self, name: object):
        self._name, self._reformatter = name, VideoReformatter()

    def __call__(self, frame: av.VideoFrame, width: int) -> Picture:
        """The frame, `width` pixels wide. High dynamic range (PQ, HLG) is tone mapped, wide gamuts are cut to sRGB."""
        if any(component.is_alpha for component in frame.format.components):
            notice(f"{self._name}: its transparency is dropped", kind="video alpha")
        hdr = frame.color_trc in (PQ, HLG)
        if not hdr and frame.color_primaries not in TO_BT709:
            return np.ascontiguousarray(self._planes(frame, width, "gbrp"))
        signal = self._planes(frame, width, "gbrp12le")
        if hdr:
            kind = {PQ: "PQ", HLG: "HLG"}[frame.color_trc]
            notice(f"{self._name}: {kind} video of high dynamic range is tone mapped to sRGB", kind="HDR video")
        light = _linear_table(frame.color_trc)[signal] @ np.array(TO_BT709[_primaries(frame)], np.float32).T
        return _encode(_compress_highlights(light) if hdr else light)

    def _planes(self, frame: av.VideoFrame, width: int, format: str) -> np.ndarray:
        """The frame as R'G'B' by the exact formula of its matrix and range, `[h, w, 3]`."""
        matrix, full = _matrix(frame), _is_full_range(frame)
        converted = self._reformatter.reformat(
            frame,
            width=width,
            format=format,
            src_colorspace=matrix,
            dst_colorspace=matrix,
            src_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
            dst_color_range=ColorRange.JPEG,
            interpolation=EXACT,
        )
        return converted.to_ndarray()


def _matrix(frame: av.VideoFrame) -> int:
    """The frame's matrix. Frames that do not say have BT.2020's in HDR, BT.709's in HD and BT.601's below, as players
    take it."""
    if frame.colorspace != UNSPECIFIED:
        return frame.colorspace
    if frame.color_trc in (PQ, HLG):
        return BT2020
    return BT709 if frame.width >= 1280 or frame.height > 576 else BT601


def _is_full_range(frame: av.VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj") or frame.format.is_rgb


def _primaries(frame: av.VideoFrame) -> int:
    return frame.color_primaries if frame.color_primaries in TO_BT709 else BT2020


@lru_cache(maxsize=3)
def _linear_table(transfer: int) -> Float32[np.ndarray, "4096"]:
    """12-bit signals as linear light, where diffuse white is 1.

    PQ is SMPTE ST 2084; HLG is ITU-R BT.2100 with its system gamma of 1.2 on each channel, as FFmpeg's zscale has it;
    anything else is shown and written on the same screen, so sRGB's curve serves there and back.
    """
    signal = np.linspace(0, 1, 4096)
    if transfer == PQ:
        m1, m2, c1, c2, c3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
        root = signal ** (1 / m2)
        light = (np.maximum(root - c1, 0) / (c2 - c3 * root)) ** (1 / m1) * 10_000 / SDR_WHITE
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
        light = scene**1.2 * HDR_PEAK / SDR_WHITE
    else:
        light = np.where(signal <= 0.04045, signal / 12.92, ((signal + 0.055) / 1.055) ** 2.4)
    return light.astype(np.float32)


def _compress_highlights(light: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """Brings HDR_PEAK down to 1 by Reinhard's extended curve above KNEE; the ratios of the channels are kept."""
    brightest = light.max(-1, keepdims=True)
    above = np.maximum(brightest - KNEE, 0) / (1 - KNEE)
    peak = (HDR_PEAK / SDR_WHITE - KNEE) / (1 - KNEE)
    compressed = KNEE + (1 - KNEE) * above * (1 + above / peak**2) / (1 + above)
    return np.where(brightest > KNEE, light * (compressed / np.maximum(brightest, KNEE)), light)


def _encode(light: Float32[np.ndarray, "h w 3"]) -> Picture:
    return _srgb_table()[np.rint(np.clip(light, 0, 1) * 65535).astype(np.uint16)]


@lru_cache(maxsize=1)
def _srgb_table() -> UInt8[np.ndarray, "65536"]:
    light = np.linspace(0, 1, 65536)
    signal = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.rint(signal * 255).astype(np.uint8)
