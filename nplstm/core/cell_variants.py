"""One step of any LSTM that a ``CellSpec`` describes, composed of the operations in ``ops/``, and its derivative.

With every option off it computes the same as the standard cell in ``cell.py``, to the bit. ``CellSpec`` has the
equations. Dropout, zoneout and the layer norm of the products are outside of the cell, in ``step.py``.
"""

from typing import NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.cell_spec import CellSpec
from nplstm.core.ops.activations import Activation
from nplstm.core.ops.clip import clip_backward, clip_forward
from nplstm.core.ops.layer_norm import LayerNormTape, layer_norm_backward, layer_norm_forward
from nplstm.core.ops.peephole import peephole_backward, peephole_forward, peephole_weight_backward
from nplstm.core.params import LSTMParams, Sums

__all__ = ["ComposedCell", "ComposedTape"]


class ComposedTape(NamedTuple):
    """Values that the backward step needs; None where the spec needs none. K is 4H (coupled gates: 3H)."""

    gates: Array  # (B, K)  i, f, g, o, or i, g, o
    a: Array | None  # (B, K)  their pre-activations
    inside: Array | None  # (B, K)  where these were not clipped
    c_prev: Array  # (B, H)  c_{t-1}
    c_inside: Array | None  # (B, H)  where the new state was not clipped
    c: Array | None  # (B, H)  c'_t, which the output gate reads
    norm: LayerNormTape | None  # of the cell state
    shown_a: Array | None  # (B, H)  what the output activation read
    shown: Array  # (B, H)  what it returned


