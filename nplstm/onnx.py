"""ONNX's LSTM operator as a function of arrays, with every input and every attribute.

It uses the same parts as the layers: weights through ``from_weight_format("onnx", ...)``, attributes as a
``CellSpec`` for each direction, lengths as packed data, and the one time loop. It is for inference only: to train,
load the weights into an ``LSTM``. Files are read and written in ``nplstm.io.onnx``.

>>> import numpy as np, nplstm
>>> X, W, R = np.ones((2, 1, 3)), np.ones((1, 16, 3)), np.ones((1, 16, 4))
>>> Y, Y_h, Y_c = nplstm.onnx.lstm(X, W, R)
>>> Y.shape, Y_h.shape
((2, 1, 1, 4), (1, 1, 4))
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from nplstm._shapes import Axis, check_shape, check_size, not_none
from nplstm._typing import Array, Arrays
from nplstm.backends import backend_of, check_arrays, check_dtype, namespace
from nplstm.batch.layout import PaddedLayout
from nplstm.core.cell_spec import CellSpec
from nplstm.core.layer_weights import LayerWeights
from nplstm.core.packed import check_lengths
from nplstm.core.params import LSTMParams
from nplstm.core.step import State, Step, StepInputs
from nplstm.core.time_loop import sequence_forward
from nplstm.errors import ArgumentError, ShapeError
from nplstm.io import from_weight_format
from nplstm.io.onnx.lstm_attributes import WEIGHT_AXES, axis_sizes, read_attributes, without_forget_gate

if TYPE_CHECKING:
    from nplstm.io.onnx.export import export

__all__ = ["export", "lstm"]


def __getattr__(name: str) -> Any:
    if name == "export":  # imported here, because `import nplstm` does not need the writer of files
        from nplstm.io.onnx.export import export

        return export
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_STATE = ("D", "B", "H")
_AXES = WEIGHT_AXES | {"X": ("T", "B", "I"), "initial_h": _STATE, "initial_c": _STATE}
"""The arrays' axes with ``layout=0``."""


