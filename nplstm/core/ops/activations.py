"""The activation functions that ONNX lists for its recurrent operators, each with its derivative.

====================  ================================  ======================
name                  y                                 defaults
====================  ================================  ======================
``Sigmoid``           1 / (1 + exp(-a))
``Tanh``              tanh(a)
``Relu``              max(a, 0)
``Affine``            alpha a + beta                    alpha 1, beta 0
``LeakyRelu``         a if a >= 0 else alpha a          alpha 0.01
``ThresholdedRelu``   a if a >= alpha else 0            alpha 1
``ScaledTanh``        alpha tanh(beta a)                alpha 1, beta 1
``HardSigmoid``       min(max(alpha a + beta, 0), 1)    alpha 0.2, beta 0.5
``Elu``               a if a >= 0 else alpha (e^a - 1)  alpha 1
``Softsign``          a / (1 + abs(a))
``Softplus``          log(1 + e^a)
====================  ================================  ======================

ONNX gives ``ScaledTanh`` no defaults; 1 and 1 are nplstm's.

At a point where a function has no derivative, that of the flatter side is taken; for ``LeakyRelu`` and ``Elu``, at
a = 0, it is 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from nplstm._shapes import check_number
from nplstm._typing import Array
from nplstm.backends import namespace
from nplstm.errors import ArgumentError

__all__ = ["Activation", "as_activation", "sigmoid_backward", "sigmoid_forward", "tanh_backward"]


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


@dataclass(frozen=True)
class Activation:
    """One of ONNX's activation functions, with its constants.

    Parameters
    ----------
    name : str
        From the table above; case and underscores do not matter ("hard_sigmoid", "HardSigmoid").
    alpha, beta : float, optional
        For the functions that have them; by default the value in the table.

    Raises
    ------
    ArgumentError
        If there is no such function, or a constant is given that it does not have.

    Examples
    --------
    >>> import nplstm
    >>> nplstm.Activation("leaky_relu", alpha=0.2)
    Activation('LeakyRelu', alpha=0.2)
    """

    name: str
    alpha: float | None = None
    beta: float | None = None

    def __post_init__(self) -> None:
        name = _BY_KEY.get(self.name.lower().replace("_", "")) if isinstance(self.name, str) else None
        if name is None:
            raise ArgumentError(f"activation: expected one of {', '.join(_FUNCTIONS)}, got {self.name!r}")
        object.__setattr__(self, "name", name)
        for constant in ("alpha", "beta"):
            default, value = getattr(_FUNCTIONS[name], constant), getattr(self, constant)
            if value is not None and default is None:
                raise ArgumentError(f"{constant}: the activation {name} has none, got {value!r}")
            if value is not None:
                value = check_number(f"{constant} of {name}", value, finite=True)
            object.__setattr__(self, constant, default if value is None else value)

    def __repr__(self) -> str:
        constants = [f", {k}={v!r}" for k in ("alpha", "beta") if (v := getattr(self, k)) is not None]
        return f"Activation({self.name!r}{''.join(constants)})"

    @property
    def reads_input(self) -> bool:
        """Whether ``backward`` needs the input; for sigmoid and tanh the output is enough.

        Examples
        --------
        >>> import nplstm
        >>> nplstm.Activation("Tanh").reads_input, nplstm.Activation("Relu").reads_input
        (False, True)
        """
        return self.name not in {"Sigmoid", "Tanh"}

    def forward(self, a: Array, out: Array) -> Array:
        """Write y, shaped like ``a``, into ``out`` and return it; ``out`` may be ``a`` unless ``reads_input``.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> a = np.array([-1.0, 2.0])
        >>> nplstm.Activation("Relu").forward(a, out=np.empty_like(a))
        array([0., 2.])
        """
        if self.name == "Sigmoid":
            return sigmoid_forward(a, out)
        if self.name == "Tanh":
            return namespace(a).tanh(a, out=out)
        out[...] = _FUNCTIONS[self.name].forward(namespace(a), a, self)
        return out

    def backward(self, grad_y: Array, a: Array | None, y: Array) -> Array:
        """Return d loss / d a from d loss / d y; ``a`` may be None unless ``reads_input``.

        Examples
        --------
        >>> import numpy as np, nplstm
        >>> a, y = np.array([-1.0, 2.0]), np.array([0.0, 2.0])
        >>> nplstm.Activation("Relu").backward(np.ones(2), a, y)
        array([0., 1.])
        """
        if self.name == "Sigmoid":
            return sigmoid_backward(grad_y, y)
        if self.name == "Tanh":
            return tanh_backward(grad_y, y)
        return grad_y * _FUNCTIONS[self.name].slope(namespace(y), a, self)


def as_activation(argument: str, value: Any) -> Activation:
    """Return an Activation from one, from a name, or from a (name, alpha) or (name, alpha, beta)."""
    if isinstance(value, Activation):
        return value
    try:
        return Activation(value) if isinstance(value, str) else Activation(*value)
    except (TypeError, ArgumentError) as error:
        raise ArgumentError(
            f"{argument}: {error}"
            if isinstance(error, ArgumentError)
            else f"{argument}: expected an activation or its name, got {value!r}"
        ) from error


class _Function(NamedTuple):
    forward: Callable[[Any, Any, Any], Any]  # (xp, a, constants) -> y
    slope: Callable[[Any, Any, Any], Any]  # (xp, a, constants) -> dy/da
    alpha: float | None = None  # its default; None where the function has no such constant
    beta: float | None = None


def _in_activation(xp: Any, a: Any, k: Activation) -> Any:
    raise AssertionError("Activation.forward and backward compute this function themselves")


def _relu(xp: Any, a: Any, k: Activation) -> Any:
    return xp.maximum(a, 0.0)


def _relu_slope(xp: Any, a: Any, k: Activation) -> Any:
    return a > 0


def _affine(xp: Any, a: Any, k: Activation) -> Any:
    return k.alpha * a + k.beta


def _affine_slope(xp: Any, a: Any, k: Activation) -> Any:
    return k.alpha


def _leaky_relu(xp: Any, a: Any, k: Activation) -> Any:
    return xp.where(a >= 0, a, k.alpha * a)


def _leaky_relu_slope(xp: Any, a: Any, k: Activation) -> Any:
    return (a >= 0) + k.alpha * (a < 0).astype(a.dtype)


def _thresholded_relu(xp: Any, a: Any, k: Activation) -> Any:
    return xp.where(a >= k.alpha, a, 0.0)


def _thresholded_relu_slope(xp: Any, a: Any, k: Activation) -> Any:
    return a > k.alpha


def _scaled_tanh(xp: Any, a: Any, k: Activation) -> Any:
    return k.alpha * xp.tanh(k.beta * a)


def _scaled_tanh_slope(xp: Any, a: Any, k: Activation) -> Any:
    tanh = xp.tanh(k.beta * a)
    return k.alpha * (k.beta * (1 - tanh * tanh))


def _hard_sigmoid(xp: Any, a: Any, k: Activation) -> Any:
    return xp.clip(k.alpha * a + k.beta, 0.0, 1.0)


def _hard_sigmoid_slope(xp: Any, a: Any, k: Activation) -> Any:
    line = k.alpha * a + k.beta
    return k.alpha * ((line > 0) & (line < 1)).astype(a.dtype)


def _elu(xp: Any, a: Any, k: Activation) -> Any:
    # exp of negative values only: it cannot overflow
    return xp.where(a >= 0, a, k.alpha * xp.expm1(xp.minimum(a, 0.0)))


def _elu_slope(xp: Any, a: Any, k: Activation) -> Any:
    return xp.where(a >= 0, 1.0, k.alpha * xp.exp(xp.minimum(a, 0.0)))


def _softsign(xp: Any, a: Any, k: Activation) -> Any:
    return a / (1 + xp.abs(a))


def _softsign_slope(xp: Any, a: Any, k: Activation) -> Any:
    return 1 / (1 + xp.abs(a)) ** 2


def _softplus(xp: Any, a: Any, k: Activation) -> Any:
    return xp.maximum(a, 0.0) + xp.log1p(xp.exp(-xp.abs(a)))


def _softplus_slope(xp: Any, a: Any, k: Activation) -> Any:
    return sigmoid_forward(a, xp.empty_like(a))


_FUNCTIONS = {
    "Relu": _Function(_relu, _relu_slope),
    "Tanh": _Function(_in_activation, _in_activation),
    "Sigmoid": _Function(_in_activation, _in_activation),
    "Affine": _Function(_affine, _affine_slope, alpha=1.0, beta=0.0),
    "LeakyRelu": _Function(_leaky_relu, _leaky_relu_slope, alpha=0.01),
    "ThresholdedRelu": _Function(_thresholded_relu, _thresholded_relu_slope, alpha=1.0),
    "ScaledTanh": _Function(_scaled_tanh, _scaled_tanh_slope, alpha=1.0, beta=1.0),
    "HardSigmoid": _Function(_hard_sigmoid, _hard_sigmoid_slope, alpha=0.2, beta=0.5),
    "Elu": _Function(_elu, _elu_slope, alpha=1.0),
    "Softsign": _Function(_softsign, _softsign_slope),
    "Softplus": _Function(_softplus, _softplus_slope),
}
_BY_KEY = {name.lower(): name for name in _FUNCTIONS}
