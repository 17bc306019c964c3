"""One step of one layer in one direction, from h_{t-1} and c_{t-1} to h_t and c_t: what the time loop repeats.

::

    r   = transform(h_{t-1})          where there is a hidden transform
    a   = a_x + norm(W_hh (m * r))    a_x = norm(W_ih x) + b, computed for a block of steps at once
    h,c = cell(a, c_{t-1})            the standard cell, or the composed one
    h   = W_hr h                      with a projection
    h,c = zoneout(h, c)

Each line but the third is left out where its option is off. ``CellSpec`` has the equations in full.
"""

from typing import Any, NamedTuple

from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.core.bound_transform import BoundTransform, Context
from nplstm.core.cell import StandardCell
from nplstm.core.cell_variants import ComposedCell
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.masks import NO_MASKS, Masks
from nplstm.core.ops.dropout import dropout_backward, dropout_forward
from nplstm.core.ops.layer_norm import LayerNormTape, layer_norm_backward, layer_norm_forward
from nplstm.core.ops.linear import linear_forward
from nplstm.core.ops.zoneout import zoneout_backward, zoneout_forward
from nplstm.core.params import Sums

__all__ = ["Backward", "State", "Step", "StepInputs", "StepTape"]


class State(NamedTuple):
    """The state between two steps, of n of the sequences; or its gradient."""

    h: Array  # (n, P)
    c: Array  # (n, H)
    s: Array | None = None  # (n, S)  the hidden transform's own


class StepTape(NamedTuple):
    """Values that the backward step needs; None for those that the options do not need."""

    cell: Any  # CellTape or ComposedTape
    norm: LayerNormTape | None  # of the recurrent product
    transform: Any


class Backward(NamedTuple):
    """Buffers that the steps of one backward pass write to; they are summed up at its end."""

    grad_a: Array  # (N, K)  of the pre-activations
    grad_product: Array  # (N, K)  of W_hh r; grad_a itself without layer norm
    grad_projected: Array | None  # (N, P)  of W_hr h
    grad_r_0: Array | None  # (B, R)
    width: int  # P, of h
    grad_context: dict[str, Array]  # of what the hidden transform read, each like the context
    sums: Sums


class StepInputs(NamedTuple):
    """Inputs of the steps of a layer and direction in one pass, beside the weights."""

    masks: Masks = NO_MASKS
    transform: BoundTransform | None = None
    r_0: Array | None = None  # (B, R)  recurrent input of the first step, in the place of h_0

    def of_rows(self, rows: slice) -> "StepInputs":
        """Return the inputs of some rows of packed data; ``r_0`` as it is."""
        if not self.masks.by_row and self.transform is None:
            return self
        transform = None if self.transform is None else self.transform.of_rows(rows)
        return StepInputs(self.masks.of_rows(rows), transform, self.r_0)

    @property
    def context(self) -> dict[str, Context]:
        """What the hidden transform reads, by name."""
        return {} if self.transform is None else self.transform.context