def lstm(
    X: Array,
    W: Array,
    R: Array,
    B: Array | None = None,
    sequence_lens: Any = None,
    initial_h: Array | None = None,
    initial_c: Array | None = None,
    P: Array | None = None,
    *,
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    direction: str = "forward",
    hidden_size: int | None = None,
    input_forget: int = 0,
    layout: int = 0,
) -> tuple[Array, Array, Array]:
    """Compute the operator ``LSTM`` of ONNX's standard domain, in its versions 7, 14 and 22.

    One step of one direction, with the activations f, g and h; ``*`` is elementwise, and k(a) is a limited to
    [-clip, clip], or a itself without ``clip``::

        i_t = f(k(x_t W_i^T + h_{t-1} R_i^T + Wb_i + Rb_i + P_i * c_{t-1}))
        f_t = f(k(x_t W_f^T + h_{t-1} R_f^T + Wb_f + Rb_f + P_f * c_{t-1}))     input_forget=1: f_t = 1 - i_t
        g_t = g(k(x_t W_c^T + h_{t-1} R_c^T + Wb_c + Rb_c))
        c_t = f_t * c_{t-1} + i_t * g_t
        o_t = f(k(x_t W_o^T + h_{t-1} R_o^T + Wb_o + Rb_o + P_o * c_t))
        h_t = o_t * h(c_t)

    Inputs and outputs have ONNX's names, order and shapes. D is 2 for ``direction="bidirectional"``, else 1. With
    ``layout=1`` the batch is the first axis: inputs are (B, T, I) and (B, D, H), outputs (B, T, D, H) and (B, D,
    H).

    Parameters
    ----------
    X : Array, shape (T, B, I)
        float32 or float64; on CuPy also float16. All arrays have its library, device and element type.
    W : Array, shape (D, 4H, I)
        Gates in ONNX's order i, o, f, c.
    R : Array, shape (D, 4H, H)
    B : Array, shape (D, 8H), optional
        W's biases, then R's. By default 0.
    sequence_lens : integers, shape (B,), optional
        Each sequence's length in [0, T], on the host. The reverse direction starts at each sequence's own end.
    initial_h, initial_c : Array, shape (D, B, H), optional
        By default 0.
    P : Array, shape (D, 3H), optional
        Peepholes, in the order i, o, f. By default there are none.
    activations : 3 D names, optional
        f, g and h of each direction, from the table in ``nplstm.core.ops.activations``; case does not matter. By
        default Sigmoid, Tanh, Tanh.
    activation_alpha, activation_beta : numbers, optional
        Constants for those functions in ``activations`` that have one, in that order, over all directions.
        Functions after the last number have their defaults.
    clip : float, optional
        Above 0. Limits the inputs of the activations f and g, bias and peephole included.
    direction : {"forward", "reverse", "bidirectional"}
    hidden_size : int, optional
        H; by default from the shape of ``R``.
    input_forget : {0, 1}
        1 couples the gates, f = 1 - i; the forget gate's weights, biases and peepholes are then not read.
    layout : {0, 1}

    Returns
    -------
    Y : Array, shape (T, D, B, H)
        h_t of every step; 0 past a sequence's end.
    Y_h, Y_c : Array, shape (D, B, H)
        Each sequence's state after its own last step, which is step 0 in the reverse direction.

    Raises
    ------
    ShapeError, DTypeError, BackendError
        If an array does not fit.
    ArgumentError
        If an attribute is invalid, disagrees with the arrays, or would not be used, such as an
        ``activation_alpha`` that no function takes.

    Notes
    -----
    The versions differ in ``layout``, which 14 added, and in bfloat16, which 22 added and no backend here has.
    Where ONNX's specification is not clear, the function does what onnxruntime's CPU kernel does:

    - ``clip`` limits neither c_t nor the input of h. ONNX's "applied to the input of activations" may be read to
      include h.
    - A sequence of length 0 has Y_h = Y_c = 0, whatever its initial state.

    Where the specification is clear, the function follows it, and onnxruntime differs:

    - It refuses ``layout=1`` and float64.
    - ThresholdedRelu at a = alpha: a here, 0 in onnxruntime.
    - Affine and ThresholdedRelu without constants: the defaults of the operators of these names here (1 and 0; 1),
      0 for each in onnxruntime. ScaledTanh has no defaults in ONNX: 1 and 1 here, 0 and 0 in onnxruntime.
    - Softplus of large numbers: infinity in onnxruntime, where e^a overflows.
    - It ignores constants that no function takes.

    Source: https://onnx.ai/onnx/operators/onnx__LSTM.html

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> rng = np.random.default_rng(0)
    >>> X, W, R = (rng.standard_normal(shape) for shape in [(5, 3, 2), (2, 16, 2), (2, 16, 4)])
    >>> names = ["HardSigmoid", "Tanh", "LeakyRelu"] * 2
    >>> Y, Y_h, Y_c = nplstm.onnx.lstm(
    ...     X,
    ...     W,
    ...     R,
    ...     None,
    ...     [5, 2, 0],
    ...     direction="bidirectional",
    ...     activations=names,
    ...     activation_alpha=[0.25],
    ...     clip=3.0,
    ... )
    >>> Y.shape, Y_h.shape
    ((5, 2, 3, 4), (2, 3, 4))
    >>> bool((Y[1, 0, 1] == Y_h[0, 1]).all() and (Y[0, 1, 1] == Y_h[1, 1]).all())  # the second has 2 steps
    True
    >>> bool((Y[2:, :, 1] == 0).all())
    True
    """
    specs, reverse, batch_first = read_attributes(
        peephole=P is not None,
        activations=activations,
        activation_alpha=activation_alpha,
        activation_beta=activation_beta,
        clip=clip,
        direction=direction,
        input_forget=input_forget,
        layout=layout,
    )
    backend = backend_of(X, "X")
    dtype = check_dtype(X.dtype, backend, "X")
    arrays = {"X": X, "W": W, "R": R} | not_none(B=B, initial_h=initial_h, initial_c=initial_c, P=P)
    check_arrays("X", backend, dtype, **arrays)
    sizes = _sizes(arrays, len(reverse), hidden_size, batch_first=batch_first)
    return _run(arrays, sequence_lens, sizes, specs, reverse, batch_first=batch_first)


class _Sizes(NamedTuple):
    T: int
    B: int
    I: int
    D: int
    H: int


