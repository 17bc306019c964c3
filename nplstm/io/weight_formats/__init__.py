"""Weight formats: parameters converted from and to the arrays of other programs.

A weight format says how a program names, orders and transposes an LSTM's weights. Values are moved, never changed;
the one exception is the sum of two biases for a format that has one bias. Only arrays are converted: the caller
matches a layer's other options (activations, say).
"""

from collections.abc import Sequence
from typing import Any, Literal, overload

from nplstm._shapes import check_flag, not_none
from nplstm._typing import Array, Arrays
from nplstm.errors import ArgumentError
from nplstm.io.weight_formats import checks
from nplstm.io.weight_formats.flat_vector import FLAT_FORMATS, pack, stack_names, unpack
from nplstm.io.weight_formats.single_layer import LAYER_FORMATS, convert, torch_format

__all__ = ["from_layout", "from_weight_format", "to_layout", "to_weight_format"]


def from_weight_format(
    format: str,
    arrays: Arrays | Sequence[Array],
    *,
    suffix: str = "",
    input_size: int | None = None,
    hidden_size: int | None = None,
    num_layers: int | None = None,
    bidirectional: bool | None = None,
    bias: bool | None = None,
) -> dict[str, Array]:
    """Convert another program's arrays to parameters under torch's names, for ``load_state_dict``.

    Formats of one layer in one direction; arrays in brackets are optional::

        format      arrays                                                            order of gates
        "fused"     W (I+H, 4H) for [x, h] @ W, [b (4H,)]                             f, i, g, o
        "split"     W_x (I, 4H), W_h (H, 4H), [b_x (4H,)], [b_h (4H,)]                f, i, g, o
        "separate"  W_ii, W_if, W_ig, W_io (H, I), W_hi, W_hf, W_hg, W_ho (H, H),
                    [b_ii, b_if, b_ig, b_io (H,)], [b_hi, b_hf, b_hg, b_ho (H,)]
        "keras"     kernel (I, 4H), recurrent_kernel (H, 4H), [bias (4H,)]            i, f, g, o
        "onnx"      W (4H, I), R (4H, H), [B (8H,): W's, then R's], [P (3H,)]         i, o, f, g
        "haste"     kernel (I, 4H), recurrent_kernel (H, 4H), bias (4H,)              i, g, f, o

    and of a stack of L layers and D directions in one vector, with torch's matrices except for the order of
    gates::

        "thinc"     LSTM: for each layer, for each direction W_ih, b_ih, W_hh, b_hh   f, i, o, g
        "cudnn"     weight_space: for each layer, for each direction W_ih, W_hh;      i, f, g, o
                    [then for each layer, for each direction b_ih, b_hh]

    In names, x, or i before the gate's letter, is the input's part, and h the recurrent part. A single bias
    becomes ``bias_ih``; a missing second one becomes zeros.

    Parameters
    ----------
    format : str
        Name of the weight format, from the tables above.
    arrays : mapping of name to Array
        Of one backend and one element type. For "keras" also the list that ``layer.get_weights()`` gives. ONNX's
        arrays have an axis of directions in front: give ``W[0]``, and ``W[1]`` for the other direction.
    suffix : str
        End of torch's names: "_l0" for the first layer of an ``LSTM``, "_l0_reverse" for its second direction;
        empty for an ``LSTMCell``. Vectors of a stack imply the suffixes.
    input_size, hidden_size : int
        I and H; for the vectors, and required there.
    num_layers : int
        L; for the vectors. By default 1.
    bidirectional : bool
        Whether D is 2; for the vectors. By default it is not.
    bias : bool
        Whether there are biases; for "cudnn". By default there are.

    Returns
    -------
    dict of str to Array
        ``weight_ih`` (4H, I), ``weight_hh`` (4H, H); with biases ``bias_ih``, ``bias_hh`` (4H,); with peepholes
        ``weight_ch`` (3H,), of i, f and o; each name with its suffix. The arrays are new and contiguous.

    Raises
    ------
    ArgumentError
        For an unknown format, or an option that is missing or does not belong to the format.
    StateDictError
        If an array is missing or does not belong to the format.
    ShapeError, DTypeError, BackendError
        If an array does not fit the others.

    Notes
    -----
    Sources: Keras's, ONNX's, Haste's and Thinc's own documents and code. cuDNN gives the offsets in its buffer
    only through ``cudnnGetRNNWeightParams``; the order here is the one that JAX and MXNet rely on. A buffer with
    projections is not read. Thinc's other parameter, ``HC0``, holds initial states, which ``LSTM`` takes as
    ``hx``.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> from nplstm.io import from_weight_format
    >>> weights = [np.ones((2, 12)), np.ones((3, 12)), np.ones(12)]  # what a Keras layer's get_weights() gives
    >>> lstm = nplstm.LSTM(2, 3, dtype="float64")
    >>> lstm.load_state_dict(from_weight_format("keras", weights, suffix="_l0"))
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])

    >>> stack = nplstm.LSTM(2, 3, num_layers=2, bidirectional=True)
    >>> buffer = np.zeros(stack.num_parameters, dtype=np.float32)
    >>> sizes = dict(input_size=2, hidden_size=3, num_layers=2, bidirectional=True)
    >>> stack.load_state_dict(from_weight_format("cudnn", {"weight_space": buffer}, **sizes))
    IncompatibleKeys(missing_keys=[], unexpected_keys=[])
    """
    checks.check_format(format)
    options = not_none(
        input_size=input_size,
        hidden_size=hidden_size,
        num_layers=num_layers,
        bidirectional=bidirectional,
        bias=bias,
    )
    if format in FLAT_FORMATS:
        checks.check_no_suffix(format, suffix)
        flat = FLAT_FORMATS[format]
        sizes = checks.check_sizes(format, flat, options)
        named = checks.by_name(format, arrays)
        checks.check_names("arrays", format, named, needed=[flat.key], known=[flat.key])
        checks.check_alike(named)
        return unpack(flat, named[flat.key], sizes)
    if options:
        raise ArgumentError(
            f"{next(iter(options))}: the arrays of weight format {format!r} show their sizes; leave it out"
        )
    named = checks.by_name(format, arrays)
    checks.check_layer("arrays", format, LAYER_FORMATS[format], named)
    return convert(LAYER_FORMATS[format], named, torch_format(checks.check_suffix(suffix)))


