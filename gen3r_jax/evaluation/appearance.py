"""How like the true frames are the generated ones: PSNR, SSIM and LPIPS (Gen3R section 4.1, Tables 1, 6 and 9).

All take clips with values in [0, 1] and are means over the frames of what each frame scores.
"""

from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from flax import nnx
from jaxtyping import Array, Float

from gen3r_jax import module
from gen3r_jax.models.lpips import LPIPS
from gen3r_jax.ops import psnr as ops
from gen3r_jax.storage.checkpoint import load_network

_RADIUS, _SIGMA = 5, 1.5
_K1, _K2 = 0.01, 0.03


def psnr(predicted: Float[np.ndarray, "t h w 3"], target: Float[np.ndarray, "t h w 3"]) -> float:
    """Peak signal-to-noise ratio in dB, in float64; see :func:`gen3r_jax.ops.psnr.psnr`."""
    _require_pairs(predicted, target)
    return float(ops.psnr(np.asarray(predicted, np.float64), np.asarray(target, np.float64)))


def ssim(predicted: Float[np.ndarray, "t h w 3"], target: Float[np.ndarray, "t h w 3"]) -> float:
    """Structural similarity (Wang et al. 2004): a Gaussian window of 11 x 11 pixels, sigma 1.5; K1 0.01, K2 0.03.

    Mean over the channels and over the pixels whose window lies in the image, with the population's variances: what
    scikit-image computes as ``structural_similarity(x, y, channel_axis=-1, data_range=1, gaussian_weights=True,
    sigma=1.5, use_sample_covariance=False)``. torchmetrics, which Gen3R's requirements name, also counts windows that
    reach over the border: its number is that of frames padded by 5 reflected pixels (``numpy.pad(..., "reflect")``).
    Frames need at least 11 pixels a side.
    """
    _require_pairs(predicted, target)
    if min(target.shape[1:3]) <= 2 * _RADIUS:
        raise ValueError(f"frames of {target.shape[1]} x {target.shape[2]} pixels are smaller than SSIM's window")
    return float(np.mean([_ssim(*pair) for pair in _float32_pairs(predicted, target)], dtype=np.float64))


@jax.jit
def _ssim(x: Float[Array, "h w 3"], y: Float[Array, "h w 3"]) -> Float[Array, ""]:
    # Around the middle grey, where squares are smaller: float32 then keeps enough digits of the variances.
    x, y = x - 0.5, y - 0.5
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = map(_window_means, (x, y, x * x, y * y, x * y))
    variances = (mean_xx - mean_x**2) + (mean_yy - mean_y**2)
    covariance = mean_xy - mean_x * mean_y
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    luminance = (2 * mean_x * mean_y + _K1**2) / (mean_x**2 + mean_y**2 + _K1**2)
    return jnp.mean(luminance * (2 * covariance + _K2**2) / (variances + _K2**2))


def _window_means(x: Float[Array, "h w c"]) -> Float[Array, "y x c"]:
    weights = np.exp(-0.5 * (np.arange(-_RADIUS, _RADIUS + 1) / _SIGMA) ** 2)
    weights = (weights / weights.sum()).tolist()
    for axis in (0, 1):
        size = x.shape[axis] - 2 * _RADIUS
        x = reduce(add, (w * jax.lax.slice_in_dim(x, i, i + size, axis=axis) for i, w in enumerate(weights)))
    return x


@dataclass(frozen=True)
class Lpips:
    """LPIPS 0.1 with weights: ``lpips(predicted, target)`` is the mean distance of the frames; 0: equal.

    Attributes:
      backbone: ``vgg`` or ``alex``. Their numbers differ, and the paper does not say which it reports; torchmetrics
        takes ``alex`` unless told otherwise.
    """

    graphdef: nnx.GraphDef
    params: module.Params
    backbone: str

    @classmethod
    def of(cls, network: LPIPS) -> Self:
        return cls(*module.split(network), network.config.backbone)

    def __call__(self, predicted: Float[np.ndarray, "t h w 3"], target: Float[np.ndarray, "t h w 3"]) -> float:
        _require_pairs(predicted, target)
        pairs = _float32_pairs(predicted, target)  # a frame at a time bounds the memory
        return float(np.mean([_lpips((self.graphdef, self.params), *pair) for pair in pairs], dtype=np.float64))


def load_lpips(path: epath.PathLike) -> Lpips:
    """Reads the folder that ``gen3r convert lpips`` writes. Raises UserError as :func:`load_network` does."""
    return Lpips.of(module.merge(*load_network(path, LPIPS, dtype=jnp.float32)))


@jax.jit
def _lpips(network: Any, x: Float[Array, "h w 3"], y: Float[Array, "h w 3"]) -> Float[Array, ""]:
    return module.merge(*network)(x[None], y[None])[0]


def _float32_pairs(predicted: np.ndarray, target: np.ndarray) -> Any:
    return ((np.asarray(x, np.float32), np.asarray(y, np.float32)) for x, y in zip(predicted, target, strict=True))


def _require_pairs(predicted: np.ndarray, target: np.ndarray) -> None:
    if predicted.shape != target.shape:
        raise ValueError(f"predicted frames {predicted.shape} and true frames {target.shape} do not pair up")
    if not all(np.issubdtype(x.dtype, np.floating) for x in (predicted, target)):
        raise ValueError(f"frames are numbers in [0, 1], not {predicted.dtype} and {target.dtype}; divide by 255")
