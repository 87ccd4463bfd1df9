"""Which steps may take over the velocity of the step before ("Timestep Embedding Tells: It's Time to Cache", TeaCache).

What the network gives changes slowly where what the timestep does to it changes slowly; that is known before sampling.
"""

import numpy as np
from jaxtyping import Bool, Float

# From the relative change of the modulation to that of the output; TeaCache fitted it for Wan 2.1 with 1.3B parameters.
_OUTPUT_CHANGE = (-5.21862437e4, 9.23041404e3, -5.28275948e2, 1.36987616e1, -4.99875664e-2)


def evaluated_steps(modulations: Float[np.ndarray, "n *m"], threshold: float) -> Bool[np.ndarray, " n"]:
    """True where the network is run. The others take over, until the expected change adds up to `threshold`.

    Args:
      modulations: what each step's timestep makes of the transformer's modulation.
      threshold: 0 runs every step; 0.1 to 0.2 are usual. The first and the last step are always run.
    """
    evaluated = np.ones(len(modulations), bool)
    change = 0.0
    for i in range(1, len(modulations) - 1):
        before, now = modulations[i - 1], modulations[i]
        relative = np.abs(now - before).mean() / np.abs(before).mean()
        change += max(0.0, float(np.polyval(_OUTPUT_CHANGE, relative)))
        evaluated[i] = change >= threshold
        if evaluated[i]:
            change = 0.0
    return evaluated
