"""``Stream``: an LSTM that takes one step a call and keeps its state."""

from typing import Any, cast

from nplstm._shapes import check_shape, check_triple
from nplstm._typing import Array, DType
from nplstm.backends import Backend, check_arrays
from nplstm.batch.layout import PaddedLayout
from nplstm.core.layer_weights import LayerWeights
from nplstm.engines import EngineChoice, Request, explain_engine
from nplstm.errors import ArgumentError
from nplstm.layers.options import Options
from nplstm.layers.states import read_state, stack_layers, state_arrays, user_state

__all__ = ["Stream"]


class Stream:
    """One step a call, with the state kept: made by ``LSTM.stream``.

    Its buffers are made once. On NumPy a step of a standard LSTM allocates no arrays; other variants take the
    plain step, which does. The results are those of the whole-sequence call, to the rounding of the element type.

    A stream has the parameters that the layer had when the stream was made, and belongs to one thread at a time.

    Attributes
    ----------
    engine : EngineChoice
        Which engine runs it, and why no faster one.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> lstm = nplstm.LSTM(2, 3, num_layers=2, rng=0)
    >>> x = np.ones((5, 1, 2), dtype=np.float32)
    >>> output, (h_n, c_n) = lstm(x)
    >>> stream = lstm.stream(batch_size=1)
    >>> for x_t in x:
    ...     y_t = stream.step(x_t)
    >>> np.allclose(y_t, output[-1])
    True
    """

    def __init__(
        self,
        options: Options,
        weights: list[LayerWeights],
        request: Request,
        backend: Backend,
        dtype: DType,
        *,
        batch_size: int | None,
        hx: Any,
    ) -> None:
        self._options, self._backend, self._dtype = options, backend, dtype
        batch = 1 if batch_size is None else batch_size
        self._layout = PaddedLayout.of_lengths(
            self._backend, 1, batch, None, batch_first=False, batched=batch_size is not None
        )
        engine, self.engine = cast("tuple[Any, EngineChoice]", explain_engine(request))
        self._stepper = engine.stepper(weights, batch, options.wiring.residual)
        self._x, self._y = self._stepper.x, self._stepper.y
        if batch_size is None:
            self._x, self._y = self._x[0], self._y[0]
        self._shape, self._kind = self._x.shape, type(self._x)
        self._shown = self._backend.freeze(self._y)
        self._step = self._stepper.step
        if hx is not None:
            self.state = hx

    def step(self, input: Array) -> Array:
        """Take one step.

        Parameters
        ----------
        input : Array, shape (B, I), or (I,) for a stream without a batch axis

        Returns
        -------
        Array, shape (B, P), or (P,)
            h_t of the last layer. The next step overwrites it: copy what is to be kept.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            Names the argument, what was expected and what came; the state is as before.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> stream = nplstm.LSTM(2, 3, rng=0).stream(batch_size=4)
        >>> outputs = [stream.step(x_t).copy() for x_t in np.ones((5, 4, 2), dtype=np.float32)]
        >>> outputs[-1].shape
        (4, 3)
        """
        if type(input) is not self._kind or input.shape != self._shape or input.dtype != self._dtype:
            self._check(input)
        self._x[...] = input
        self._step()
        return self._shown

    def _check(self, input: Any) -> None:
        """Raise where the quick look cannot tell that all is well."""
        check_arrays("the stream", self._backend, self._dtype, input=input)
        names = ("B", "I")[-len(self._shape) :]
        check_shape("input", input.shape, list(zip(names, self._shape, strict=True)))

    def reset(self, hx: Any = None) -> None:
        """Put the state back to zero, or to ``hx``, in the form in which ``state`` returns it.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> stream = nplstm.LSTM(2, 3, rng=0).stream()
        >>> y = stream.step(np.ones(2, dtype=np.float32))
        >>> stream.reset()
        >>> stream.state[0]
        array([[0., 0., 0.]], dtype=float32)
        """
        self.state = (None, None) if hx is None else hx

    @property
    def state(self) -> tuple[Any, Any]:
        """(h, c) after the last step, as ``LSTM`` takes and returns them, copied; what is assigned goes on.

        Either of the two may be None for zeros when it is assigned.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> stream, x_t = nplstm.LSTM(2, 3, rng=0).stream(), np.ones(2, dtype=np.float32)
        >>> h, c = stream.state
        >>> y = stream.step(x_t).copy()
        >>> stream.state = h, c  # back to the state before the step
        >>> bool((stream.step(x_t) == y).all())
        True
        """
        return self._joined(self._stepper.h), self._joined(self._stepper.c)

    @state.setter
    def state(self, hx: tuple[Any, Any]) -> None:
        options = self._options
        h, c, _ = check_triple("state", ("h", "c", "s"), hx, False)
        arrays = state_arrays("h", h, options) | state_arrays("c", c, options)
        check_arrays("the stream", self._backend, self._dtype, **arrays)
        read = [
            read_state(name, value, axes, options, self._layout, self._dtype)
            for name, value, axes in zip(("h", "c"), (h, c), options.state_axes, strict=True)
        ]
        for into, layers in zip((self._stepper.h, self._stepper.c), read, strict=True):
            for layer, array in enumerate(into):
                array[...] = layers[layer][0].astype(array.dtype)

    def _joined(self, arrays: list[Array]) -> Any:
        parts = [[array.astype(self._dtype)] for array in arrays]  # c may be kept in a wider type
        return user_state(stack_layers(parts, self._options, self._layout), self._options, self._layout)

    def __repr__(self) -> str:
        return f"Stream(input {self._shape} -> output {self._y.shape}, engine {self.engine.name!r})"


def check_streams(options: Options) -> None:
    """Raise for a layer that cannot run one step after the other, naming the option."""
    for happens, what in (
        (options.directions == 2, "bidirectional=True reads the sequence from its end"),
        (options.wiring.reverse == (True,), "reverse=True reads the sequence from its end"),
        (options.transform is not None, "hidden_transform may read a context: call the layer step by step"),
        (
            options.steps_outside,
            "recurrent_size without hidden_transform has its recurrent input from the caller",
        ),
    ):
        if happens:
            raise ArgumentError(f"stream: {what}")
