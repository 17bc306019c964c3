"""``Linear``: the affine layer, as ``torch.nn.Linear``."""

from typing import Any, NamedTuple

from nplstm._shapes import check_flag, check_shape, check_size
from nplstm._typing import Array, DTypeLike
from nplstm.backends import backend_of, check_arrays
from nplstm.core.initialisers import ParameterSpec
from nplstm.core.module import Module
from nplstm.core.ops.linear import linear_backward, linear_forward
from nplstm.core.params import Parameters
from nplstm.errors import ShapeError

__all__ = ["LayerGradients", "Linear", "LinearTape"]


class LayerGradients(NamedTuple):
    """Gradients of a layer without state; ``input`` is None where the input is not differentiable."""

    input: Array | None
    parameters: Parameters


class Linear(Module):
    """``y = x @ weight.T + bias``.

    Parameters
    ----------
    in_features, out_features : int
        Width of the input and of the output.
    bias : bool
        Whether there is a bias.
    backend, dtype, rng
        As for ``LSTM``. ``weight`` (out, in) and ``bias`` (out,) start from U(-1/sqrt(in), 1/sqrt(in)).

    Raises
    ------
    ArgumentError, DTypeError, BackendUnavailableError
        For the same reasons as from ``LSTM``.

    Examples
    --------
    >>> import numpy as np, nplstm
    >>> head = nplstm.Linear(20, 5, rng=0)
    >>> tape = head.record(np.ones((7, 3, 20), dtype=np.float32))
    >>> tape.output.shape
    (7, 3, 5)
    >>> tape.backward(np.ones_like(tape.output)).input.shape
    (7, 3, 20)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        backend: str = "numpy",
        dtype: DTypeLike = "float32",
        rng: Any = None,
    ) -> None:
        super().__init__(backend=backend, dtype=dtype)
        self.in_features = check_size("in_features", in_features)
        self.out_features = check_size("out_features", out_features)
        self.bias = check_flag("bias", bias)
        self.reset_parameters(rng)

    def __repr__(self) -> str:
        bias = "" if self.bias else ", bias=False"
        return f"Linear({self.in_features}, {self.out_features}{bias}{self._placement()})"

    def reset_parameters(self, rng: Any = None) -> None:
        """Draw all parameters anew from U(-1/sqrt(in), 1/sqrt(in)); ``rng`` is a seed, a NumPy generator or None.

        >>> import nplstm
        >>> head = nplstm.Linear(4, 2)
        >>> head.reset_parameters(rng=0)
        >>> float(abs(head.parameters["weight"]).max()) <= 4**-0.5
        True
        """
        bound = self.in_features**-0.5
        starts: dict[str, ParameterSpec] = {
            "weight": ParameterSpec("uniform", (self.out_features, self.in_features), bound)
        }
        if self.bias:
            starts["bias"] = ParameterSpec("uniform", (self.out_features,), bound)
        self._draw_parameters(starts, rng)

    def __call__(self, input: Array) -> Array:
        """Map ``input`` (..., in) to (..., out); nothing is stored.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            If the input's last axis, element type or backend is not the layer's.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> nplstm.Linear(4, 2)(np.ones((7, 3, 4), np.float32)).shape
        (7, 3, 2)
        """
        check_arrays("the Linear layer", self._backend, self._dtype, input=input)
        if input.ndim == 0 or input.shape[-1] != self.in_features:
            raise ShapeError(f"input: expected shape (..., in_features={self.in_features}), got {input.shape}")
        rows = input.reshape(input.size // self.in_features, self.in_features)
        y = linear_forward(rows, self._parameters["weight"], self._parameters.get("bias"))
        return y.reshape(*input.shape[:-1], self.out_features)

    def record(self, input: Array) -> "LinearTape":
        """Map ``input`` and store what ``backward`` needs: a copy of it, and the weight.

        >>> import numpy as np, nplstm
        >>> nplstm.Linear(4, 2).record(np.ones((3, 4), np.float32)).output.shape
        (3, 2)
        """
        return LinearTape(self, input)


class LinearTape:
    """A recorded call of a ``Linear``.

    Attributes
    ----------
    output : Array, shape (..., out)
    """

    def __init__(self, layer: Linear, input: Array) -> None:
        self.output = layer(input)
        self._x = input.copy()
        self._weight = layer.parameters["weight"]
        self._bias = layer.bias

    def backward(self, grad_output: Array) -> LayerGradients:
        """Return the gradients; may be called more than once.

        Parameters
        ----------
        grad_output : Array, shaped like ``output``
            d loss / d output.

        Raises
        ------
        ShapeError, DTypeError, BackendError
            If ``grad_output`` does not match ``output``.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> tape = nplstm.Linear(4, 2).record(np.ones((3, 4), np.float32))
        >>> grads = tape.backward(np.ones((3, 2), np.float32))
        >>> grads.input.shape, grads.parameters["weight"].shape, grads.parameters["bias"]
        ((3, 4), (2, 4), array([3., 3.], dtype=float32))
        """
        backend = backend_of(self.output)
        check_arrays("the Linear layer", backend, self.output.dtype, grad_output=grad_output)
        check_shape("grad_output", grad_output.shape, [(str(n), n) for n in self.output.shape])
        out_features, in_features = self._weight.shape
        rows = grad_output.reshape(grad_output.size // out_features, out_features)
        x = self._x.reshape(len(rows), in_features)
        grads = linear_backward(rows, x, self._weight, bias=self._bias)
        named = {"weight": grads.weight} | ({} if grads.bias is None else {"bias": grads.bias})
        return LayerGradients(grads.x.reshape(self._x.shape), Parameters(named, copy=False))
