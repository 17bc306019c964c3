"""One step of the standard LSTM, and its derivative: the file to read first.

Notation: B sequences, H cells. ``a`` holds the pre-activations of the four gates, side by side in the order
i, f, g, o. The caller computes them from the input, the recurrent state and the biases::

    a_t = x_t W_ih^T + b_ih + h_{t-1} W_hh^T + b_hh              (B, 4H)

    i_t = sigmoid(a_i)          input gate: how much of g_t is written
    f_t = sigmoid(a_f)          forget gate: how much of c_{t-1} is kept
    g_t = tanh(a_g)             candidate
    o_t = sigmoid(a_o)          output gate: how much of tanh(c_t) becomes h_t
    c_t = f_t * c_{t-1} + i_t * g_t
    h_t = o_t * tanh(c_t)

The equations are those of Hochreiter & Schmidhuber (1997) with the forget gate of Gers et al. (2000), as
``torch.nn.LSTM`` states them. The derivation of the backward step is in ``docs/backward.md``.
"""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.ops.activations import sigmoid_backward, sigmoid_forward, tanh_backward
from nplstm.core.params import Sums


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


def gates_backward(grad_gates: tuple[Array, Array, Array, Array], gates: Array, out: Array) -> None:
    """Write ``d loss / d a`` (..., 4H) into ``out``, given the gradients of i, f, g, o and their values."""
    i, f, g, o = split_gates(gates)
    grad_i, grad_f, grad_g, grad_o = grad_gates
    grad_a_i, grad_a_f, grad_a_g, grad_a_o = split_gates(out)
    grad_a_i[...] = sigmoid_backward(grad_i, i)
    grad_a_f[...] = sigmoid_backward(grad_f, f)
    grad_a_g[...] = tanh_backward(grad_g, g)
    grad_a_o[...] = sigmoid_backward(grad_o, o)


class CellTape(NamedTuple):
    """Values that the backward step needs: 6 numbers per cell."""

    gates: Array  # (B, 4H)  i, f, g, o
    c_prev: Array  # (B, H)   c_{t-1}
    tanh_c: Array  # (B, H)   tanh(c_t)


def lstm_cell_forward(a: Array, c_prev: Array) -> tuple[Array, Array, CellTape]:
    """Take one step.

    Parameters
    ----------
    a : Array, shape (B, 4H)
        Pre-activations. Overwritten with the gates, which the tape keeps.
    c_prev : Array, shape (B, H)
        Cell state before the step; not modified.

    Returns
    -------
    h : Array, shape (B, H)
    c : Array, shape (B, H)
    tape : CellTape
        For ``lstm_cell_backward``.
    """
    gates = gates_forward(a)
    i, f, g, o = split_gates(gates)
    c = f * c_prev
    c += i * g
    tanh_c = namespace(c).tanh(c)
    h = o * tanh_c
    return h, c, CellTape(gates, c_prev, tanh_c)


def lstm_cell_backward(grad_h: Array, grad_c: Array, tape: CellTape, out: Array) -> Array:
    """Take one step back.

    Parameters
    ----------
    grad_h : Array, shape (B, H)
        d loss / d h_t, over all uses of h_t.
    grad_c : Array, shape (B, H)
        d loss / d c_t without the part through h_t: from step t + 1, or from the end of the sequence.
    tape : CellTape
        From the matching forward step; not modified.
    out : Array, shape (B, 4H)
        Receives d loss / d a_t.

    Returns
    -------
    Array, shape (B, H)
        d loss / d c_{t-1}.
    """
    i, f, g, o = split_gates(tape.gates)
    grad_c = grad_c + tanh_backward(grad_h * o, tape.tanh_c)
    grad_gates = (grad_c * g, grad_c * tape.c_prev, grad_c * i, grad_h * tape.tanh_c)
    gates_backward(grad_gates, tape.gates, out)
    return grad_c * f


def lstm_cell_output(tape: CellTape) -> Array:
    """Recompute ``h_t = o_t * tanh(c_t)`` from the tape."""
    return split_gates(tape.gates)[3] * tape.tanh_c


class StandardCell:
    """The functions above as methods, as the time loop calls a cell; ``ComposedCell`` is the other such class."""

    def forward(self, a: Array, c_prev: Array) -> tuple[Array, Array, CellTape]:
        """As ``lstm_cell_forward``."""
        return lstm_cell_forward(a, c_prev)

    def backward(self, grad_h: Array, grad_c: Array, tape: CellTape, out: Array, sums: Sums) -> Array:
        """As ``lstm_cell_backward``; the cell has no parameters of its own to add to ``sums``."""
        return lstm_cell_backward(grad_h, grad_c, tape, out)

    def output(self, tape: CellTape) -> Array:
        """As ``lstm_cell_output``."""
        return lstm_cell_output(tape)

    def collect(self, grad_a: Array, tapes: list[CellTape], sums: Sums) -> None:
        """Do nothing: ``backward`` leaves no sums for the end of the pass."""
