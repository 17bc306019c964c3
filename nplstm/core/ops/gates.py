"""The four gates of an LSTM: activations from pre-activations, and the gradient back.

Four blocks of H columns, side by side in the order i, f, g, o::

    i, f, o = sigmoid(a_i), sigmoid(a_f), sigmoid(a_o)        g = tanh(a_g)
"""

from nplstm._typing import Array
from nplstm.backends import namespace


def split_gates(gates: Array) -> tuple[Array, Array, Array, Array]:
    """Return views of the blocks i, f, g, o, each (..., H), of ``gates`` (..., 4H)."""
    H = gates.shape[-1] // 4
    return gates[..., :H], gates[..., H : 2 * H], gates[..., 2 * H : 3 * H], gates[..., 3 * H :]


def gates_forward(a: Array) -> Array:
    """Overwrite pre-activations ``a`` (..., 4H) with the activations, and return them."""
    a_g = split_gates(a)[2]
    g = namespace(a).tanh(a_g)
    sigmoid_forward(a, out=a)  # of a_g as well: calls on the whole array are faster than on its blocks
    a_g[...] = g
    return a


def sigmoid_forward(a: Array, out: Array) -> Array:
    """Write ``sigmoid(a)`` into ``out``, which may be ``a``.

    It is computed as ``e / (1 + e)`` with ``e = exp(a)``, which is right to a few units in the last place also for
    a gate that is almost closed: see docs/decisions/0003-sigmoid-by-exponential.md. To avoid overflow, ``a`` is
    bounded at 10 in float16 and at 40 in float32 and float64. The sigmoid is 1 there: adding 1 to exp(a) changes
    nothing.
    """
    xp = namespace(a)
    largest = 10.0 if a.dtype.itemsize == 2 else 40.0
    a.clip(-1e4, largest, out=out)  # exp(-1e4) is 0. NumPy takes twice as long for xp.minimum(a, largest)
    xp.exp(out, out=out)
    return xp.divide(out, out + 1, out=out)


def sigmoid_backward(grad_y: Array, y: Array) -> Array:
    """``d loss / d a`` for ``y = sigmoid(a)``, from ``y`` alone."""
    return grad_y * y * (1 - y)


def tanh_backward(grad_y: Array, y: Array) -> Array:
    """``d loss / d a`` for ``y = tanh(a)``, from ``y`` alone."""
    return grad_y * (1 - y * y)


def gates_backward(grad_gates: tuple[Array, Array, Array, Array], gates: Array, out: Array) -> None:
    """Write ``d loss / d a`` (..., 4H) into ``out``, given the gradients of i, f, g, o and their values."""
    i, f, g, o = split_gates(gates)
    grad_i, grad_f, grad_g, grad_o = grad_gates
    grad_a_i, grad_a_f, grad_a_g, grad_a_o = split_gates(out)
    grad_a_i[...] = sigmoid_backward(grad_i, i)
    grad_a_f[...] = sigmoid_backward(grad_f, f)
    grad_a_g[...] = tanh_backward(grad_g, g)
    grad_a_o[...] = sigmoid_backward(grad_o, o)
