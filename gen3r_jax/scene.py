"""The result of a reconstruction or a generation, as exporters and metrics take it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8


@dataclass(frozen=True)
class Scene:
    """Frames with their geometry, in NumPy. Cameras are OpenCV (x right, y down, z forward); lengths share one unit.

    Attributes:
      rgb: colours.
      depth: distance along each camera's optical axis.
      confidence: of the depth, at least 1 and unbounded above (VGGT's ``1 + exp``); 0 where nothing is known, as where
        a picture is transparent.
      w2c: world-to-camera matrices; the world is the first camera's frame unless stated otherwise.
      intrinsics: pinhole matrices in pixels of these frames.
      points: world coordinates of what every pixel's centre (+0.5) shows.
      prompt: the text the scene was made from, if any.
      agreement: at each pixel, from 0 to 1, how far two readings of the depth agree; None where there was one.

    Raises:
      ValueError: an array has the wrong type or shape, or the arrays do not belong together.
    """

    rgb: UInt8[np.ndarray, "t h w 3"]
    depth: Float32[np.ndarray, "t h w"]
    confidence: Float32[np.ndarray, "t h w"]
    w2c: Float32[np.ndarray, "t 4 4"]
    intrinsics: Float32[np.ndarray, "t 3 3"]
    points: Float32[np.ndarray, "t h w 3"]
    prompt: str = ""
    agreement: Float32[np.ndarray, "t h w"] | None = None

    def __post_init__(self):
        if np.ndim(self.rgb) != 4 or np.size(self.rgb) == 0:
            raise ValueError(f"a scene's rgb needs the shape [t, h, w, 3], not {list(np.shape(self.rgb))}")
        t, h, w, _ = self.rgb.shape
        wanted = {
            "rgb": (np.uint8, (t, h, w, 3)),
            "depth": (np.float32, (t, h, w)),
            "confidence": (np.float32, (t, h, w)),
            "w2c": (np.float32, (t, 4, 4)),
            "intrinsics": (np.float32, (t, 3, 3)),
            "points": (np.float32, (t, h, w, 3)),
        }
        if self.agreement is not None:
            wanted["agreement"] = (np.float32, (t, h, w))
        for name, (dtype, shape) in wanted.items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
                given = f"{getattr(array, 'dtype', type(array).__name__)} {list(np.shape(array))}"
                raise ValueError(f"a scene's {name} needs to be {np.dtype(dtype)} {list(shape)}, not {given}")