@overload
def to_weight_format(
    format: str, parameters: Arrays, *, suffix: str = "", as_list: Literal[False] = False
) -> dict[str, Array]: ...


@overload
def to_weight_format(
    format: str, parameters: Arrays, *, suffix: str = "", as_list: Literal[True]
) -> list[Array]: ...


def to_weight_format(
    format: str, parameters: Arrays, *, suffix: str = "", as_list: bool = False
) -> dict[str, Array] | list[Array]:
    """Convert parameters under torch's names to another program's arrays.

    Parameters
    ----------
    format : str
        See ``from_weight_format``.
    parameters : mapping of name to Array
        Such as ``lstm.parameters``. A vector takes all of it. Other formats take the names that end in ``suffix``,
        and ignore other layers and directions.
    suffix : str
        Which layer and direction: "_l0", "_l0_reverse", ...; empty for an ``LSTMCell``. Not for a vector.
    as_list : bool
        For "keras": return the list that ``layer.set_weights()`` takes.

    Returns
    -------
    dict of str to Array
        The format's arrays, new and contiguous, on the parameters' backend. Two biases become their sum if the
        format has one.

    Raises
    ------
    ArgumentError
        For an unknown format; for parameters that the format does not have, such as peepholes or a projection.
    StateDictError
        If a parameter is missing or unknown; also for missing biases of "haste" and "thinc", which always have
        them.
    ShapeError, DTypeError, BackendError
        If a parameter does not fit the others.

    Examples
    --------
    >>> import nplstm
    >>> from nplstm.io import to_weight_format
    >>> lstm = nplstm.LSTM(2, 3, num_layers=2)
    >>> {name: array.shape for name, array in to_weight_format("onnx", lstm.parameters, suffix="_l1").items()}
    {'W': (12, 3), 'R': (12, 3), 'B': (24,)}
    >>> [array.shape for array in to_weight_format("keras", lstm.parameters, suffix="_l0", as_list=True)]
    [(2, 12), (3, 12), (12,)]
    >>> to_weight_format("thinc", lstm.parameters)["LSTM"].shape == (lstm.num_parameters,)
    True
    """
    return _to_weight_format(format, parameters, suffix, as_list)


def _to_weight_format(
    format: str, parameters: Arrays, suffix: str, as_list: bool
) -> dict[str, Array] | list[Array]:
    checks.check_format(format)
    named = checks.by_name(format, parameters, "parameters")
    if check_flag("as_list", as_list) and format != "keras":
        raise ArgumentError(f"as_list: only weight format 'keras' has a list, got {format!r}")
    if format in FLAT_FORMATS:
        checks.check_no_suffix(format, suffix)
        flat = FLAT_FORMATS[format]
        names = stack_names(flat, named)
        checks.check_names("parameters", format, named, needed=names, known=names)
        checks.check_alike(named)
        return {flat.key: pack(flat, named)}
    target = LAYER_FORMATS[format]
    of_layer = checks.of_layer(named, checks.check_suffix(suffix))
    biased = target.always_biased or any(name + suffix in of_layer for name in ("bias_ih", "bias_hh"))
    source = torch_format(suffix, peepholes=target.peepholes is not None)._replace(always_biased=biased)
    checks.check_layer("parameters", format, source, of_layer)
    result = convert(source, of_layer, target)
    return list(result.values()) if as_list else result


def from_layout(layout: str, arrays: Arrays | Sequence[Array], **options: Any) -> dict[str, Array]:
    """Call ``from_weight_format``, whose former name this is."""
    return from_weight_format(layout, arrays, **options)


def to_layout(
    layout: str, parameters: Arrays, *, suffix: str = "", as_list: bool = False
) -> dict[str, Array] | list[Array]:
    """Call ``to_weight_format``, whose former name this is."""
    return _to_weight_format(layout, parameters, suffix, as_list)