class ComposedCell:
    """The cell of a spec, with its parameters.

    Parameters
    ----------
    spec : CellSpec
    params : LSTMParams
        The cell reads ``weight_ch``, ``gain_c`` and ``bias_c``.
    """

    def __init__(self, spec: CellSpec, params: LSTMParams) -> None:
        self._spec = spec
        self._params = params
        self._hidden_size = H = params.weight_ih.shape[0] // spec.gates
        # first the gates that read c_{t-1} (i and f, or i alone), then the candidate, then the output gate
        k = spec.gates - 2
        self._early, self._candidate, self._late = (
            slice(k * H),
            slice(k * H, (k + 1) * H),
            slice((k + 1) * H, None),
        )
        self._weight_early: Array | None = None
        self._weight_late: Array | None = None
        if params.weight_ch is not None:
            self._weight_early, self._weight_late = params.weight_ch[: k * H], params.weight_ch[k * H :]

    def forward(self, a: Array, c_prev: Array) -> tuple[Array, Array, ComposedTape]:
        """Take one step: as ``lstm_cell_forward``; ``a`` (B, K) is overwritten."""
        spec, (gate, candidate, output) = self._spec, self._spec.activations
        xp, H = namespace(a), self._hidden_size
        kept = a if gate.reads_input or candidate.reads_input else None
        gates = a if kept is None else xp.empty_like(a)
        inside = None if spec.clip is None else xp.empty(a.shape, dtype=bool)

        def clip(where: slice) -> None:
            if spec.clip is not None and inside is not None:
                inside[:, where] = clip_forward(a[:, where], spec.clip)

        if self._weight_early is not None:
            a[:, self._early] += peephole_forward(c_prev, self._weight_early)
        clip(slice(self._late.start))
        gate.forward(a[:, self._early], out=gates[:, self._early])
        candidate.forward(a[:, self._candidate], out=gates[:, self._candidate])
        i, g = gates[:, :H], gates[:, self._candidate]
        c = (1 - i if spec.coupled_input_forget else gates[:, H : 2 * H]) * c_prev
        c += i * g
        c_inside = None if spec.cell_clip is None else clip_forward(c, spec.cell_clip)
        shown_a, norm = c, None
        if spec.layer_norm is not None and self._params.gain_c is not None:
            shown_a, norm = layer_norm_forward(c, self._params.gain_c, spec.layer_norm_eps)
            if self._params.bias_c is not None:
                shown_a += self._params.bias_c
            c = shown_a if spec.layer_norm == "cell_state" else c
        if self._weight_late is not None:
            a[:, self._late] += peephole_forward(c, self._weight_late)
        clip(self._late)
        gate.forward(a[:, self._late], out=gates[:, self._late])
        shown = output.forward(shown_a, out=xp.empty_like(shown_a))
        tape = ComposedTape(
            gates, kept, inside, c_prev, c_inside,
            c if self._weight_late is not None else None,
            norm,
            shown_a if output.reads_input else None,
            shown,
        )  # fmt: skip
        return gates[:, self._late] * shown, c, tape

    def backward(self, grad_h: Array, grad_c: Array, tape: ComposedTape, out: Array, sums: Sums) -> Array:
        """Take one step back: as ``lstm_cell_backward``; the cell's own norm adds its gradients to ``sums``."""
        spec, (gate, candidate, output) = self._spec, self._spec.activations
        H, early, mid, late = self._hidden_size, self._early, self._candidate, self._late

        def through(activation: Activation, where: slice, grad: Array) -> None:
            """Write the gradient of the pre-activations of a block of gates."""
            a = None if tape.a is None else tape.a[:, where]
            grad = activation.backward(grad, a, tape.gates[:, where])
            out[:, where] = grad if tape.inside is None else clip_backward(grad, tape.inside[:, where])

        i, g, o = tape.gates[:, :H], tape.gates[:, mid], tape.gates[:, late]
        through(gate, late, grad_h * tape.shown)
        grad_shown = output.backward(grad_h * o, tape.shown_a, tape.shown)
        if spec.layer_norm == "cell_output":
            grad_shown = self._norm_backward(grad_shown, tape, sums)
        grad_c = grad_c + grad_shown
        if self._weight_late is not None:
            grad_c += peephole_backward(out[:, late], self._weight_late, H)
        if spec.layer_norm == "cell_state":
            grad_c = self._norm_backward(grad_c, tape, sums)
        if tape.c_inside is not None:
            grad_c = clip_backward(grad_c, tape.c_inside)
        if spec.coupled_input_forget:
            through(gate, early, grad_c * g - grad_c * tape.c_prev)
            grad_c_prev = grad_c * (1 - i)
        else:
            through(gate, slice(H), grad_c * g)
            through(gate, slice(H, 2 * H), grad_c * tape.c_prev)
            grad_c_prev = grad_c * tape.gates[:, H : 2 * H]
        through(candidate, mid, grad_c * i)
        if self._weight_early is not None:
            grad_c_prev += peephole_backward(out[:, early], self._weight_early, H)
        return grad_c_prev

    def _norm_backward(self, grad: Array, tape: ComposedTape, sums: Sums) -> Array:
        assert self._params.gain_c is not None
        assert tape.norm is not None
        if self._params.bias_c is not None:
            sums.add("bias_c", grad.sum(axis=0))
        grad, grad_gain = layer_norm_backward(grad, self._params.gain_c, tape.norm)
        sums.add("gain_c", grad_gain)
        return grad

    def output(self, tape: ComposedTape) -> Array:
        """Recompute h'_t."""
        return tape.gates[:, self._late] * tape.shown

    def collect(self, grad_a: Array, tapes: list[ComposedTape], sums: Sums) -> None:
        """Take the products over all rows that ``backward`` put off: the peepholes' weights. ``grad_a`` (N, K)."""
        weight = self._params.weight_ch
        if weight is None or self._weight_early is None or self._weight_late is None or not tapes:
            return
        xp = namespace(grad_a)
        c_prev = xp.concatenate([tape.c_prev for tape in tapes])
        c = xp.concatenate([tape.c for tape in tapes])
        early = peephole_weight_backward(grad_a[:, self._early], c_prev, self._weight_early)
        late = peephole_weight_backward(grad_a[:, self._late], c, self._weight_late)
        sums.add("weight_ch", xp.concatenate([early, late]))
