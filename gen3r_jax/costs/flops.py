"""How much a function computes: multiplications and additions of its matrix products and convolutions.

The compiler's own count takes the body of a loop once and knows nothing of fused kernels; this one walks the traced
program.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(function: Callable, *arguments: Any) -> int:
    """Floating-point operations of ``function(*arguments)``; arrays may be ShapeDtypeStructs.

    A multiply-add counts as two, and what a backward pass computes again counts again. Loops count as often as they run
    where that is known (scans), else once; of a condition's branches the dearest counts. Element-wise work, a few
    percent, does not count. Of what devices share it is the sum over all of them, without what the compiler may choose
    to do on every device.
    """
    return count_traced(jax.make_jaxpr(function)(*arguments))


def count_traced(program: ClosedJaxpr) -> int:
    """:func:`count_flops` of what has been traced, ``jitted.trace(*arguments).jaxpr``."""
    return _count(program.jaxpr)


def _shapes(variables: Sequence[Any]) -> list[tuple[int, ...]]:
    return [getattr(variable.aval, "shape", ()) for variable in variables]


def _count(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, parameters = equation.primitive.name, equation.params
        shapes, results = (_shapes(variables) for variables in (equation.invars, equation.outvars))
        if name == "dot_general":
            (contracted, _), _ = parameters["dimension_numbers"]
            summed = math.prod(shapes[0][axis] for axis in contracted)
            total += 2 * math.prod(results[0]) * summed
        elif name == "conv_general_dilated":
            total += _convolution(shapes[0], shapes[1], results[0], parameters)
        elif "dot_product_attention" in name:  # cuDNN's, [b q k d] and [b n k d]: 2 products, and 5 backward
            total += (10 if "bwd" in name else 4) * math.prod(shapes[0]) * shapes[1][1]
        elif name == "cond":
            total += max(_count(branch.jaxpr) for branch in parameters["branches"])
        else:
            total += _runs(name, parameters) * sum(_count(part) for part in _parts(parameters))
    return total


def _runs(name: str, parameters: dict[str, Any]) -> int:
    """How often an equation runs the programs in it, on all devices."""
    if name == "scan":
        return parameters["length"]
    if name == "shard_map":  # its shapes are those of one device
        return math.prod(parameters["mesh"].shape[axis] for axis in parameters["newly_manual_axes"])
    if name == "pallas_call":  # its shapes are those of one block
        return math.prod(parameters["grid_mapping"].grid)
    return 1


def _convolution(inputs: tuple[int, ...], kernel: tuple[int, ...], outputs: tuple[int, ...], parameters: Any) -> int:
    """Without products with padding and with the zeros between the gradients of a convolution with strides."""
    layout = parameters["dimension_numbers"]
    total = 2 * outputs[layout.out_spec[0]] * outputs[layout.out_spec[1]] * kernel[layout.rhs_spec[1]]
    steps = (parameters[name] for name in ("window_strides", "padding", "lhs_dilation", "rhs_dilation"))
    axes = (layout.lhs_spec[2:], layout.rhs_spec[2:], layout.out_spec[2:])
    for i, k, o, stride, (before, _), spread, gap in zip(*axes, *steps, strict=True):
        places = (row * stride + tap * gap - before for row in range(outputs[o]) for tap in range(kernel[k]))
        total *= sum(place % spread == 0 and 0 <= place // spread < inputs[i] for place in places)
    return total


def _parts(parameters: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in parameters.values():
        if isinstance(value, ClosedJaxpr):
            yield value.jaxpr
        elif isinstance(value, Jaxpr):
            yield value
