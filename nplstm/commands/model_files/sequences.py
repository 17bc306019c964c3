"""Runs a layer over arrays in chunks: they may be mapped from files larger than memory."""

from collections.abc import Callable
from typing import Any, NamedTuple, cast

import numpy as np

from nplstm._typing import Array
from nplstm.backends import Backend, get_backend
from nplstm.errors import ArgumentError, ShapeError
from nplstm.layers import LSTM, LSTMCell

__all__ = ["STATES", "States", "as_lstm", "named_states", "run_in_chunks"]

_ROWS = 1 << 14
"""Steps times sequences of a chunk: many enough that a call's overhead is small, few enough to show progress."""

States = tuple[Any, ...]
"""(h, c) and, of a hidden transform, s; each an array, or a tuple of them where layers differ in size."""


STATES = ("h_n", "c_n", "s_n")
"""Names of the final states in files; where layers differ in size, with ``_l0``, ``_l1``, ... appended."""


class _Chunk(NamedTuple):
    steps: slice
    sequences: slice

    @property
    def size(self) -> int:
        """Steps times sequences."""
        return (self.steps.stop - self.steps.start) * (self.sequences.stop - self.sequences.start)


def as_lstm(layer: LSTM | LSTMCell) -> LSTM:
    """Return an ``LSTM``: the layer itself, or one with the parameters of an ``LSTMCell``.

    >>> as_lstm(LSTMCell(3, 5))
    LSTM(3, 5)
    """
    if isinstance(layer, LSTM):
        return layer
    recurrent = None if layer.recurrent_size == layer.hidden_size else layer.recurrent_size
    return LSTM(
        layer.input_size,
        layer.hidden_size,
        bias=layer.bias,
        cell=layer.cell,
        recurrent_size=recurrent,
        backend=layer.backend,
        dtype=layer.dtype,
        rng={f"{name}_l0": get_backend(layer.backend).to_numpy(a) for name, a in layer.parameters.items()},
    )


def run_in_chunks(
    lstm: LSTM,
    x: Array,
    out: Array,
    *,
    hx: States | None = None,
    lengths: Array | None = None,
    done: Callable[[int], object] = lambda _: None,
) -> States:
    """Run a layer over ``x`` in chunks and write its output to ``out``.

    Chunks are cut along time or, where a step depends on later ones, along the batch.

    Parameters
    ----------
    lstm : LSTM
    x : ndarray, shape (T, B, I), or (B, T, I) with ``batch_first``
        May be mapped from a file; converted to the layer's element type a chunk at a time.
    out : ndarray
        Receives the output; may be mapped from a file.
    hx : tuple of ndarrays, optional
        The initial states, as for a call.
    lengths : ndarray of int, shape (B,), optional
    done : callable
        Called after each chunk with its number of steps times sequences.

    Returns
    -------
    tuple of ndarrays
        The final states, as a call returns them.

    Raises
    ------
    ShapeError
        If there is no step or no sequence.
    ArgumentError
        If the layer has ``merge="none"``, so that there are two outputs.

    Examples
    --------
    >>> lstm, out = LSTM(3, 5, rng=0), np.empty((7, 2, 5), np.float32)
    >>> h_n, c_n = run_in_chunks(lstm, np.ones((7, 2, 3), np.float32), out)
    >>> bool((out[-1] == h_n[0]).all())
    True
    """
    backend = get_backend(lstm.backend)
    steps, batch = (x.shape[1], x.shape[0]) if lstm.batch_first else x.shape[:2]
    if min(steps, batch) < 1:
        raise ShapeError(f"input: expected at least one step and one sequence, got {x.shape}")
    along_time = not (lstm.bidirectional or lstm.reverse)
    state = None if hx is None else _each(hx, lambda array: backend.asarray(array.astype(lstm.dtype)))
    finals: list[States] = []
    for chunk in _cut(steps, batch, along_time=along_time):
        own = None if state is None else _each(state, lambda array, chunk=chunk: array[:, chunk.sequences])
        final = _run_chunk(lstm, backend, x, out, chunk, own, lengths)
        if along_time:
            state, finals = final, [final]  # the next chunk starts from it
        else:
            finals.append(final)
        done(chunk.size)
    return _side_by_side([_each(final, backend.to_numpy) for final in finals])


def _cut(steps: int, batch: int, *, along_time: bool) -> list[_Chunk]:
    """Cut along time, or into groups of sequences."""
    if along_time:
        block = max(_ROWS // batch, 1)
        return [_Chunk(slice(t, min(t + block, steps)), slice(0, batch)) for t in range(0, steps, block)]
    group = max(_ROWS // steps, 1)
    return [_Chunk(slice(0, steps), slice(b, min(b + group, batch))) for b in range(0, batch, group)]


def _run_chunk(
    lstm: LSTM, backend: Backend, x: Array, out: Array, chunk: _Chunk, hx: States | None, lengths: Array | None
) -> States:
    at = (chunk.sequences, chunk.steps) if lstm.batch_first else (chunk.steps, chunk.sequences)
    left = None
    if lengths is not None:  # of each sequence, in this chunk
        start, stop = chunk.steps.start, chunk.steps.stop
        left = np.clip(lengths[chunk.sequences] - start, 0, stop - start)
    output, final = lstm(backend.asarray(x[at].astype(lstm.dtype)), hx, lengths=left)
    if isinstance(output, tuple):
        raise ArgumentError(
            "merge='none': the model returns an output for each direction, but a file holds one array"
        )
    out[at] = backend.to_numpy(output)
    return final


def _each(states: States, change: Callable[[Array], Array]) -> States:
    """Return the states with each array changed, those of single layers too."""
    return tuple(
        tuple(map(change, cast("tuple[Array, ...]", state))) if isinstance(state, tuple) else change(state)
        for state in states
    )


def _side_by_side(finals: list[States]) -> States:
    """Join the states of groups of sequences along the batch."""
    if len(finals) == 1:
        return finals[0]
    joined: list[Any] = []
    for group in zip(*finals, strict=True):
        by_layer = isinstance(group[0], tuple)
        arrays = zip(*group, strict=True) if by_layer else [group]
        together = tuple(np.concatenate(array, axis=1) for array in arrays)
        joined.append(together if by_layer else together[0])
    return tuple(joined)


def named_states(states: States) -> dict[str, Array]:
    """Return states by their names in files.

    >>> list(named_states((np.zeros((1, 2, 5)), np.zeros((1, 2, 5)))))
    ['h_n', 'c_n']
    """
    named: dict[str, Array] = {}
    for name, state in zip(STATES, states, strict=False):
        if isinstance(state, tuple):
            named |= {f"{name}_l{k}": array for k, array in enumerate(cast("tuple[Array, ...]", state))}
        else:
            named[name] = state
    return named
