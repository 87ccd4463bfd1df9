"""How far apart two sets of latents are, which the Kullback-Leibler term of the adapter's training should lessen."""

import numpy as np
from jaxtyping import Float


def frechet_distance(a: Float[np.ndarray, "n c"], b: Float[np.ndarray, "m c"]) -> float:
    """Squared Fréchet distance of the normal distributions with the mean and covariance of two sets of vectors.

    ``|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2))``, in squared units of the vectors. Each set needs two at least.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    first, second = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # A B has the eigenvalues of A^(1/2) B A^(1/2), which is symmetric: they are real and not negative.
    values, vectors = np.linalg.eigh(first)
    root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
    overlap = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ second @ root), 0)).sum()
    return float(np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(first) + np.trace(second) - 2 * overlap)