def _run(
    arrays: Arrays,
    sequence_lens: Any,
    sizes: _Sizes,
    specs: list[CellSpec],
    reverse: tuple[bool, ...],
    *,
    batch_first: bool,
) -> tuple[Array, Array, Array]:
    """Run each direction, and store the results in one array each."""
    T, B, I, D, H = sizes
    X = arrays["X"]
    if sequence_lens is not None:
        sequence_lens = check_lengths(sequence_lens, steps=T, batch=B, minimum=0, argument="sequence_lens")
    layout = PaddedLayout.of_lengths(backend_of(X), T, B, sequence_lens, batch_first=batch_first, batched=True)
    rows = layout.pack("X", X, [("I", I)])
    xp = namespace(X)
    Y = xp.empty((B, T, D, H) if batch_first else (T, D, B, H), dtype=X.dtype)
    Y_h, Y_c = (xp.empty((B, D, H) if batch_first else (D, B, H), dtype=X.dtype) for _ in range(2))
    for d, spec in enumerate(specs):
        steps, states = ((slice(None), slice(None), d), (slice(None), d)) if batch_first else ((slice(None), d), d)
        h_0, c_0 = (
            arrays[name][states] if name in arrays else xp.zeros((B, H), dtype=X.dtype)
            for name in ("initial_h", "initial_c")
        )
        step = Step(LayerWeights(_params(arrays, d, spec), spec), StepInputs())
        Y[steps], Y_h[states], Y_c[states] = _one_direction(rows, h_0, c_0, step, layout, reverse[d])
    return Y, Y_h, Y_c


def _one_direction(
    rows: Array, h_0: Array, c_0: Array, step: Step, layout: PaddedLayout, reverse: bool
) -> tuple[Array, Array, Array]:
    """Run one direction: return its output in the user's layout, and its final states (B, H)."""
    xp, steps = namespace(rows), layout.steps
    out = xp.empty((steps.total, h_0.shape[1]), dtype=rows.dtype)
    initial = State(layout.gather(h_0), layout.gather(c_0))
    final = State(xp.empty(h_0.shape, dtype=rows.dtype), xp.empty(c_0.shape, dtype=rows.dtype))
    sequence_forward(rows, step, steps, initial=initial, final=final, out=out, reverse=reverse)
    running = steps.size(0) if len(steps) else 0
    for state in (final.h, final.c):
        state[running:] = 0.0  # of sequences of length 0, which are last
    return layout.unpack(out), layout.scatter_add(final.h), layout.scatter_add(final.c)


def _params(arrays: Arrays, d: int, spec: CellSpec) -> LSTMParams:
    """Return the parameters of a direction; with coupled gates without those of the forget gate."""
    named = from_weight_format("onnx", {name: arrays[name][d] for name in ("W", "R", "B", "P") if name in arrays})
    return LSTMParams.from_named(without_forget_gate(named) if spec.coupled_input_forget else named)


def _sizes(arrays: Arrays, D: int, hidden_size: Any, *, batch_first: bool) -> _Sizes:
    """Return the sizes from the shapes of X and R, and check all shapes against them."""
    axes = {name: _batch_first(named) if batch_first else named for name, named in _AXES.items()}
    for name in ("R", "X"):
        unsized: list[Axis] = [(axis, D if axis == "D" else None) for axis in axes[name]]
        check_shape(name, arrays[name].shape, unsized)
    found = dict(zip(axes["X"], arrays["X"].shape, strict=True))
    H = arrays["R"].shape[2]
    if hidden_size is not None and check_size("hidden_size", hidden_size) != H:
        raise ArgumentError(f"hidden_size: R, of shape {arrays['R'].shape}, has H={H}, got {hidden_size!r}")
    if H < 1 or found["I"] < 1:
        raise ShapeError(
            f"W: expected shape (D={D}, 4H, I) with H, I >= 1, got H={H} from R, I={found['I']} from X"
        )
    found |= axis_sizes(D, H, found["I"])
    for name, named in axes.items():
        if name in arrays:
            check_shape(name, arrays[name].shape, [(axis, found[axis]) for axis in named])
    return _Sizes(*(found[size] for size in _Sizes._fields))


def _batch_first(axes: tuple[str, ...]) -> tuple[str, ...]:
    return ("B", *(axis for axis in axes if axis != "B")) if "B" in axes else axes
