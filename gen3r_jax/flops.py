"""How much a function computes: multiplications and additions of its matrix products and convolutions.

The compiler's own count takes the body of a loop once and knows nothing of fused kernels; this one walks the traced
program.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(function: Callable, *arguments: Any) -> int:
    """Floating-point operations of ``function(*arguments)``; arrays may be ShapeDtypeStructs.

    A multiply-add counts as two. Loops count as often as they run where that is known (scans), else once; of a
    condition's branches the dearest counts. Element-wise work, a few percent, does not count.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        shapes = [getattr(variable.aval, "shape", ()) for variable in equation.invars]
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            summed = math.prod(shapes[0][axis] for axis in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * summed
        elif name == "conv_general_dilated":
            outputs = shapes[1][parameters["dimension_numbers"].rhs_spec[0]]
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[1]) // outputs
        elif "dot_product_attention" in name:  # cuDNN's, [b q k d] and [b n k d]
            total += 4 * math.prod(shapes[0]) * shapes[1][1]
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in parameters["branches"])
        else:
            inner = sum(_count(part) for part in _parts(parameters))
            total += inner * (parameters["length"] if name == "scan" else 1)
    return total


def _parts(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in parameters.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