class Step:
    """One step of a layer and direction, with its weights and the inputs of one pass. It is not modified by use.

    Parameters
    ----------
    weights : LayerWeights
    inputs : StepInputs
    """

    def __init__(self, weights: LayerWeights, inputs: StepInputs) -> None:
        self.weights, self.inputs = weights, inputs
        self.params, self.spec = weights.params, weights.spec
        self.masks, self.transform, self.r_0 = inputs
        params, spec, masks = self.params, self.spec, self.masks
        self.cell = ComposedCell(spec, params) if weights.composed else StandardCell()
        self._weight_hh = params.weight_hh if masks.weight is None else params.weight_hh * masks.weight
        self._weight_hh_t = self._weight_hh.T
        self._bias = weights.bias

    def from_input(self, x: Array) -> tuple[Array, LayerNormTape | None]:
        """Return ``norm(W_ih x) + b``, (N, K) from ``x`` (N, I), and the tape of the norm."""
        if self.params.gain_ih is None:
            return linear_forward(x, self.params.weight_ih, self._bias), None
        product = linear_forward(x, self.params.weight_ih)
        a, tape = layer_norm_forward(product, self.params.gain_ih, self.spec.layer_norm_eps)
        if self._bias is not None:
            a += self._bias
        return a, tape

    def forward(
        self, a: Array, state: State, rows: slice, began: int, keep: Array | None
    ) -> tuple[State, StepTape]:
        """Take one step.

        Parameters
        ----------
        a : Array, shape (n, K)
            From ``from_input``; overwritten.
        state : State
            Before the step.
        rows : slice
            The step's n rows in packed data.
        began : int
            Sequences with this index or a larger one take their first step.
        keep : Array, shape (n, R), optional
            Receives the recurrent input after dropout, which W_hh reads.
        """
        params, masks = self.params, self.masks
        r, s, transform_tape = self._read_hidden(state, rows, began)
        if masks.recurrent is not None:
            r = dropout_forward(r, masks.recurrent_rows(rows))
        if keep is not None:
            keep[...] = r
        product, norm = r @ self._weight_hh_t, None
        if params.gain_hh is not None:
            product, norm = layer_norm_forward(product, params.gain_hh, self.spec.layer_norm_eps)
        a += product
        h, c, cell = self.cell.forward(a, state.c)
        if params.weight_hr is not None:
            h = linear_forward(h, params.weight_hr)
        if masks.keep_h is not None:
            h = zoneout_forward(state.h, h, masks.rows(masks.keep_h, rows))
        if masks.keep_c is not None:
            c = zoneout_forward(state.c, c, masks.rows(masks.keep_c, rows))
        return State(h, c, s), StepTape(cell, norm, transform_tape)

    def backward(self, grad: State, tape: StepTape, rows: slice, began: int, buffers: Backward) -> State:
        """Take one step back: from the gradient of the state after the step to that of the state before it."""
        params, masks = self.params, self.masks
        grad_h, grad_c = grad.h, grad.c
        kept_h = kept_c = None
        if masks.keep_h is not None:
            kept_h, grad_h = zoneout_backward(grad_h, masks.rows(masks.keep_h, rows))
        if masks.keep_c is not None:
            kept_c, grad_c = zoneout_backward(grad_c, masks.rows(masks.keep_c, rows))
        if params.weight_hr is not None and buffers.grad_projected is not None:
            buffers.grad_projected[rows] = grad_h
            grad_h = grad_h @ params.weight_hr
        grad_a = buffers.grad_a[rows]
        grad_c_prev = self.cell.backward(grad_h, grad_c, tape.cell, grad_a, buffers.sums)
        grad_product = grad_a
        if params.gain_hh is not None and tape.norm is not None:
            grad_product, grad_gain = layer_norm_backward(grad_a, params.gain_hh, tape.norm)
            buffers.grad_product[rows] = grad_product
            buffers.sums.add("gain_hh", grad_gain)
        grad_r = grad_product @ self._weight_hh
        if masks.recurrent is not None:
            grad_r = dropout_backward(grad_r, masks.recurrent_rows(rows))
        grad_h_prev, grad_s_prev = self._read_hidden_backward(grad_r, grad.s, tape.transform, rows, began, buffers)
        if kept_h is not None:
            grad_h_prev = grad_h_prev + kept_h
        if kept_c is not None:
            grad_c_prev = grad_c_prev + kept_c
        return State(grad_h_prev, grad_c_prev, grad_s_prev)

    def _read_hidden(self, state: State, rows: slice, began: int) -> tuple[Array, Array | None, Any]:
        """Return r_{t-1}, and the transform's next state and tape."""
        if self.transform is None and self.r_0 is None:
            return state.h, None, None
        n = len(state.h)
        if self.transform is None and self.r_0 is not None:  # every step is a first step
            return self.r_0[:n], None, None
        if self.r_0 is None or began >= n:
            first, r_0 = n, None
        else:  # at a sequence's first step r_0 replaces the transform's result
            first, r_0 = began, self.r_0[began:n]
        if first == 0 and r_0 is not None:
            return r_0, state.s, None
        assert self.transform is not None
        s = None if state.s is None else state.s[:first]
        r, new_s, tape = self.transform.forward(state.h[:first], s, rows)
        if r_0 is not None:
            xp = namespace(r)
            r = xp.concatenate([r, r_0])
            new_s = None if new_s is None or state.s is None else xp.concatenate([new_s, state.s[first:]])
        return r, new_s, tape

    def _read_hidden_backward(
        self, grad_r: Array, grad_s: Array | None, tape: Any, rows: slice, began: int, buffers: Backward
    ) -> tuple[Array, Array | None]:
        """Return the gradients of h_{t-1} and of the transform's state before the step."""
        if self.transform is None and self.r_0 is None:
            return grad_r, None
        n, P = len(grad_r), buffers.width
        first = n
        if buffers.grad_r_0 is not None and began < n:
            first = began
            buffers.grad_r_0[first:n] = grad_r[first:]
        grad_h = namespace(grad_r).zeros((n, P), dtype=grad_r.dtype)
        if self.transform is None or first == 0:
            return grad_h, grad_s
        own = None if grad_s is None else grad_s[:first]
        grads = self.transform.backward(grad_r[:first], own, tape, rows, buffers.sums, buffers.grad_context, P)
        grad_h[:first] = grads.h
        if grad_s is not None and grads.state is not None:
            grad_s = grad_s.copy()
            grad_s[:first] = grads.state
        return grad_h, grad_s
